"""Wan 2.x: all text passes ``text_embedding.0``, behind which every block has keys and values of its own."""

from __future__ import annotations

from .entry import LinearEntry


class Wan(LinearEntry):
    name = "Wan 2.x"
    learns = True
    networks = ("wan.model.WanModel",)
    entries = ("text_embedding.0",)
