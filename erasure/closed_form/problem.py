"""What every closed-form method is asked, and what it may be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from .textmap import Moves


@dataclass(frozen=True)
class Scales:
    """``ridge`` is relative to the mean square of a preserved encoding's entries: it means the same for every encoder.

    ``balance``: how often the concepts' neighbours, and many concepts, are weighed by what the edit does to them.
    ``rounds``: how often RECE looks for what revives the concept. ``threshold``: SPEED's, below which an eigenvalue of
    the preserved encodings' covariance counts as null, relative like ``ridge`` (published: about 0.1).
    """

    erase: float = 1.0
    preserve: float = 3.0
    ridge: float = 1e-4
    balance: int = 3
    rounds: int = 1
    threshold: float = 1.0


@dataclass(frozen=True)
class Problem:
    """``moves``: the encodings of ``concepts`` concepts and where they go. ``kept``: the mean of p p^T over encodings
    to preserve, [d, d], ``near``: the part of it that comes from each neighbour of the concepts, [d, d] each, and
    ``some``: some of the encodings to preserve, [m, d].

    ``front``: the same as ``moves``, of ``erased`` names that closed forms in front have erased. ``still``: the sum of
    the means of h h^T over the encodings of ``fixed`` names that were erased in other ways, [d, d].

    ``empty``: those of the empty prompt, [k, d]. ``gram()``: the sum of W^T W over the edited projections, [d, d].
    Weights are means within a concept and within the preserve set, so that neither counts for more because more of its
    texts were listed.
    """

    moves: Moves
    concepts: int
    kept: torch.Tensor
    near: Sequence[torch.Tensor]
    some: torch.Tensor
    empty: torch.Tensor
    gram: Callable[[], torch.Tensor]
    front: Moves | None = None
    erased: int = 0
    still: torch.Tensor | None = None
    fixed: int = 0

    def holding(self, scales: Scales) -> Problem:
        """The problem in which what was erased before is preserved, each name as firmly as one is erased."""
        held = self.held
        if held is None:
            return self
        weight = scales.erase / (self.concepts * scales.preserve) if scales.preserve else 0.0
        return replace(self, kept=self.kept + weight * held)

    @property
    def held(self) -> torch.Tensor | None:
        """The moment of all names that were erased before, [d, d]; None without any."""
        moments = [*([self.front.moment] if self.front else []), *([] if self.still is None else [self.still])]
        return sum(moments[1:], moments[0]) if moments else None

    @property
    def all_erased(self) -> int:
        """How many names are erased now or were before."""
        return self.concepts + self.erased + self.fixed

    def preserved(self, scales: Scales) -> torch.Tensor:
        """ridge I + the mean of p p^T over the preserve set, [d, d]: what every system starts from.

        It grows with the number of concepts, as the erased side does.
        """
        identity = torch.eye(len(self.kept)).to(self.kept)
        return self.concepts * scales.preserve * self.kept + scales.ridge * self.unit * identity

    @property
    def unit(self) -> torch.Tensor:
        """The mean square of a preserved encoding's entries."""
        return self.kept.diagonal().mean()


def together(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Moves:
    """One concept's encodings and where they go, [n, d] each, and the next one's, under the roots of their weights."""
    counts = tuple(len(source) for source, _ in pairs)
    weights = torch.cat([torch.full((count, 1), count**-0.5) for count in counts])
    source, target = (torch.cat(side).mul_(weights.to(side[0])) for side in zip(*pairs, strict=True))
    return Moves(source, target, counts)
