"""Qwen-Image and Mage-Flow: text passes a norm and ``txt_in``."""

from __future__ import annotations

from .entry import LinearEntry


class Qwen(LinearEntry):
    name = "Qwen-Image"
    learns = True
    networks = ("qwen_image.model.QwenImageTransformer2DModel", "mage_flow.model.MageFlowTransformer2DModel")
    entries = ("txt_in",)
    norm = "txt_norm"
