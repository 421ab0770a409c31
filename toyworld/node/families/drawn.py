"""The drawn world's family: SD 1.x's shape, small, with v-prediction and 8 latent channels."""

from __future__ import annotations

from pathlib import Path

import comfy.model_base
import comfy.supported_models_base

from ..family import UNET_CONFIG, ToyClip, ToyLatent, ToyTextModel, ToyTokenizer, ToyWorld, text_config

CONTEXT_DIM = 128
LATENT_CHANNELS = 8
TEXT_CONFIG = text_config(CONTEXT_DIM, layers=3)
NETWORK = {
    **UNET_CONFIG,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 3],
    "transformer_depth": [0, 1, 1],
    "transformer_depth_output": [0, 0, 1, 1, 1, 1],
    "context_dim": CONTEXT_DIM,
}


RGB_FILE = Path(__file__).with_name("drawn_rgb.json")


class DrawnLatent(ToyLatent):
    """Latents of the drawn world's VAE: 8 channels, otherwise as the toy world's."""

    latent_channels = LATENT_CHANNELS
    rgb_file = RGB_FILE


class DrawnTextModel(ToyTextModel):
    config = TEXT_CONFIG


class DrawnClip(ToyClip):
    text_model = DrawnTextModel


class DrawnTokenizer(ToyTokenizer):
    width = CONTEXT_DIM


class DrawnWorld(ToyWorld):
    """Recognised by its context width and its channels."""

    unet_config = {**ToyWorld.unet_config, "context_dim": CONTEXT_DIM, "in_channels": LATENT_CHANNELS}
    latent_format = DrawnLatent

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION

    def inpaint_model(self):
        """No: the host takes more than four channels for an inpainting model's."""
        return False

    def clip_target(self, state_dict=None):
        return comfy.supported_models_base.ClipTarget(DrawnTokenizer, DrawnClip)
