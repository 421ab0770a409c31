"""HunyuanVideo and HunyuanImage: two layers of ``txt_in`` read the text, one of them its mean."""

from __future__ import annotations

from .entry import LinearEntry
from .family import HostModel


class Hunyuan(LinearEntry):
    name = "HunyuanVideo and HunyuanImage"
    learns = True
    networks = ("hunyuan_video.model.HunyuanVideo",)
    entries = ("txt_in.input_embedder", "txt_in.c_embedder.in_layer")
    pooled = "vector_in.in_layer"

    def not_learning(self, model: HostModel) -> str:
        # those are told the next noise level of a run, too, and training takes levels from anywhere
        return "distilled HunyuanImage" if getattr(model.diffusion_model, "time_r_in", None) is not None else ""
