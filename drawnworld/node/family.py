"""The drawn world's model family as the host sees it: SD 1.x's shape, small, with v-prediction and 8 latent channels.

Key names are those of an SD 1.x checkpoint, so the stock loader reads the file once this family is registered.
"""

from __future__ import annotations

import json
from pathlib import Path

import comfy.latent_formats
import comfy.model_base
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base

CONTEXT_DIM = 128
MODEL_CHANNELS = 64
LATENT_CHANNELS = 8
TEXT_CONFIG = {
    "hidden_size": CONTEXT_DIM,
    "intermediate_size": 4 * CONTEXT_DIM,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}
UNET_CONFIG = {
    "image_size": 32,
    "use_spatial_transformer": True,
    "legacy": False,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "model_channels": MODEL_CHANNELS,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 3],
    "transformer_depth": [0, 1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 1, 1, 1, 1],
    "use_linear_in_transformer": False,
    "context_dim": CONTEXT_DIM,
    "num_heads": -1,
    "num_head_channels": 32,
}
RGB_FILE = Path(__file__).with_name("latent_rgb.json")


class DrawnLatent(comfy.latent_formats.LatentFormat):
    """Latents of the drawn world's VAE: an eighth of the picture's edge, unit variance, no scaling."""

    latent_channels = LATENT_CHANNELS

    def __init__(self) -> None:
        if RGB_FILE.exists():
            fit = json.loads(RGB_FILE.read_text())
            self.latent_rgb_factors, self.latent_rgb_factors_bias = fit["factors"], fit["bias"]


class DrawnTextModel(comfy.sd1_clip.SDClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config=dict(TEXT_CONFIG),
            return_projected_pooled=False,
            model_options=model_options or {},
        )


class DrawnClip(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=DrawnTextModel)


class DrawnTokenizer(comfy.sd1_clip.SD1Tokenizer):
    """The host's CLIP tokenizer; only the width of textual-inversion embeddings differs."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(embedding_directory=embedding_directory, tokenizer_data=tokenizer_data or {})
        self.clip_l.embedding_size = CONTEXT_DIM


class DrawnWorld(comfy.supported_models.SD15):
    """Recognised by its context width and its channels."""

    unet_config = {
        "context_dim": CONTEXT_DIM,
        "model_channels": MODEL_CHANNELS,
        "in_channels": LATENT_CHANNELS,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
    }
    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}
    latent_format = DrawnLatent

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION

    def inpaint_model(self):
        """No: the host takes more than four channels for an inpainting model's."""
        return False

    def clip_target(self, state_dict=None):
        return comfy.supported_models_base.ClipTarget(DrawnTokenizer, DrawnClip)


def register() -> None:
    """Adds the family to the host's list, once."""
    if not any(m.__name__ == "DrawnWorld" for m in comfy.supported_models.models):
        comfy.supported_models.models.append(DrawnWorld)
