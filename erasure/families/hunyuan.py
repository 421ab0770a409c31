"""HunyuanVideo and HunyuanImage: two layers of ``txt_in`` read the text, one of them its mean."""

from __future__ import annotations

from .entry import LinearEntry


class Hunyuan(LinearEntry):
    name = "HunyuanVideo and HunyuanImage"
    networks = ("hunyuan_video.model.HunyuanVideo",)
    entries = ("txt_in.input_embedder", "txt_in.c_embedder.in_layer")
    pooled = "vector_in.in_layer"
