"""Flux.1, Flux.2 and Klein, LongCat, Ovis: all text passes ``txt_in``; Ovis has a norm before it, Flux.1 reads a pooled
text beside it."""

from __future__ import annotations

from .entry import LinearEntry


class Flux(LinearEntry):
    name = "Flux.1 and Flux.2"
    learns = True
    networks = ("flux.model.Flux",)
    entries = ("txt_in",)
    norm = "txt_norm"
    pooled = "vector_in.in_layer"
