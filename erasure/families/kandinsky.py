"""Kandinsky 5: all text passes ``text_embeddings.in_layer``, and a pooled text beside it."""

from __future__ import annotations

from .entry import LinearEntry


class Kandinsky(LinearEntry):
    name = "Kandinsky 5"
    networks = ("kandinsky5.model.Kandinsky5",)
    entries = ("text_embeddings.in_layer",)
    pooled = "pooled_text_embeddings.in_layer"
