"""Lumina 2 and Z-Image: text passes a norm and ``cap_embedder.1``, then layers that only text passes."""

from __future__ import annotations

from .entry import LinearEntry


class Lumina(LinearEntry):
    name = "Z-Image and Lumina 2"
    learns = True
    networks = ("lumina.model.NextDiT",)
    entries = ("cap_embedder.1",)
    norm = "cap_embedder.0"
