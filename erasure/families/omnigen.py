"""OmniGen 2 and Boogu: text passes a norm and ``caption_embedder.1``."""

from __future__ import annotations

from .entry import LinearEntry


class OmniGen(LinearEntry):
    name = "OmniGen 2"
    networks = ("omnigen.omnigen2.OmniGen2Transformer2DModel", "boogu.model.BooguTransformer2DModel")
    entries = ("time_caption_embed.caption_embedder.1",)
    norm = "time_caption_embed.caption_embedder.0"
