"""OCE: closed-form erasing by a rotation (Sun et al., arXiv 2605.28902).

    W* = P W,   P^T P = I,   min_P |P W C - W T|^2 + |P W K - W K|^2,   M = W (T C^T + K K^T) W^T = U S V^T,   P = U V^T

C: encodings of the concept, T: where they go, K: encodings to preserve. An orthogonal P turns what a projection gives,
and leaves its length, and the angles between what it gives for two texts, as they are. So the change is another one
for each layer, and no map of the text. We had the paper's abstract and public notes on it, not its text: from these are
the multiplicative update, this objective, and its solution, which is orthogonal Procrustes. Ours: all of C as in the
other methods here, more weight for it, as most of an encoding is what all encodings share, the ridge, a basis in which
layers with more outputs than inputs have one solution, and the cut to a low rank, behind which P is orthogonal no
longer. Left out is the other objective for many concepts, which turns the subspace of C away from the complement of
that of T: here it preserved worse.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from ..artifact import Change, Full, LowRank
from .problem import Problem, Scales

ERASE = 100.0
"""Weight of the concepts at erase scale 1, beside that of the other methods."""


@dataclass(frozen=True)
class Turn:
    """The change W -> P W, with a P of its own for each layer.

    ``values``: T C^T + K K^T, [d, d]. ``rank``: of the change at most, 0 for all of it; it is then the one nearest to
    the whole change on encodings with second moment ``tokens``, [d, d].
    """

    values: torch.Tensor
    tokens: torch.Tensor
    rank: int = 0

    def cut(self, rank: int, tokens: torch.Tensor) -> Turn:
        """The turn with changes of at most that rank, nearest to the whole ones on encodings of that second moment."""
        return replace(self, rank=rank, tokens=tokens)

    def delta(self, weights: Iterable[tuple[str, torch.Tensor]]) -> dict[str, Change]:
        """The change (P - I) W of each projection [out, d], float32."""
        return {name: self._change(weight.detach().double()) for name, weight in weights}

    def _change(self, weight: torch.Tensor) -> Change:
        values, tokens = self.values.to(weight), self.tokens.to(weight)
        basis, inner = torch.linalg.qr(weight)  # [out, r] and [r, d]: outside of the basis nothing is ever given
        left, _, right = torch.linalg.svd(inner @ values @ inner.T)
        change = basis @ (left @ right @ inner - inner)
        if not self.rank or self.rank * sum(change.shape) >= change.numel():
            return Full(change.float().cpu())
        _, directions = torch.linalg.eigh(change @ tokens @ change.T)
        principal = directions[:, -self.rank :]
        return LowRank(principal.float().cpu(), (principal.T @ change).float().cpu())


def edit(problem: Problem, scales: Scales) -> Turn:
    """The turn that brings every concept nearest to its target, and leaves what is preserved nearest to where it is."""
    moves = problem.moves
    arrived = moves.difference + moves.moment
    return Turn(ERASE * scales.erase * arrived + problem.preserved(scales), moves.moment)
