"""Ideogram 4: text passes a norm and ``llm_cond_proj``."""

from __future__ import annotations

from .entry import LinearEntry


class Ideogram(LinearEntry):
    name = "Ideogram 4"
    networks = ("ideogram4.model.Ideogram4Transformer2DModel",)
    entries = ("llm_cond_proj",)
    norm = "llm_cond_norm"
