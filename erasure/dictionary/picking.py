"""Which features of a dictionary a concept excites, and above which activation a place is taken for it. torch only.

SAeUron (Cywinski and Deja, arXiv 2501.18052), at each noise level::

    score_i = mean_i(concept) / sum_j mean_j(concept)  -  mean_i(others) / sum_j mean_j(others)

The features of the highest scores are the concept's, of those that it excites more than others do by some ratio:
without that, features of all pictures are among them, and what else is in a picture goes, too. The means are over
places of pictures that the model draws for texts with the concept, and for others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..families.rows import Rows
from ..parts.steering import CONDITIONAL, Steering
from .autoencoder import Autoencoder

NEVER = 6e4
"""A level that no feature reaches, and that half precision can hold."""
LEAST = 1e-4
"""A score below which a feature is excited by chance."""
CHUNK = 2048
"""Vectors whose features are worked out at once; a table of all of them would not fit."""


@dataclass(frozen=True)
class Means:
    """``z`` [s, features]: mean activations at the noise levels ``sigmas`` [s], ascending; ``x`` [s, d]: mean
    vectors."""

    sigmas: torch.Tensor
    z: torch.Tensor
    x: torch.Tensor


class Counting:
    """The hook that takes means over all conditional rows of a drawing, a noise level each, without a table of all
    features of all places. ``excited`` [rows, features]: how much each picture excites every feature at all levels."""

    def __init__(self, net: Autoencoder):
        self.net = net
        self.sums: dict[float, tuple[torch.Tensor, torch.Tensor, int]] = {}
        self.excited = torch.empty(0)

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, rows: Rows) -> None:
        own = x[rows.conditional.to(x.device)].float()
        if not len(own):
            return
        z = torch.stack([self._sum(row) for row in own]).cpu()
        self.excited = z if not len(self.excited) else self.excited + z
        sigma = float(rows.sigma[0])
        sums = z.sum(0), own.sum((0, 1)).cpu(), own.shape[0] * own.shape[1]
        if (before := self.sums.get(sigma)) is not None:
            sums = before[0] + sums[0], before[1] + sums[1], before[2] + sums[2]
        self.sums[sigma] = sums

    def _sum(self, places: torch.Tensor) -> torch.Tensor:
        """All activations of one picture's places [n, d], by feature."""
        return torch.stack([self.net.encode(part).sum(0) for part in places.split(CHUNK)]).sum(0)

    def means(self) -> Means:
        sigmas = sorted(self.sums)
        sums = [self.sums[sigma] for sigma in sigmas]
        z = torch.stack([z / count for z, _, count in sums])
        return Means(torch.tensor(sigmas), z, torch.stack([x / count for _, x, count in sums]))


def scores(concept: Means, others: Means) -> torch.Tensor:
    """How much more of all activation a feature has for the concept than for others, [s, features]."""

    def share(z: torch.Tensor) -> torch.Tensor:
        return z / z.sum(1, keepdim=True).clamp_min(1e-8)

    return share(concept.z) - share(others.z)


def ratios(concept: Means, others: Means) -> torch.Tensor:
    """How many times as much a feature is excited by the concept as by others, over all noise levels, [features]."""
    return concept.z.mean(0) / others.z.mean(0).clamp_min(1e-6)


def own_scores(concept: Means, others: Means, ratio: float) -> torch.Tensor:
    """The scores of features that the concept excites ``ratio`` times as much as others do, and 0 for the rest."""
    own = ratios(concept, others) >= ratio
    return (scores(concept, others) * own).clamp_min(0)


@dataclass(frozen=True)
class Picking:
    """``features``: of a concept at most, at each noise level; ``ratio``: how many times as much it must excite them as
    others do; ``multiplier``: gamma; ``mode`` and ``rows``: see ``Steering``; ``weight``: the concept's share in the
    mean above which a feature is flagged."""

    features: int = 4
    multiplier: float = -1.0
    mode: str = "negative"
    rows: str = CONDITIONAL
    ratio: float = 2.0
    weight: float = 0.1


def steering_for(
    net: Autoencoder, point: str, dictionary: str, concept: Means, others: Means, how: Picking
) -> Steering | None:
    """The part that steers away from a concept at one block; None where the block has no feature of its own for it."""
    by_level = own_scores(concept, others, how.ratio)
    top = by_level.topk(min(how.features, by_level.shape[1]), dim=1)
    picked = top.values > LEAST
    chosen = top.indices[picked].unique()
    if not len(chosen):
        return None
    is_own = ((top.indices[:, :, None] == chosen) & picked[:, :, None]).any(1)
    mean = torch.lerp(others.z, concept.z, how.weight)[:, chosen]
    encoder, decoder, bias = rows_of(net, chosen)
    half = torch.float16
    return Steering(
        point, how.mode, how.rows, dictionary, float(net.threshold), chosen, encoder.to(half), decoder.to(half), bias,
        concept.sigmas, mean.masked_fill(~is_own, NEVER).to(half), (how.multiplier * concept.z[:, chosen]).to(half),
        others.x.to(half) if how.mode == "replace" else torch.zeros(len(concept.sigmas), 0),
    )  # fmt: skip


@torch.no_grad()
def rows_of(net: Autoencoder, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Encoder and decoder [f, d] and bias [f] of some features for vectors as the network has them."""
    encoder, bias = net.encoder[features] / net.scale, net.bias[features]
    bias = bias - encoder @ net.mean - (net.encoder[features] @ net.centre)
    return encoder.cpu(), (net.decoder[features] * net.scale).cpu(), bias.cpu()


def strongest(by_level: torch.Tensor, count: int) -> Sequence[int]:
    """The features of the highest score over all noise levels, highest first."""
    return by_level.sum(0).topk(min(count, by_level.shape[1])).indices.tolist()
