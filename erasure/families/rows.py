"""What is known of the rows of one call of a network. torch only."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Rows:
    """The rows of one call of a network: ``sigma`` [b], which are ``conditional`` [b], and the layout of a block's
    places, as (height, width)."""

    sigma: torch.Tensor
    conditional: torch.Tensor
    grid: tuple[int, ...] = ()
