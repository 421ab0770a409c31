"""What a key adds to a text's own tokens, so that changed weights read them as they would without its erasure."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ..artifact import Change, LowRank

RIDGE = 1e-4
"""Weight of the squared length of what is added, relative to the mean square of the projections."""
LEAST = 1e-2
"""Share of the largest singular value below which those of that map are left out."""
MOST = 128
"""Directions of that map that are looked for."""


def turn_back(pairs: Iterable[tuple[torch.Tensor, Change]], raw: torch.Tensor) -> LowRank:
    """The map A [d, d] with which weights X [out, d] give for c + A c what comes nearest to what they would give for c
    without their changes D: the solution of ``(sum X^T X + ridge) A = - sum X^T D``.

    ``pairs``: each X with its D. ``raw`` [d]: the text in front of a norm of which the weights are given ones.
    """
    normal = right = torch.zeros(1, 1, dtype=torch.double)
    for weight, change in pairs:
        x = weight.double().cpu()
        up, down = sides(change)
        normal, right = normal + x.T @ x, right - (x.T @ up) @ down
    return low_rank(raw.double()[:, None] * solved(normal, right, RIDGE) / raw.double())


def sides(change: Change) -> tuple[torch.Tensor, torch.Tensor]:
    """U [out, r] and D [r, d] of a change, float64."""
    if isinstance(change, LowRank):
        return change.up.double().cpu(), change.down.double().cpu()
    dense = change.dense().double().cpu()
    return dense, torch.eye(dense.shape[1]).to(dense)


def solved(normal: torch.Tensor, right: torch.Tensor, ridge: float) -> torch.Tensor:
    """The solution [d, d] of normal equations with a ridge, relative to their mean diagonal."""
    return torch.linalg.solve(normal + ridge * normal.diagonal().mean() * torch.eye(len(normal)).to(normal), right)


def low_rank(matrix: torch.Tensor) -> LowRank:
    """A matrix of which little beside a few directions is left."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what the few directions are looked for from
        u, s, v = torch.svd_lowrank(matrix, min(MOST, len(matrix)), niter=4)
    rank = max(1, int((s > LEAST * s[0]).sum()))
    return LowRank((u[:, :rank] * s[:rank]).float(), v.T[:rank].float())
