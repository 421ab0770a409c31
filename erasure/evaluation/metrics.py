"""Measures of erasing and preserving, with their uncertainty. torch only.

ESR-k: share of pictures for an erased concept whose judge's top k lacks it. PSR-k: share of pictures for kept concepts
whose judge's top k has it (as in the authors' scripts, arXiv 2410.15618). Neither means anything without the unedited
model's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import log10, sqrt

import torch
import torch.nn.functional as F

Z = 1.96
"""Standard normal quantile of a 95 % interval."""


@dataclass(frozen=True)
class Share:
    """``hits`` of ``count``, and the Wilson interval of their share."""

    hits: int
    count: int

    @property
    def value(self) -> float:
        """The share itself; nan without any."""
        return self.hits / self.count if self.count else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval: right for few pictures and for shares near 0 or 1, too."""
        return wilson(self.hits, self.count)

    def __str__(self) -> str:
        if not self.count:
            return "–"
        low, high = self.interval
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}] of {self.count}"


def wilson(hits: float, count: float, z: float = Z) -> tuple[float, float]:
    """The Wilson score interval of ``hits`` in ``count`` (Wilson, 1927); (0, 1) when nothing was counted.

    Not whole numbers where shares of several samples were averaged, and ``count`` is what they are worth together.
    """
    if not count:
        return 0.0, 1.0
    share, spread = hits / count, z * z / count
    centre = (share + spread / 2) / (1 + spread)
    half = z * sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def erasing(ranks: Sequence[int], k: int = 1) -> Share:
    """ESR-k from the judge's place (0 = top) of the erased concept in each of its pictures."""
    return Share(sum(rank >= k for rank in ranks), len(ranks))


def preserving(ranks: Sequence[int], k: int = 1) -> Share:
    """PSR-k from the judge's place (0 = top) of each kept picture's own concept."""
    return Share(sum(rank < k for rank in ranks), len(ranks))


def drift(before: Sequence[Hashable], after: Sequence[Hashable]) -> float:
    """How far what pictures show has moved: half the difference of the shares of each label (total variation), 0 to 1.
    Of few pictures it is never quite 0, so beside it stands that of two halves of the unedited model's."""
    first, second = Counter(before), Counter(after)
    return sum(abs(first[label] / len(before) - second[label] / len(after)) for label in first | second) / 2


def places(scores: torch.Tensor, wanted: Sequence[int]) -> list[int]:
    """For each row of scores [n, classes], the place (0 = top) of one class; ties count for the class."""
    own = scores[torch.arange(len(wanted)), torch.tensor(list(wanted), dtype=torch.long)]
    return (scores > own[:, None]).sum(1).tolist()


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Cosine of matching rows, [n, d] each: of two pictures' embeddings CLIP-I, of picture and text the CLIP score."""
    return F.cosine_similarity(a.float(), b.float(), dim=-1)


def psnr(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    """Peak signal-to-noise ratio in dB of matching pictures [n, h, w, c] in [0, 1]; infinite where they are equal."""
    errors = (a.float() - b.float()).square().flatten(1).mean(1).tolist()
    return [-10 * log10(error) if error > 0 else float("inf") for error in errors]
