"""SD 3 and 3.5: all text passes ``context_embedder``, and a pooled text beside it."""

from __future__ import annotations

from .entry import LinearEntry


class SD3(LinearEntry):
    name = "SD 3.5"
    networks = ("modules.diffusionmodules.mmdit.MMDiT",)
    entries = ("context_embedder",)
    pooled = "y_embedder.mlp.0"
