"""Balancing, before any method makes the edit: its harm to the concept's neighbours is spread evenly, and of many
concepts none is left behind.

The closed-form counterpart of preserving what is hurt most (adversarial preservation, arXiv 2410.15618). With G the
change that UCE would make and N_i the part of the preserve set that says neighbour i in the concept's own phrases,

    harm_i = tr(G N_i G^T) / tr(N_i),    w_i <- w_i harm_i / mean harm,    kept = kept_0 + sum_i (w_i - 1) N_i

are repeated, w scaled to mean 1. Multiplicative weights go to the minimum of the greatest harm; a few rounds are most
of the way.

The more concepts are erased at once, the less of its way each of them goes, for all of them are weighed against one
preserve set. Those of which more than ``LEFT`` would be left are weighed more, in rounds as well.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from . import uce
from .problem import Problem, Scales

LEFT = 0.5
"""So much of its way may be left of each of many concepts; where it is .6, some are drawn."""
MANY = 5
"""From so many concepts on they are weighed."""
MOST = 8.0
"""No concept counts for more than so many times as much as it did."""


def even(problem: Problem, scales: Scales) -> Problem:
    """The problem with its concepts, if they are many, weighed by how far UCE takes them; ``scales.balance`` rounds."""
    moves = problem.moves
    if len(moves.counts) < MANY:
        return problem
    weighed, weights, gram = problem, torch.ones(len(moves.counts)).to(problem.kept), problem.gram()
    for _ in range(scales.balance):
        left = moves.left(uce.edit(weighed, scales).change(), gram)
        if bool((left <= LEFT).all()):
            break
        weights = (weights * (left / LEFT).clamp_min(1.0).square()).clamp_max(MOST)
        weighed = replace(problem, moves=moves.weighed(weights))
    return weighed


def balance(problem: Problem, scales: Scales) -> Problem:
    """The problem with its neighbours weighed by what UCE does to them, after ``scales.balance`` rounds."""
    weighed, weights = problem, torch.ones(len(problem.near)).to(problem.kept)
    for _ in range(scales.balance if problem.near else 0):
        change = uce.edit(weighed, scales).change()
        harm = torch.stack([((change @ part) * change).sum() / part.trace() for part in problem.near])
        if not harm.any():
            break
        weights = weights * harm
        weights = weights / weights.mean()
        moved = sum((weight - 1) * part for weight, part in zip(weights, problem.near, strict=True))
        weighed = replace(problem, kept=problem.kept + moved)
    return weighed
