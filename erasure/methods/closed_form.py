"""What every closed-form method is asked, and what it may be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from ..textmap import Moves


@dataclass(frozen=True)
class Scales:
    """``ridge`` is relative to the mean square of a preserved encoding's entries: it means the same for every encoder.

    ``rounds``: how often RECE looks for what revives the concept. ``threshold``: SPEED's, below which an eigenvalue of
    the preserved encodings' covariance counts as null, relative like ``ridge`` (published: about 0.1).
    """

    erase: float = 1.0
    preserve: float = 3.0
    ridge: float = 1e-4
    rounds: int = 1
    threshold: float = 1.0


@dataclass(frozen=True)
class Problem:
    """``pairs``: for each concept, encodings and where they go, [n, d] each. ``kept``: the mean of p p^T over encodings
    to preserve, [d, d], and ``some``: some of these encodings, [m, d].

    ``empty``: those of the empty prompt, [k, d]. ``gram()``: the sum of W^T W over the edited projections, [d, d].
    Weights are means within a concept and within the preserve set, so that neither counts for more because more of its
    texts were listed.
    """

    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]
    kept: torch.Tensor
    some: torch.Tensor
    empty: torch.Tensor
    gram: Callable[[], torch.Tensor]

    @cached_property
    def moves(self) -> Moves:
        """Sources and targets of all concepts, under the square roots of their weights."""
        weights = torch.cat([torch.full((len(source), 1), len(source) ** -0.5) for source, _ in self.pairs])
        rows = (torch.cat([pair[side] for pair in self.pairs]).mul_(weights.to(self.some)) for side in (0, 1))
        return Moves(*rows)

    def preserved(self, scales: Scales) -> torch.Tensor:
        """ridge I + the mean of p p^T over the preserve set, [d, d]: what every system starts from.

        It grows with the number of concepts, as the erased side does.
        """
        identity = torch.eye(len(self.kept)).to(self.kept)
        return len(self.pairs) * scales.preserve * self.kept + scales.ridge * self.unit * identity

    @property
    def unit(self) -> torch.Tensor:
        """The mean square of a preserved encoding's entries."""
        return self.kept.diagonal().mean()
