"""MiniMax H3: all text passes ``condition_proj``, before the host samples."""

from __future__ import annotations

from .entry import LinearEntry


class MiniMax(LinearEntry):
    name = "MiniMax H3"
    networks = ("minimax.model.MiniMaxH3Model",)
    entries = ("condition_proj",)
