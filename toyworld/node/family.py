"""The toy model family as the host sees it: an SD 1.x shaped UNet, CLIP text encoder and TAESD, all small.

Key names are those of an SD 1.x checkpoint, so the stock loader reads the file once this family is registered.
"""

from __future__ import annotations

import json
from pathlib import Path

import comfy.latent_formats
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base

CONTEXT_DIM = 96
MODEL_CHANNELS = 64
TOKENS = 49408


def text_config(width: int, layers: int) -> dict:
    """What the host's CLIP text model is built from, with the whole table of CLIP's tokens."""
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 77,
        "vocab_size": TOKENS,
        "bos_token_id": TOKENS - 2,
        "eos_token_id": TOKENS - 1,
    }


TEXT_CONFIG = text_config(CONTEXT_DIM, layers=2)
UNET_CONFIG = {
    "image_size": 32,
    "use_spatial_transformer": True,
    "legacy": False,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": MODEL_CHANNELS,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
    "use_linear_in_transformer": False,
    "context_dim": CONTEXT_DIM,
    "num_heads": -1,
    "num_head_channels": 32,
}
RGB_FILE = Path(__file__).with_name("latent_rgb.json")


class ToyLatent(comfy.latent_formats.LatentFormat):
    """Latents of the toy VAE: 4 channels, an eighth of the picture's edge, unit variance, no scaling."""

    rgb_file = RGB_FILE

    def __init__(self) -> None:
        if self.rgb_file.exists():
            fit = json.loads(self.rgb_file.read_text())
            self.latent_rgb_factors, self.latent_rgb_factors_bias = fit["factors"], fit["bias"]


class ToyTextModel(comfy.sd1_clip.SDClipModel):
    config = TEXT_CONFIG

    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config=dict(self.config),
            return_projected_pooled=False,
            model_options=model_options or {},
        )


class ToyClip(comfy.sd1_clip.SD1ClipModel):
    text_model = ToyTextModel

    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=self.text_model)


class ToyTokenizer(comfy.sd1_clip.SD1Tokenizer):
    """The host's CLIP tokenizer; only the width of textual-inversion embeddings differs."""

    width = CONTEXT_DIM

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(embedding_directory=embedding_directory, tokenizer_data=tokenizer_data or {})
        self.clip_l.embedding_size = self.width


class ToyWorld(comfy.supported_models.SD15):
    """Recognised by its context width and first channel count."""

    unet_config = {
        "context_dim": CONTEXT_DIM,
        "model_channels": MODEL_CHANNELS,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
    }
    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}
    latent_format = ToyLatent

    def clip_target(self, state_dict=None):
        return comfy.supported_models_base.ClipTarget(ToyTokenizer, ToyClip)


def register() -> None:
    """Adds the family to the host's list, once."""
    if not any(m.__name__ == "ToyWorld" for m in comfy.supported_models.models):
        comfy.supported_models.models.append(ToyWorld)
