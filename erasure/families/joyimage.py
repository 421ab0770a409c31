"""JoyImage: all text passes the first layer of ``text_embedder``."""

from __future__ import annotations

from .entry import LinearEntry


class JoyImage(LinearEntry):
    name = "JoyImage"
    networks = ("joyimage.model.JoyImageTransformer3DModel",)
    entries = ("condition_embedder.text_embedder.linear_1",)
