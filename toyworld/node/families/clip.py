"""A tiny CLIP text encoder with a small table, for families that read one beside their own."""

from __future__ import annotations

import comfy.sd1_clip

from ..table import Table

TOKENS = 49408
END = 49407


def config(width: int, layers: int = 2) -> dict:
    """What the host's CLIP text model is built from."""
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "hidden_act": "quick_gelu",
        "max_position_embeddings": 77,
        "eos_token_id": END,
    }


class SmallClip(comfy.sd1_clip.SDClipModel):
    """The host's CLIP-L with other sizes."""

    def __init__(self, width: int, device="cpu", dtype=None, model_options=None, layers: int = 2, **options):
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config=config(width, layers),
            model_options=model_options or {},
            **options,
        )
        self.transformer.set_input_embeddings(Table(TOKENS, width, dtype, device, self.operations))
