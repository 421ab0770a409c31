"""Ernie-Image: all text passes ``text_proj``."""

from __future__ import annotations

from .entry import LinearEntry


class Ernie(LinearEntry):
    name = "Ernie-Image"
    networks = ("ernie.model.ErnieImageModel",)
    entries = ("text_proj",)
