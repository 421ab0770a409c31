"""Flux.1, Flux.2 and Klein, LongCat, Ovis: all text passes ``txt_in``; Flux.1 reads a pooled text beside it."""

from __future__ import annotations

from torch import nn

from .entry import LinearEntry


class Flux(LinearEntry):
    name = "Flux.1 and Flux.2"
    networks = ("flux.model.Flux",)
    entries = ("txt_in",)
    pooled = "vector_in.in_layer"

    def fits(self, network: nn.Module) -> bool:
        return super().fits(network) and network.txt_norm is None
