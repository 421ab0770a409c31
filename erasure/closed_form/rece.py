"""RECE: closed-form erasing that looks for what revives the concept, and erases that too (arXiv 2407.12383).

Each round asks which encodings c' the edited projections W' map nearest to what the original ones W made of c,

    c' = argmin sum_l |W'_l c' - W_l c|^2 + lambda |c'|^2 = (lambda I + sum W'^T W')^-1 (sum W'^T W) c

and edits W' once more, to send c' to the target. With W' = W (I + G) both sums are products of A = sum W^T W and G.
Ours: the later edits leave c alone, which has arrived already; otherwise it moves twice, past the target.
"""

from __future__ import annotations

import torch

from . import uce
from .problem import Problem, Scales
from .textmap import Moves, TextMap, solve

REGULARISER = 0.1
"""lambda, relative to the mean of A's diagonal: the published value for nudity; 1e-3, for styles, preserves worse."""


def edit(problem: Problem, scales: Scales) -> TextMap:
    """UCE, and then ``scales.rounds`` edits of what would bring the concept back."""
    solution = uce.edit(problem, scales)
    for _ in range(scales.rounds):
        reviving = Moves(revive(problem.moves.source, solution, problem.gram()), problem.moves.target)
        held = problem.preserved(scales) + scales.erase * problem.moves.moment
        solution = solve(reviving, held, scales.erase).after(solution)
    return solution


def revive(source: torch.Tensor, edit_map: TextMap, gram: torch.Tensor) -> torch.Tensor:
    """The encodings [n, d] that an edited model takes nearest for ``source``."""
    edited = edit_map.matrix()
    normal = edited.T @ gram @ edited
    normal.diagonal().add_(REGULARISER * gram.diagonal().mean())
    return source @ torch.linalg.solve(normal, edited.T @ gram).T.to(source)
