"""Balancing: an edit's harm to the concept's neighbours is spread evenly before any method makes the edit.

The closed-form counterpart of preserving what is hurt most (adversarial preservation, arXiv 2410.15618). With G the
change that UCE would make and N_i the part of the preserve set that says neighbour i in the concept's own phrases,

    harm_i = tr(G N_i G^T) / tr(N_i),    w_i <- w_i harm_i / mean harm,    kept = kept_0 + sum_i (w_i - 1) N_i

are repeated, w scaled to mean 1. Multiplicative weights go to the minimum of the greatest harm; a few rounds are most
of the way.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from . import uce
from .problem import Problem, Scales


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
