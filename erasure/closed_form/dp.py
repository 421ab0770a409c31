"""DP: closed-form erasing by two projections (Zhang et al., arXiv 2604.10032).

    dW = W (S T - C) (N C)^T (N C C^T N + lambda I)^-1 N,     S = U U^T,  N = I - S

U spans the safe subspace, what the preserved encodings use: targets T are projected onto it, and the change acts only
where the concept's encodings C have something outside of it. So what lies in the subspace is not moved at all. The
published targets are the concepts themselves, projected; here what takes a concept's place is chosen first.
"""

from __future__ import annotations

import torch

from .problem import Problem, Scales
from .textmap import Moves, TextMap

SAFE = 0.003
"""Eigenvalues of the preserved encodings' moment from which on a direction is in the safe subspace, relative to their
mean at threshold 1."""
LAMBDA = 1e-3
"""lambda at ridge scale 1e-4, relative to the mean square of what the concepts have outside the safe subspace."""


def edit(problem: Problem, scales: Scales) -> TextMap:
    """The edit that acts outside the safe subspace alone."""
    values, vectors = torch.linalg.eigh(problem.kept)
    safe = vectors[:, values >= SAFE * scales.threshold * problem.unit]
    moves = Moves(problem.moves.source, (problem.moves.target.double() @ safe @ safe.T).to(problem.moves.target))
    null = torch.eye(len(safe)).to(safe) - safe @ safe.T
    outside = null @ problem.moves.moment @ null
    outside.diagonal().add_(LAMBDA / 1e-4 * scales.ridge * outside.diagonal().mean())
    return moves.read_through(null @ torch.linalg.inv(outside) @ null)
