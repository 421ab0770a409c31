"""UCE: unified concept editing in closed form (Gandikota et al., arXiv 2308.14761).

    W' = (ridge W + sum_e w_e v* c^T + sum_p w_p W p p^T) (ridge I + sum_e w_e c c^T + sum_p w_p p p^T)^-1,   v* = W t

c: encodings of the concept, t: where they go, p: encodings to preserve. The right-hand side is the same in each layer,
so the edit is one linear map of the text (``textmap.py``).
"""

from __future__ import annotations

from .problem import Problem, Scales
from .textmap import TextMap, solve


def edit(problem: Problem, scales: Scales) -> TextMap:
    """The edit that sends every concept to its target at once."""
    return solve(problem.moves, problem.preserved(scales), scales.erase)
