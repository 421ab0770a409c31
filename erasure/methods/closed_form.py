"""What every closed-form method is asked, and what it may be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from ..textmap import moment


@dataclass(frozen=True)
class Scales:
    """``ridge`` is relative to the mean square of a preserved encoding's entries: it means the same for every encoder.

    ``rounds``: how often RECE looks for what revives the concept. ``threshold``: SPEED's, below which an eigenvalue of
    the preserved encodings' covariance counts as null, relative like ``ridge``.
    """

    erase: float = 1.0
    preserve: float = 3.0
    ridge: float = 1e-4
    rounds: int = 1
    threshold: float = 0.3


@dataclass(frozen=True)
class Problem:
    """``pairs``: for each concept, encodings and where they go, [n, d] each. ``kept``: encodings to preserve, [m, d].

    ``empty``: those of the empty prompt, [k, d]. ``gram()``: the sum of W^T W over the edited projections, [d, d].
    Weights are means within a concept and within the preserve set, so that neither counts for more because more of its
    texts were listed.
    """

    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]
    kept: torch.Tensor
    empty: torch.Tensor
    gram: Callable[[], torch.Tensor]

    def rows(self, erase: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Sources and targets of all concepts, [n, d] each, float64, under the square roots of their weights."""
        weights = [(erase / len(source)) ** 0.5 for source, _ in self.pairs]
        source, target = (
            torch.cat([w * pair[side].double() for w, pair in zip(weights, self.pairs, strict=True)])
            for side in (0, 1)
        )
        return source, target

    def preserved(self, scales: Scales) -> torch.Tensor:
        """ridge I + the mean of p p^T over the preserve set, [d, d]: what every system starts from.

        It grows with the number of concepts, as the erased side does.
        """
        identity = torch.eye(len(self.kept_moment)).to(self.kept_moment)
        return len(self.pairs) * scales.preserve * self.kept_moment + scales.ridge * self.unit * identity

    @cached_property
    def kept_moment(self) -> torch.Tensor:
        """The mean of p p^T, [d, d]."""
        return moment(self.kept, 1 / len(self.kept))

    @property
    def unit(self) -> torch.Tensor:
        """The mean square of a preserved encoding's entries."""
        return self.kept_moment.diagonal().mean()
