"""A tiny causal Qwen, read for texts of several lengths at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..node.families.qwen import PAD, SmallQwen


def encode(model: SmallQwen, rows: Sequence[Sequence[int]], length: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodings [b, n, d] and which of them are a text's own, [b, n]; n is ``length`` or what the longest needs.

    Padding stands behind a text, where a causal encoder reads nothing of it.
    """
    length = max(length, *(len(row) for row in rows))
    padded = [[*row, *[PAD] * (length - len(row))] for row in rows]
    embeds = model.transformer.get_input_embeddings()(torch.tensor(padded))
    own = torch.tensor([[i < len(row) for i in range(length)] for row in rows])
    options = {"embeds": embeds, "intermediate_output": model.layer_idx}
    last, hidden, *_ = model.transformer(None, None, final_layer_norm_intermediate=False, **options)
    return (last if model.layer == "last" else hidden), own


def last(context: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Each text's last row, [b, d]."""
    return context[torch.arange(len(own)), own.sum(1) - 1]
