"""PixArt: all text passes the first layer of ``y_embedder``."""

from __future__ import annotations

from .entry import LinearEntry


class PixArt(LinearEntry):
    name = "PixArt"
    networks = ("pixart.pixartms.PixArtMS",)
    entries = ("y_embedder.y_proj.fc1",)
