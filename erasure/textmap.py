"""Closed-form edits as linear maps of the text: the one solve that UCE, RECE and SPEED share. torch only.

An edited projection is W' = W (I + G) with the same G [d, d] for every layer, because each of these methods asks for
W' c = W t on some token encodings c (with t where they are to go) and for W' p = W p on others, and weighs both alike
in all layers. G has low rank, so W' - W is an exact low-rank change, however many encodings are preserved.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from .artifact import Change, Full, LowRank

ROWS = 4096
"""Encodings whose products are summed at once; more only cost memory."""


@dataclass(frozen=True)
class TextMap:
    """The map ``x -> x + moves^T (reads x)`` of token encodings: ``moves`` and ``reads`` are [r, d], float64."""

    moves: torch.Tensor
    reads: torch.Tensor

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps encodings [..., d]."""
        return tokens + (tokens @ self.reads.T) @ self.moves

    def matrix(self) -> torch.Tensor:
        """I + G, [d, d]: the edited projections are W (I + G)."""
        return torch.eye(self.reads.shape[1]).to(self.moves) + self.moves.T @ self.reads

    def after(self, first: TextMap) -> TextMap:
        """The edit that comes when ``first`` has been made: W (I + G_first)(I + G_self)."""
        moves = self.moves + (self.moves @ first.reads.T) @ first.moves
        return TextMap(torch.cat([first.moves, moves]), torch.cat([first.reads, self.reads]))

    def cut(self, rank: int, tokens: torch.Tensor) -> TextMap:
        """The map of at most that rank that is nearest to this one on encodings with second moment ``tokens`` [d, d].

        Reduced-rank regression: what the map adds is projected onto its own principal directions there.
        """
        if len(self.reads) <= rank:
            return self
        g = self.moves.T @ self.reads
        _, directions = torch.linalg.eigh(g @ tokens @ g.T)
        kept = directions[:, -rank:].T
        return TextMap(kept, kept @ g)

    def delta(self, weights: Iterable[tuple[str, torch.Tensor]]) -> dict[str, Change]:
        """The change of each projection [out, d], float32: low-rank, or written out where that is smaller."""
        moves, reads = self.moves.float().cpu(), self.reads.float().cpu()
        return {name: _change(weight.detach().float().cpu(), moves, reads) for name, weight in weights}


def _change(weight: torch.Tensor, moves: torch.Tensor, reads: torch.Tensor) -> Change:
    if len(reads) * sum(weight.shape) >= weight.numel():
        return Full(weight @ (moves.T @ reads))
    return LowRank(weight @ moves.T, reads)


def moment(tokens: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """``scale`` times the sum of x x^T over token encodings [n, d]: [d, d], float64.

    Products are float32, whose rounding is a thousand times smaller than any ridge, and sums of them float64: with
    100,000 encodings this is where the time goes.
    """
    total = torch.zeros(tokens.shape[1], tokens.shape[1], dtype=torch.float64, device=tokens.device)
    for part in tokens.float().split(ROWS):
        total += part.T @ part
    return scale * total


def solve(source: torch.Tensor, target: torch.Tensor, system: torch.Tensor) -> TextMap:
    """The map that moves ``source`` to ``target``, [n, d] each, given the whole system matrix M [d, d]::

        G = sum_i (t_i - c_i) (M^-1 c_i)^T

    With M = lambda I + sum c c^T + sum p p^T this is UCE (arXiv 2308.14761) for v* = W t, written as a change: the
    values of the preserved encodings are the old ones and drop out of the numerator. A weight on c is its square root
    on the rows of both ``source`` and ``target``. With more encodings than d, the sum itself is the shorter form.
    """
    source, target = source.double(), target.double()
    d = system.shape[0]
    if len(source) <= d:
        return TextMap(target - source, torch.linalg.solve(system, source.T).T)
    products = torch.linalg.solve(system, source.T @ (target - source))
    return TextMap(torch.eye(d).to(products), products.T)
