"""Z-Image: one stream of text and picture behind a refiner for each, and a causal Qwen3 in a chat's template."""

from __future__ import annotations

import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.text_encoders.llama
import comfy.text_encoders.z_image

from ..family import ToyLatent
from . import qwen

WIDTH = 128
LAYERS = 3
"""It is read after the last layer but one."""
DIM = 256
EXTRA = {
    "in_channels": 4,
    "n_heads": 8,
    "n_kv_heads": 8,
    "axes_dims": [8, 12, 12],
    "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0,
    "ffn_dim_multiplier": 1.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}
"""What the host reads from the size of Z-Image's network alone."""
NETWORK = {
    "image_model": "lumina2",
    "patch_size": 2,
    "dim": DIM,
    "cap_feat_dim": WIDTH,
    "n_layers": 2,
    "qk_norm": True,
    **EXTRA,
}


class ToyZImageTokenizer(comfy.text_encoders.z_image.ZImageTokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(embedding_directory=embedding_directory, tokenizer_data=tokenizer_data or {})
        self.qwen3_4b.embedding_size = WIDTH


class SmallQwen3(qwen.SmallQwen):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        options = {"layer": "hidden", "layer_idx": -2, "model_class": comfy.text_encoders.llama.Qwen3_4B}
        super().__init__(WIDTH, LAYERS, device, dtype, model_options, **options)


class ToyZImageClip(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(
            device=device, dtype=dtype, name="qwen3_4b", clip_model=SmallQwen3, model_options=model_options or {}
        )


class ToyZImage(comfy.supported_models.ZImage):
    """Recognised by how wide its network and its text are."""

    unet_config = {"image_model": "lumina2", "dim": DIM, "cap_feat_dim": WIDTH}
    unet_extra_config = EXTRA
    latent_format = ToyLatent

    def clip_target(self, state_dict=None):
        return comfy.supported_models_base.ClipTarget(ToyZImageTokenizer, ToyZImageClip)
