"""The erasure prompt: its parameters, how they start, where they attach and when they act. torch only.

KPOP (arXiv 2403.12326) appends learnable tokens to the text context of cross-attention before its projections::

    K = W_K [c ; p_K],   V = W_V [c ; p_V],   out = softmax(Q K^T / sqrt(d)) V

Here a *text gate* may decide per row of the batch whether they are there at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from ..artifact import Change, ErasureError, LowRank, Probe
from ..texts.names import quoted
from ..verdict import Finding
from .delta import DeltaTensors, add
from .gate import GateTensors, is_open
from .part import NEWEST, ROLES, Holder, Learner, Part

if TYPE_CHECKING:
    from ..families.family import Family

BLOCKS = {"middle": ("middle",), "middle+output": ("middle", "output"), "all": ("input", "middle", "output")}
"""Where an erasure prompt joins: choice -> parts of the network, after the paper's mid, midout and inmidout."""
STARTS = ("concept", "empty prompt", "noise")
UNDOES = "undoes."


@dataclass(frozen=True)
class PromptTensors(Part):
    """An erasure prompt at rest.

    ``keys``, ``values``: [k, d]. ``blocks``: one of ``BLOCKS``. ``chunk``: tokens of one text chunk (77 for CLIP), the
    unit in which the prompt repeats when the host pads a conditioning by repetition. ``gate``: None lets the prompt act
    on every text. ``pooled`` [d']: what is added to the pooled text, where a network reads one. ``turn`` [d, d]: what a
    key adds to each of the text's own tokens c, as ``turn @ c``; where a text that is said twice reads the same, its
    keys and values are then added to a second copy of these tokens, so that zeros change nothing. With no tokens
    (k = 0) the turn is all: a closed form behind a gate. ``pooled_turn`` [d', d']: the same of the pooled text.
    ``undoes``: the changes of the weights that the turn of a key makes up for, by the weights' names, where its erasure
    holds others' changes as well.
    """

    keys: torch.Tensor
    values: torch.Tensor
    blocks: str
    role: str = field()
    chunk: int
    gate: GateTensors | None = None
    pooled: torch.Tensor | None = None
    turn: LowRank | None = None
    pooled_turn: LowRank | None = None
    undoes: Mapping[str, Change] = field(default_factory=dict)

    kind: ClassVar[str] = "prompt"

    @property
    def noun(self) -> str:
        if self.is_turn:
            return "a change of the text behind a gate"
        return "a key" if self.role == "key" else "an eraser prompt"

    @property
    def is_turn(self) -> bool:
        """Whether it has no tokens of its own."""
        return not len(self.keys)

    @property
    def turns_back(self) -> bool:
        """Whether it is a key that turns a text's own tokens."""
        return self.role == "key" and self.turn is not None

    @property
    def version(self) -> str:
        """The first that holds what it has: the newest for what is added to the text's own tokens, 3 for what is added
        to the pooled text, 2 for a gate of several directions."""
        if self.turn is not None:
            return NEWEST
        if self.pooled is not None:
            return "3"
        return "2" if self.gate is not None and self.gate.direction.ndim > 1 else "1"

    def tensors(self) -> dict[str, torch.Tensor]:
        out = {"keys": self.keys, "values": self.values}
        if self.gate is not None:
            out |= {"gate.direction": self.gate.direction, "gate.centre": self.gate.centre}
        if self.turn is not None:
            out |= {"turn.up": self.turn.up, "turn.down": self.turn.down}
        if self.pooled_turn is not None:
            out |= {"pooled_turn.up": self.pooled_turn.up, "pooled_turn.down": self.pooled_turn.down}
        out |= {f"{UNDOES}{name}": tensor for name, tensor in DeltaTensors(self.undoes).tensors().items()}
        return out if self.pooled is None else {**out, "pooled": self.pooled}

    def learned(self) -> dict[str, torch.Tensor]:
        solved = () if self.is_turn else ("turn.", UNDOES)
        return {name: tensor for name, tensor in self.tensors().items() if not name.startswith(solved)}

    def facts(self) -> dict[str, Any]:
        threshold = None if self.gate is None else self.gate.threshold
        return {"blocks": self.blocks, "role": self.role, "chunk": self.chunk, "threshold": threshold}

    @classmethod
    def read(cls, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> PromptTensors:
        if facts["blocks"] not in BLOCKS or facts["role"] not in ROLES:
            raise ValueError(f"{facts['blocks']}, {facts['role']}")
        gate = None
        if facts["threshold"] is not None:
            gate = GateTensors(tensors["gate.direction"], tensors["gate.centre"], float(facts["threshold"]))
        turn, pooled_turn = (
            LowRank(tensors[f"{name}.up"], tensors[f"{name}.down"]) if f"{name}.up" in tensors else None
            for name in ("turn", "pooled_turn")
        )
        if pooled_turn is not None and pooled_turn.up.shape[0] != pooled_turn.down.shape[1]:
            raise ValueError(f"{pooled_turn.up.shape}, {pooled_turn.down.shape}")
        own = tensors["keys"], tensors["values"]
        if turn is not None and (turn.up.shape[0], turn.down.shape[1]) != (own[0].shape[1],) * 2:
            raise ValueError(f"{turn.up.shape}, {turn.down.shape}")
        undoes = {name.removeprefix(UNDOES): one for name, one in tensors.items() if name.startswith(UNDOES)}
        return cls(
            *own, facts["blocks"], facts["role"], facts["chunk"], gate, tensors.get("pooled"), turn, pooled_turn,
            DeltaTensors.read(undoes, {}).by_weight,
        )  # fmt: skip

    def turned(self, context: torch.Tensor, amount: torch.Tensor | float = 1.0) -> torch.Tensor:
        """The text's own tokens [b, n, d] as a run reads them with the prompt; ``amount`` [b, 1, 1]: how much of it."""
        return _turned(context, self.turn, amount)

    def pooled_turned(self, pooled: torch.Tensor, amount: torch.Tensor | float = 1.0) -> torch.Tensor:
        """The same of the pooled text [b, d'], of which a network may be given more behind it; ``amount`` [b, 1]."""
        if self.pooled_turn is None or pooled.shape[-1] < (width := self.pooled_turn.down.shape[1]):
            return pooled
        return torch.cat([_turned(pooled[:, :width], self.pooled_turn, amount), pooled[:, width:]], 1)

    def attach(self, holder: Holder) -> None:
        holder.require_blocks(self.blocks)
        holder.join_runs(self)

    def join(self, options: dict, family: Family, strength: float, is_active: Callable[[dict], bool]) -> None:
        family.join_prompt(options, self, strength, is_active)

    @classmethod
    def combined(cls, parts: Sequence[tuple[PromptTensors, float]]) -> list[PromptTensors]:
        """Side by side; those without tokens at their weights, and each key for the changes at their weights."""
        return [
            replace(part, turn=_times(part.turn, weight), pooled_turn=_times(part.pooled_turn, weight))
            if part.is_turn and weight != 1
            else replace(part, undoes={name: add([(change, weight)]) for name, change in part.undoes.items()})
            for part, weight in parts
        ]

    def acts_on(self, probe: Probe) -> bool:
        return bool(is_open(probe.source[None], self.gate)[0])

    def findings(self, probes: Sequence[Probe]) -> list[Finding]:
        """Whether an eraser acts on the concepts: a closed gate leaves them alone."""
        moving = [probe for probe in probes if probe.goal is not None]
        if self.role == "key" or self.gate is None or not moving or self.is_turn:
            return []  # where a text turns is judged with the changes of weights
        closed = [probe.text for probe in moving if not self.acts_on(probe)]
        if closed:
            words = quoted(closed[:3])
            return [Finding("✗", f"The erasure prompt does not act on {words}: its text gate stays closed.")]
        names = quoted([probe.text for probe in moving][:3])
        return [Finding("✓", f"The erasure prompt acts on prompts for {names}.")]


def _times(turn: LowRank | None, weight: float) -> LowRank | None:
    return turn and LowRank(weight * turn.up, turn.down)


def _turned(rows: torch.Tensor, turn: LowRank | None, amount: torch.Tensor | float) -> torch.Tensor:
    """Rows [..., d] with so much of a turn added; those of which it is 0 are the same to the bit."""
    if turn is None:
        return rows
    up, down = turn.up.to(rows.device, torch.float32), turn.down.to(rows.device, torch.float32)
    return (rows.float() + rows.float() @ down.T @ up.T * amount).to(rows.dtype)


class ErasurePrompt(nn.Module):
    """Learnable keys and values, each [k, d], in float32 whatever the model computes in; and what is added to the
    ``pooled`` text [d'], of networks that read one."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, pooled: torch.Tensor | None = None):
        super().__init__()
        self.pooled = None if pooled is None else nn.Parameter(pooled.detach().float().clone())
        self.keys = nn.Parameter(keys.detach().float().clone())
        self.values = nn.Parameter(values.detach().float().clone())

    @classmethod
    def start(
        cls, kind: str, tokens: int, concept: torch.Tensor, empty: torch.Tensor, generator: torch.Generator,
        pooled: int = 0,
    ) -> ErasurePrompt:  # fmt: skip
        """A fresh prompt of ``tokens`` keys and values.

        ``concept`` [t, d]: the concept's own token encodings; ``empty`` [n, d]: the empty prompt's. The first is
        repeated, the second cut, to the wanted number. ``noise`` draws around zero with the concept's own spread.
        ``pooled``: the width of the pooled text, 0 for none; what is added to it starts at zero.
        """
        if kind == "concept":
            first = concept[torch.arange(tokens) % len(concept)]
        elif kind == "empty prompt":
            first = empty[torch.arange(1, tokens + 1) % len(empty)]
        elif kind == "noise":
            first = torch.randn(tokens, concept.shape[-1], generator=generator) * concept.float().std()
        else:
            raise ErasureError(f"'{kind}' is no way to start a prompt: choose one of {', '.join(STARTS)}.")
        jitter = 0.01 * concept.float().std() * torch.randn(tokens, concept.shape[-1], generator=generator)
        return cls(first.float() + jitter, first.float() + jitter, torch.zeros(pooled) if pooled else None)

    @torch.no_grad()
    def begin_with(self, tokens: torch.Tensor) -> None:
        """Starts from these keys and values, [k, d]."""
        for parameter in (self.keys, self.values):
            parameter.copy_(tokens[torch.arange(len(parameter)) % len(tokens)])

    def attached(self, blocks: str, role: str, chunk: int, gate: GateTensors | None) -> PromptTensors:
        """The prompt as a part whose keys and values learn."""
        return PromptTensors(self.keys, self.values, blocks, role, chunk, gate, self.pooled)


class PromptLearner(Learner):
    """An erasure prompt that learns, ``attached`` to runs as that part is."""

    name = "prompt"

    def __init__(self, prompt: ErasurePrompt, attached: PromptTensors):
        super().__init__()
        self.prompt, self.attached = prompt, attached
        self.turning: Callable[[Mapping[str, Change]], LowRank] | None = None

    def keep_up(self, change: Mapping[str, Change]) -> None:
        """Solves anew for what is added to a text's own tokens, with the weights changed as they are now."""
        if self.turning is not None:
            self.attached = replace(self.attached, turn=self.turning(change))

    @property
    def role(self) -> str:  # type: ignore[override]
        return self.attached.role

    def now(self) -> PromptTensors:
        prompt = self.prompt
        return replace(self.attached, keys=prompt.keys, values=prompt.values, pooled=prompt.pooled)

    def at_rest(self) -> PromptTensors:
        keys, values = (p.detach().cpu().clone() for p in (self.prompt.keys, self.prompt.values))
        pooled = None if self.prompt.pooled is None else self.prompt.pooled.detach().cpu().clone()
        return replace(self.attached, keys=keys, values=values, pooled=pooled)


def extend(
    context: torch.Tensor, value: torch.Tensor, prompt: PromptTensors, rows: torch.Tensor,
    strength: float | torch.Tensor = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Contexts for K and V with the prompt appended: [b, n, d] -> [b, n + m, d].

    Without a gate, m = k tokens for every whole chunk of the context, as the paper has it for one chunk; the host
    pads by repeating chunks, which multiplies all keys alike and so changes nothing.

    With a gate, m = n: open rows get the prompt, repeated to fill each chunk; closed rows get a copy of their own
    context, which doubles every softmax term and leaves the result as it was. ``strength`` moves an open row
    linearly from that copy (0, no effect) to the prompt (1, as learned). With a turn, an open row's own tokens are
    turned, and its prompt is a copy of these with the learned tokens added; without tokens, m = 0.
    """
    if prompt.is_turn:
        amount = rows.to(context.dtype)[:, None, None] * strength
        return prompt.turned(context, amount), prompt.turned(value, amount)
    n, is_turned = context.shape[1], prompt.turn is not None
    index = _token_order(len(prompt.keys), n, prompt.chunk, prompt.gate is not None or is_turned).to(context.device)
    own = torch.arange(len(index), device=context.device) % n
    amount = rows.to(context.dtype)[:, None, None] * strength
    added = []
    for base, tokens in ((context, prompt.keys), (value, prompt.values)):
        base = prompt.turned(base, amount)
        copy, tokens = base[:, own], tokens.to(base.device, base.dtype)[index]
        other = copy + tokens if is_turned else tokens.expand_as(copy)
        added.append(torch.cat([base, torch.lerp(copy, other, amount.expand_as(copy))], dim=1))
    return added[0], added[1]


def _token_order(k: int, n: int, chunk: int, in_every_place: bool) -> torch.Tensor:
    """Which prompt token stands at each appended place."""
    if not in_every_place:
        return torch.arange(k).repeat(max(1, n // chunk))
    return torch.arange(n) % chunk % k
