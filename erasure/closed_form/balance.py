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

from collections.abc import Callable
from dataclasses import replace

import torch

from . import uce
from .problem import Problem, Scales
from .textmap import Moves

LEFT = 0.5
"""So much of its way may be left of each of many concepts; where it is .6, some are drawn."""
MANY = 5
"""From so many concepts on they are weighed."""
ROUNDS, MOST = 4, 8.0
"""In which concepts are weighed, and how many times as much as others at most."""


def evened(moves: Moves, change: Callable[[Moves], torch.Tensor], gram: torch.Tensor) -> Moves:
    """The moves of many concepts, with those weighed more of which too much is left; ``change`` gives the G [d, d] that
    an edit with some moves makes, ``gram``: see ``Moves.left``."""
    weights = torch.ones(len(moves.counts)).to(gram)
    weighed = moves
    for _ in range(ROUNDS):
        left = moves.left(change(weighed), gram)
        if bool((left <= LEFT).all()):
            break
        weights = (weights * (left / LEFT).clamp_min(1.0).square()).clamp_max(MOST)
        weighed = moves.weighed(weights)
    return weighed


def even(problem: Problem, scales: Scales) -> Problem:
    """The problem with its concepts, if they are many, weighed by how far UCE takes them."""
    if len(problem.moves.counts) < MANY:
        return problem

    def change(moves: Moves) -> torch.Tensor:
        return uce.edit(replace(problem, moves=moves), scales).change()

    return replace(problem, moves=evened(problem.moves, change, problem.gram()))


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
