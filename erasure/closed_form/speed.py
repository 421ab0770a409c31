"""SPEED: closed-form erasing inside the null space of what is preserved (Li et al., arXiv 2503.07392).

    dW = W (A - T) P [I - M K (K^T P M K + lambda I)^-1 K^T P] M,     M = (T P + rho I)^-1

A - T = mean (a - c) c^T over the concepts, P projects onto the directions that the preserved encodings do not use, and
K holds encodings that must stay exactly: the first token and three centres of the empty prompt. Before P is built, the
preserve set is cut to those on which an unconstrained edit would act above the mean, and these are augmented along the
directions that the projections read least. The published method takes these directions layer by layer; here they are
those of all layers together, which keeps the edit one map of the text.
"""

from __future__ import annotations

import torch
from scipy.cluster.vq import kmeans2

from .problem import Problem, Scales
from .textmap import TextMap, moment

RHO = 0.007
"""rho at preserve scale 1, relative to the mean square of a preserved encoding's entries (published: 0.05 to 1)."""
LEAST_READ = 1 / 48
"""Share of all directions along which is augmented."""
CENTRES = 3
"""Of the tokens of the empty prompt behind the first, so many centres stay exactly."""
TINY = 1e-6
"""Keeps the constraint's system regular (lambda is published as 0)."""


def edit(problem: Problem, scales: Scales) -> TextMap:
    """The edit that acts only where the preserved encodings have (almost) nothing."""
    identity = torch.eye(len(problem.kept)).to(problem.kept)
    projector = null_space(influential(problem, scales.erase), problem, scales.threshold * problem.unit)
    m = torch.linalg.inv(
        scales.erase * problem.moves.moment @ projector + RHO * scales.preserve * problem.unit * identity
    )
    fixed = anchors(problem.empty)
    inner = fixed.T @ projector @ m @ fixed
    inner.diagonal().add_(TINY * inner.diagonal().mean())
    correction = m @ fixed @ torch.linalg.solve(inner, fixed.T @ projector)
    return problem.moves.read_through(scales.erase * projector @ (identity - correction) @ m)


def influential(problem: Problem, erase: float) -> torch.Tensor:
    """The preserved encodings [m', d] that an edit without constraints would move more than the mean one."""
    identity = torch.eye(len(problem.kept)).to(problem.kept)
    g = erase * problem.moves.difference @ torch.linalg.inv(erase * problem.moves.moment + problem.unit * identity)
    moved = problem.some.double() @ g.T
    effect = ((moved @ problem.gram()) * moved).sum(1)
    return problem.some[effect > effect.mean()]


def null_space(kept: torch.Tensor, problem: Problem, threshold: torch.Tensor) -> torch.Tensor:
    """The projector [d, d] onto eigenvectors of the augmented covariance with eigenvalues below the threshold."""
    _, directions = torch.linalg.eigh(problem.gram())
    least = directions[:, : max(1, round(LEAST_READ * len(directions)))]
    covariance = moment(kept, 1 / len(kept))
    # noisy copies of the preserved encodings, in expectation
    covariance += covariance.diagonal().mean() * least @ least.T
    values, vectors = torch.linalg.eigh(covariance)
    null = vectors[:, values < threshold]
    return null @ null.T


def anchors(empty: torch.Tensor) -> torch.Tensor:
    """What stays exactly, [d, up to 4]: the start token and three centres of the rest of the empty prompt; all of a
    text that has no more tokens, as the pooled text."""
    if len(empty) <= 1 + CENTRES:
        return empty.double().T
    centres, _ = kmeans2(empty[1:].double().cpu().numpy(), CENTRES, minit="++", seed=0)
    return torch.cat([empty[:1].double(), torch.from_numpy(centres).to(empty.device)]).T
