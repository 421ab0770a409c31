"""Closed-form edits as linear maps of the text: the one solve that UCE, RECE and SPEED share. torch only.

An edited projection is W' = W (I + G) with the same G [d, d] for every layer, because each of these methods asks for
W' c = W t on some token encodings c (with t where they are to go) and for W' p = W p on others, and weighs both alike
in all layers. G has low rank, so W' - W is an exact low-rank change, however many encodings are preserved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .artifact import Change, Full, LowRank


@dataclass(frozen=True)
class TextMap:
    """The map ``x -> x + moves^T (reads x)`` of token encodings: ``moves`` and ``reads`` are [r, d], float64."""

    moves: torch.Tensor
    reads: torch.Tensor

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps encodings [..., d]."""
        return tokens + (tokens @ self.reads.T) @ self.moves

    def after(self, first: TextMap) -> TextMap:
        """The edit that comes when ``first`` has been made: W (I + G_first)(I + G_self)."""
        moves = self.moves + (self.moves @ first.reads.T) @ first.moves
        return TextMap(torch.cat([first.moves, moves]), torch.cat([first.reads, self.reads]))

    def delta(self, weights: Mapping[str, torch.Tensor]) -> dict[str, Change]:
        """The change of each projection [out, d], float32: low-rank, or written out where that is smaller."""
        return {name: self._change(weight) for name, weight in weights.items()}

    def _change(self, weight: torch.Tensor) -> Change:
        up = weight.detach().to(self.moves) @ self.moves.T
        if len(self.reads) * sum(weight.shape) >= weight.numel():
            return Full((up @ self.reads).float().cpu())
        return LowRank(up.float().cpu(), self.reads.float().cpu())


def moment(tokens: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """``scale`` times the sum of x x^T over token encodings [n, d]: [d, d], float64."""
    tokens = tokens.double()
    return scale * (tokens.T @ tokens)


def solve(source: torch.Tensor, target: torch.Tensor, system: torch.Tensor) -> TextMap:
    """The map that moves ``source`` to ``target``, [n, d] each, given the whole system matrix M [d, d]::

        G = sum_i (t_i - c_i) (M^-1 c_i)^T

    With M = lambda I + sum c c^T + sum p p^T this is UCE (arXiv 2308.14761) for v* = W t, written as a change: the
    values of the preserved encodings are the old ones and drop out of the numerator. A weight on c is its square root
    on the rows of both ``source`` and ``target``.
    """
    source, target = source.double(), target.double()
    return TextMap(target - source, torch.linalg.solve(system, source.T).T)
