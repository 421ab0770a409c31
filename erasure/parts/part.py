"""What a part of an erasure has to say of itself, so that everything else works with it. torch only.

A kind of part is one file beside this one and a line in ``PARTS``. It is a frozen dataclass of tensors and facts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import nn

from ..artifact import Change, Probe
from ..protocols import Model
from ..verdict import Finding

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..families.family import Family
    from .branch import Branch

ROLES = ("eraser", "key")
"""What a part is for: it erases, or it brings back what the others erase."""
NEWEST = "4"
"""The version of files that say of each part which kind it is."""


class Holder(Protocol):
    """A MODEL that an erasure is being put on, at a strength and for a part of sampling; see ``host.attach``."""

    @property
    def model(self) -> Model:
        """The host's MODEL, a clone that is the holder's own."""

    def require_blocks(self, blocks: str) -> None:
        """Raises ErasureError when a prompt for these blocks would join nowhere."""

    def change_weights(self, changes: Mapping[str, Change]) -> None:
        """Adds the changes to the weights of these names. Raises ErasureError where there is no such weight."""

    def with_network(self, branch: Branch) -> Branch:
        """A control branch with its network, which the MODEL then has beside its own. Raises ErasureError where the
        MODEL is not made that way."""

    def join_runs(self, part: Part) -> None:
        """Has ``part.join`` called at the start of each run, after every patch of other nodes."""


class Learner(nn.Module):
    """A part in the making: what learns beside the weights.

    ``name``: by which phases of a training train it. ``role``: of the part, one of ``ROLES``.
    """

    name: ClassVar[str]
    role: str

    def now(self) -> Part:
        """The part as it stands while it learns, with gradients."""
        raise NotImplementedError

    def at_rest(self) -> Part:
        """The part as it stands now, as plain tensors for an ``Erasure``."""
        raise NotImplementedError

    def keep_up(self, change: Mapping[str, Change]) -> None:
        """Is told how the weights are changed by now, where something of the part depends on that."""


class Part:
    """One thing that an erasure is made of.

    ``kind``: its name in files. ``single``: an erasure has one of it at most, and combining merges them. ``role``: one
    of ``ROLES``.
    """

    kind: ClassVar[str]
    single: ClassVar[bool] = False
    role: str = ROLES[0]

    @property
    def noun(self) -> str:
        """What a person calls it, in a list of what an erasure holds."""
        raise NotImplementedError

    @property
    def version(self) -> str:
        """The first version of a file that can hold it."""
        return NEWEST

    # -- in a file

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its tensors, by their names in a file."""
        raise NotImplementedError

    def learned(self) -> dict[str, torch.Tensor]:
        """Those of its tensors that stay the same wherever it is put, by which it is known again."""
        return self.tensors()

    def facts(self) -> dict[str, Any]:
        """All else that a file keeps of it, fit for JSON; the role among it, where it is no eraser."""
        return {}

    @classmethod
    def read(cls, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> Self:
        """The inverse of both. Raises KeyError, ValueError or TypeError where something is missing or wrong."""
        raise NotImplementedError

    def bytes(self) -> int:
        """Size of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    # -- on a MODEL

    def changes(self) -> Mapping[str, Change]:
        """What it does to weights, by their names; the host saves and merges that, and a LoRA can hold it."""
        return {}

    def attach(self, holder: Holder) -> None:
        """Puts it onto a MODEL. Raises ErasureError where it does not fit."""
        holder.join_runs(self)

    def join(self, options: dict, family: Family, strength: float, is_active: Callable[[dict], bool]) -> None:
        """Takes part in a run with these transformer options; ``is_active(options)`` says whether it acts in a call."""
        raise NotImplementedError

    # -- with others, and in the verdict

    @classmethod
    def combined(cls, parts: Sequence[tuple[Self, float]]) -> Sequence[Self]:
        """Parts of its kind from several erasures, each with a weight, as those of one: side by side."""
        return [part for part, _ in parts]

    def acts_on(self, probe: Probe) -> bool:
        """Whether it acts on a text."""
        return True

    def findings(self, probes: Sequence[Probe]) -> list[Finding]:
        """What the verdict says of it by itself, from the encodings of texts that are to move, and of some that stay.
        How far changes of the weights move them is judged for all of these together."""
        return []
