"""Kandinsky 5: all text passes ``text_embeddings.in_layer``."""

from __future__ import annotations

from .entry import LinearEntry


class Kandinsky(LinearEntry):
    name = "Kandinsky 5"
    networks = ("kandinsky5.model.Kandinsky5",)
    entries = ("text_embeddings.in_layer",)
