"""Closed-form edits as linear maps of the text: the one solve that UCE, RECE and SPEED share. torch only.

``Edit`` is what ``instant.py`` asks of every method, whose change need not be such a map.

An edited projection is W' = W (I + G) with the same G [d, d] for every layer, because each of these methods asks for
W' c = W t on some token encodings c (with t where they are to go) and for W' p = W p on others, and weighs both alike
in all layers. G has low rank, so W' - W is an exact low-rank change, however many encodings are preserved.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch

from ..artifact import Change, Full, LowRank

ROWS = 4096
"""Encodings whose products are summed at once; more only cost memory."""


class Edit(Protocol):
    """What a method makes of a problem: a change of each projection [out, d], which may be cut to a rank."""

    def cut(self, rank: int, tokens: torch.Tensor) -> Edit:
        """The edit of at most that rank, nearest to this one on encodings with second moment ``tokens`` [d, d]."""

    def delta(self, weights: Iterable[tuple[str, torch.Tensor]]) -> dict[str, Change]:
        """The change of each projection, float32."""


@dataclass(frozen=True)
class TextMap:
    """The map ``x -> x + moves^T (reads x)`` of token encodings: ``moves`` and ``reads`` are [r, d], float64."""

    moves: torch.Tensor
    reads: torch.Tensor

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps encodings [..., d]."""
        return tokens + (tokens @ self.reads.T) @ self.moves

    def change(self) -> torch.Tensor:
        """G, [d, d]."""
        return self.moves.T @ self.reads

    def matrix(self) -> torch.Tensor:
        """I + G, [d, d]: the edited projections are W (I + G)."""
        return torch.eye(self.reads.shape[1]).to(self.moves) + self.change()

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
        g = self.change()
        _, directions = torch.linalg.eigh(g @ tokens @ g.T)
        principal = directions[:, -rank:].T
        return TextMap(principal, principal @ g)

    def delta(self, weights: Iterable[tuple[str, torch.Tensor]]) -> dict[str, Change]:
        """The change of each projection [out, d], float32: low-rank, or written out where that is smaller."""
        moves, reads = self.moves.float().cpu(), self.reads.float().cpu()
        return {name: _change(weight.detach().float().cpu(), moves, reads) for name, weight in weights}


def _change(weight: torch.Tensor, moves: torch.Tensor, reads: torch.Tensor) -> Change:
    if len(reads) * sum(weight.shape) >= weight.numel():
        return Full(weight @ (moves.T @ reads))
    return LowRank(weight @ moves.T, reads)


def products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The sum of l r^T over rows of two tensors [n, d]: [d, d], float64, some rows at a time."""
    total = torch.zeros(left.shape[1], right.shape[1], dtype=torch.float64, device=left.device)
    for a, b in zip(left.split(ROWS), right.split(ROWS), strict=True):
        total += a.double().T @ b.double()
    return total


def moment(tokens: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """``scale`` times the sum of x x^T over token encodings [n, d]: [d, d], float64."""
    return scale * products(tokens, tokens)


@dataclass(frozen=True)
class Moves:
    """Encodings ``source`` and where they are to go, ``target``: [n, d] each; ``counts``: how many of them each of
    several concepts has, one concept's after the other's; empty for a single one."""

    source: torch.Tensor
    target: torch.Tensor
    counts: tuple[int, ...] = ()

    @cached_property
    def moment(self) -> torch.Tensor:
        """The sum of c c^T, [d, d]."""
        return moment(self.source)

    @cached_property
    def difference(self) -> torch.Tensor:
        """The sum of (t - c) c^T, [d, d]."""
        return products(self.target, self.source) - self.moment

    def left(self, change: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
        """How much of each concept's way is left with a change G [d, d], as projections with the sum ``gram`` of W^T W
        [d, d] read it: [concepts], 1 where it has not moved, 0 where it has arrived or had no way to go."""
        way = (self.target - self.source).double()
        rest = way - self.source.double() @ change.T
        squares = torch.stack([((part @ gram) * part).sum(1) for part in (rest, way)], 1)
        rows = torch.stack([part.sum(0) for part in squares.split(self.counts)])
        return (rows[:, 0] / rows[:, 1]).sqrt().where(rows[:, 1] > 0, 0.0)

    def weighed(self, weights: torch.Tensor) -> Moves:
        """The same with each concept weighed so many times as much, [concepts]."""
        roots = weights.sqrt().repeat_interleave(torch.tensor(self.counts, device=weights.device))[:, None]
        roots = roots.to(self.source)
        return replace(self, source=roots * self.source, target=roots * self.target)

    def read_through(self, x: torch.Tensor) -> TextMap:
        """G = sum_i (t_i - c_i) c_i^T X: a row for each encoding, or with more of them than d, the sum itself."""
        if len(self.source) <= len(x):
            return TextMap((self.target - self.source).double(), self.source.double() @ x)
        return TextMap(torch.eye(len(x)).to(x), self.difference @ x)


def solve(moves: Moves, rest: torch.Tensor, weight: float = 1.0) -> TextMap:
    """The map that moves encodings c_i to t_i, against ``rest`` [d, d], what holds all other directions::

        G = sum_i w (t_i - c_i) c_i^T M^-1,    M = sum_i w c_i c_i^T + rest

    With rest = lambda I + sum p p^T this is UCE (arXiv 2308.14761) for v* = W t, written as a change: the values of
    the preserved encodings are the old ones and drop out of the numerator.
    """
    return moves.read_through(weight * torch.linalg.inv(weight * moves.moment + rest))
