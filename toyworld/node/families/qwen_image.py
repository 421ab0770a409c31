"""Qwen-Image: two streams all the way, and a causal Qwen2.5 whose instructions are read and then cut off."""

from __future__ import annotations

import comfy.supported_models
import comfy.supported_models_base
import comfy.text_encoders.llama
import comfy.text_encoders.qwen_image

from . import qwen
from .anima import ToyVideoLatent

WIDTH = 96
LAYERS = 2
EXTRA = {
    "out_channels": 4,
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "axes_dims_rope": (8, 12, 12),
    "joint_attention_dim": WIDTH,
}
"""What the host takes for the same in every Qwen-Image."""
NETWORK = {"image_model": "qwen_image", "in_channels": 16, "num_layers": 4, **EXTRA}


class ToyQwenImageTokenizer(comfy.text_encoders.qwen_image.QwenImageTokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(embedding_directory=embedding_directory, tokenizer_data=tokenizer_data or {})
        self.qwen25_7b.embedding_size = WIDTH


class SmallQwen25(qwen.SmallQwen):
    """Without the part that looks at pictures, which is large."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        options = {"layer": "last", "model_class": comfy.text_encoders.llama.Qwen25_3B}
        super().__init__(WIDTH, LAYERS, device, dtype, model_options, **options)


class ToyQwenImageClip(comfy.text_encoders.qwen_image.QwenImageTEModel):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        super(comfy.text_encoders.qwen_image.QwenImageTEModel, self).__init__(
            device=device, dtype=dtype, name="qwen25_7b", clip_model=SmallQwen25, model_options=model_options or {}
        )


class ToyQwenImage(comfy.supported_models.QwenImage):
    """Recognised by how few channels its latents have."""

    unet_config = {"image_model": "qwen_image", "in_channels": 16}
    unet_extra_config = EXTRA
    latent_format = ToyVideoLatent

    def clip_target(self, state_dict=None):
        return comfy.supported_models_base.ClipTarget(ToyQwenImageTokenizer, ToyQwenImageClip)
