"""A tiny CLIP read without its padding: what stands behind the end changes nothing before it, and costs much."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call

from ..node.families.clip import END

PLACES = "text_model.embeddings.position_embedding.weight"


def encode(model: nn.Module, rows: Sequence[Sequence[int]], whole: bool = False) -> tuple[torch.Tensor, ...]:
    """What the host's text model gives, (last, hidden, projected, pooled).

    ``whole``: for all tokens; otherwise for as many as the longest row needs.
    """
    ends = [list(row).index(END) + 1 for row in rows]
    length = len(rows[0]) if whole else max(ends)
    embeds = model.transformer.get_input_embeddings()(torch.tensor([list(row[:length]) for row in rows]))
    places = {PLACES: dict(model.transformer.named_parameters())[PLACES][:length]}
    options = {"embeds": embeds, "num_tokens": ends, "intermediate_output": model.layer_idx}
    options |= {"final_layer_norm_intermediate": model.layer_norm_hidden_state}
    return functional_call(model.transformer, places, (None, None), options, strict=False)


def pooled(model: nn.Module, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """The one vector of each whole text, without projection, [b, d]."""
    return encode(model, rows)[3]
