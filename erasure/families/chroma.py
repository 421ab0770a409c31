"""Chroma: all text passes ``txt_in``."""

from __future__ import annotations

from .entry import LinearEntry


class Chroma(LinearEntry):
    name = "Chroma"
    learns = True
    networks = ("chroma.model.Chroma",)
    entries = ("txt_in",)
