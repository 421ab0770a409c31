"""A control branch: a copy of a UNet's encoder whose answers are added to what the decoder is given. torch only.

DuMo (Han et al., arXiv 2501.01125). With s_i what block i of the encoder hands on to the decoder, B_i the answer of the
branch to the same latents and text, and tau a table over time and layers::

    s_i <- s_i + tau[time, i] B_i(z_t, c, t)

The network's own encoder sees nothing of it. A *text gate* decides for each row whether the branch is asked at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import nn

from ..artifact import Probe
from ..texts.names import quoted
from ..verdict import Finding
from .gate import GateTensors, is_open
from .part import Holder, Learner, Part

if TYPE_CHECKING:
    from ..families.family import Family

TIMES, WHOLE = 20, 1000
"""Rows of the table, as published, and the timesteps that they share, of which 0 is the picture."""


@dataclass(frozen=True)
class Branch(Part):
    """A control branch at rest.

    ``weights``: of the copy and of the layers behind it, by their names there. ``table`` [TIMES, layers]: the first row
    is for the end of sampling. ``gate``: None lets the branch act on every text. ``network``: the copy itself, where it
    is on a MODEL or learns.
    """

    weights: Mapping[str, torch.Tensor]
    table: torch.Tensor
    gate: GateTensors | None = None
    role: str = "eraser"
    network: nn.Module | None = field(default=None, compare=False, repr=False)

    kind: ClassVar[str] = "branch"
    noun = "a control branch"

    def tensors(self) -> dict[str, torch.Tensor]:
        out = {"table": self.table, **{f"weights.{name}": tensor for name, tensor in self.weights.items()}}
        if self.gate is not None:
            out |= {"gate.direction": self.gate.direction, "gate.centre": self.gate.centre}
        return out

    def facts(self) -> dict[str, Any]:
        return {"threshold": None if self.gate is None else self.gate.threshold}

    @classmethod
    def read(cls, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> Branch:
        gate = None
        if facts["threshold"] is not None:
            gate = GateTensors(tensors["gate.direction"], tensors["gate.centre"], float(facts["threshold"]))
        own = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
        if not own or tensors["table"].ndim != 2:
            raise ValueError(f"{len(own)}, {tuple(tensors['table'].shape)}")
        return cls(own, tensors["table"], gate)

    def attach(self, holder: Holder) -> None:
        holder.join_runs(holder.with_network(self))

    def join(self, options: dict, family: Family, strength: float, is_active: Callable[[dict], bool]) -> None:
        family.join_branch(options, self, strength, is_active)

    def acts_on(self, probe: Probe) -> bool:
        return bool(is_open(probe.source[None], self.gate)[0])

    def findings(self, probes: Sequence[Probe]) -> list[Finding]:
        """Whether the gate opens for the concepts: closed, it leaves them alone."""
        moving = [probe for probe in probes if probe.goal is not None]
        if self.gate is None or not moving:
            return []
        closed = [probe.text for probe in moving if not self.acts_on(probe)]
        if closed:
            words = quoted(closed[:3])
            return [Finding("✗", f"The control branch does not act on {words}: its text gate stays closed.")]
        names = quoted([probe.text for probe in moving][:3])
        return [Finding("✓", f"The control branch acts on prompts for {names}.")]

    def scales(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Rows of the table, [b, layers], for the network's own timesteps [b]."""
        return self.table.to(timesteps.device)[(timesteps * (TIMES / WHOLE)).long().clamp(0, TIMES - 1)]


class BranchLearner(Learner):
    """A control branch that learns: a copy of the encoder, what is behind it, and the table, in float32.

    While it learns it acts on every text, so that it keeps the others by itself; the ``gate`` is for what it becomes.
    """

    name = "branch"
    role = "eraser"

    def __init__(self, network: nn.Module, gate: GateTensors | None):
        super().__init__()
        self.network, self.gate = network, gate
        self.table = nn.Parameter(torch.ones(TIMES, cast("Any", network).layers))

    def now(self) -> Branch:
        return Branch({}, self.table, None, network=self.network)

    def at_rest(self) -> Branch:
        weights = {name: p.detach().cpu().half() for name, p in self.network.state_dict().items()}
        return Branch(weights, self.table.detach().cpu().clone(), self.gate)

    @torch.no_grad()
    def start_from(self, branch: Branch) -> None:
        """Goes on from a branch that has learned."""
        self.network.load_state_dict({name: t.float() for name, t in branch.weights.items()})
        self.table.copy_(branch.table)

    def groups(self, rate: float, width: int, table_rate: float) -> list[dict]:
        """What Adam trains and how fast: matrices and kernels at ``rate`` for ``width`` inputs; the table."""
        groups: list[dict] = [{"params": [self.table], "lr": table_rate}]
        for parameter in self.network.parameters():
            share = width / parameter[0].numel() if width and parameter.ndim > 1 else 1.0
            groups.append({"params": [parameter], "lr": rate * min(1.0, share)})
        return groups
