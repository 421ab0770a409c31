"""Changes of the weights that were made apart as one that does on each one's names what its own change does.

The last stage of MACE (Lu et al., arXiv 2403.06135): for changes C_i with encodings c of moments E_i, and P the moment
of what is preserved, ::

    C = argmin  sum_i sum_c |C c - C_i c|^2  +  sum_p |C p|^2        =  sum_i C_i E_i (sum_j E_j + P)^-1

Each summand is C_i behind a filter [d, d], the same for all weights, and so has the rank of C_i.

Where a change sends its encodings c to what another one moves, as to t, they have to move on: that one then does on c
what it does on t, and adds the sum of C_j t c^T (sum_j E_j + P)^-1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..artifact import Change, Full, LowRank

Filter = Callable[[Change], Change]
"""Puts a change of a weight [out, d] behind what lets its own names pass."""


def filters(
    sources: Sequence[torch.Tensor], preserved: torch.Tensor, erase: float = 1.0,
    moving_on: Sequence[tuple[torch.Tensor, torch.Tensor]] = (),
) -> list[Filter]:  # fmt: skip
    """The filter of each of several changes, and then one for each pair of encodings that move on.

    ``sources``: the encodings [n, d] that each one acts on, under the roots of their weights; ``preserved``: the moment
    of what is preserved [d, d], with a ridge; ``erase``: the weight of all that acts; ``moving_on``: encodings c and t,
    [n, d] each.
    """
    own = [source.double() for source in sources]
    whole = torch.linalg.inv(sum((erase * part.T @ part for part in own), preserved.double()))

    def behind(source: torch.Tensor, read: torch.Tensor) -> Filter:
        passing = erase * source @ whole

        def held(change: Change) -> Change:
            rows = change.down if isinstance(change, LowRank) else change.dense()
            passed = ((rows.double() @ read.T) @ passing).float().contiguous()
            return LowRank(change.up.float(), passed) if isinstance(change, LowRank) else Full(passed)

        return held

    return [*map(behind, own, own), *(behind(source.double(), read.double()) for source, read in moving_on)]


def reading(change: Change, rows: torch.Tensor) -> torch.Tensor:
    """What encodings [n, d] get from a change of a weight: [n, out], float64."""
    rows = rows.double()
    if isinstance(change, LowRank):
        return (rows @ change.down.to(rows).T) @ change.up.to(rows).T
    return rows @ change.dense().to(rows).T


def missed(held: Sequence[Filter], sources: Sequence[torch.Tensor], changes: Sequence[Change]) -> torch.Tensor:
    """Of what each of several changes of one weight does to its own encodings, the part by which all of them together
    miss it, squared, and the whole: [2, changes]."""
    both = [one(change) for one, change in zip(held, changes, strict=True)]
    own = [reading(change, rows) for change, rows in zip(changes, sources, strict=True)]
    got = [sum((reading(change, rows) for change in both), torch.zeros(1, 1).double()) for rows in sources]
    lost = [(there - wanted).square().sum() for there, wanted in zip(got, own, strict=True)]
    return torch.stack([torch.stack(lost), torch.stack([wanted.square().sum() for wanted in own])])


def in_first(held: Filter, width: int) -> Filter:
    """A filter for the first columns of a change, which lets all others pass as they are."""

    def beside(change: Change) -> Change:
        first = held(_columns(change, slice(width)))
        rest = _columns(change, slice(width, None))
        if isinstance(first, LowRank) and isinstance(rest, LowRank):
            return LowRank(first.up, torch.cat([first.down, rest.down.to(first.down)], 1))
        return Full(torch.cat([first.dense(), rest.dense()], 1))

    return beside


def _columns(change: Change, columns: slice) -> Change:
    if isinstance(change, LowRank):
        return LowRank(change.up, change.down[:, columns].contiguous())
    return Full(change.dense()[:, columns].contiguous())
