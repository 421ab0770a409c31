"""Changes of the weights that were made apart as one that does on each one's names what its own change does.

The last stage of MACE (Lu et al., arXiv 2403.06135): for changes C_i with encodings c of moments E_i, and P the moment
of what is preserved, ::

    C = argmin  sum_i sum_c |C c - C_i c|^2  +  sum_p |C p|^2        =  sum_i C_i E_i (sum_j E_j + P)^-1

Each summand is C_i behind a filter [d, d], the same for all weights, and so has the rank of C_i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..artifact import Change, Full, LowRank


def joined(
    changes: Sequence[Mapping[str, Change]], sources: Sequence[torch.Tensor], preserved: torch.Tensor,
    erase: float = 1.0,
) -> list[dict[str, Change]]:  # fmt: skip
    """The summands, one for each of the changes of weights [out, d].

    ``sources``: the encodings [n, d] that each one acts on, under the roots of their weights; ``preserved``: the moment
    of what is preserved [d, d], with a ridge; ``erase``: the weight of all that acts.
    """
    own = [source.double() for source in sources]
    whole = torch.linalg.inv(sum((erase * part.T @ part for part in own), preserved.double()))

    def filtered(rows: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        return (erase * (rows.double() @ source.T) @ source @ whole).float().contiguous()

    return [
        {
            name: LowRank(change.up.float(), filtered(change.down, source))
            if isinstance(change, LowRank)
            else Full(filtered(change.dense(), source))
            for name, change in of_weights.items()
        }
        for of_weights, source in zip(changes, own, strict=True)
    ]


def in_columns(change: Change, columns: slice) -> Change:
    """Some columns of a change."""
    if isinstance(change, LowRank):
        return LowRank(change.up, change.down[:, columns].contiguous())
    return Full(change.dense()[:, columns].contiguous())


def side_by_side(left: Change, right: Change) -> Change:
    """A change of columns [out, a] beside that of others [out, b]; where both are of low rank, ``up`` is the same."""
    if isinstance(left, LowRank) and isinstance(right, LowRank):
        return LowRank(left.up, torch.cat([left.down, right.down.to(left.down)], 1))
    return Full(torch.cat([left.dense(), right.dense()], 1))
