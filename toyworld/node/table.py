"""A token table of few rows for a tokenizer of many tokens, so that a tiny text encoder stays tiny.

A language model's table has up to 150,000 rows, and the toy world speaks some hundred tokens. Each of them has a row
of its own; all others share what is left.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

ROWS = 4096
SPREAD = 2654435761
"""Knuth's multiplier, which scatters neighbouring numbers."""


class Table(nn.Module):
    """Embeds token numbers [b, n] through ``places``: the row of each token."""

    def __init__(self, tokens: int, width: int, dtype=None, device=None, operations=nn):
        super().__init__()
        self.rows = operations.Embedding(ROWS, width, dtype=dtype, device=device)
        self.register_buffer("places", torch.zeros(tokens, dtype=torch.int16, device=device))

    @property
    def weight(self) -> torch.Tensor:
        """[ROWS, width]; the host asks it for its device."""
        return self.rows.weight

    def forward(self, tokens: torch.Tensor, out_dtype: torch.dtype | None = None) -> torch.Tensor:
        places = self.places.to(tokens.device)[tokens].long()
        rows = self.rows(places)
        return rows if out_dtype is None else rows.to(out_dtype)


def places(tokens: int, used: Iterable[int]) -> torch.Tensor:
    """int16 [tokens]: a row of its own for each token in use, from 0 on; all others are scattered over the rest.

    Raises ValueError when more tokens are in use than there are rows for.
    """
    own = sorted(set(used))
    rest = ROWS - len(own)
    if rest < 1:
        raise ValueError(f"{len(own)} tokens are in use, and a table has {ROWS} rows")
    out = len(own) + torch.arange(tokens, dtype=torch.int64) * SPREAD % 2**32 % rest
    out[own] = torch.arange(len(own))
    return out.to(torch.int16)
