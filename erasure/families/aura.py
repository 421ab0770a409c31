"""AuraFlow: all text passes ``cond_seq_linear``."""

from __future__ import annotations

from .entry import LinearEntry


class Aura(LinearEntry):
    name = "AuraFlow"
    networks = ("aura.mmdit.MMDiT",)
    entries = ("cond_seq_linear",)
