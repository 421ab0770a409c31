"""SDXL's shape: a UNet that reads two CLIPs side by side, and the second one's vector of the whole text."""

from __future__ import annotations

import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base

from ..family import MODEL_CHANNELS, UNET_CONFIG, ToyLatent
from .clip import SmallClip

WIDTH_L, WIDTH_G = 64, 96
LAYERS = 3
"""Both are read after the last layer but one, as SDXL does."""
SIZES = 6 * 256
NETWORK = {
    **UNET_CONFIG,
    "context_dim": WIDTH_L + WIDTH_G,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": WIDTH_G + SIZES,
}


class SmallTokenizerG(comfy.sdxl_clip.SDXLClipGTokenizer):
    """The host's, with another width."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(embedding_directory=embedding_directory, tokenizer_data=tokenizer_data or {})
        self.embedding_size = WIDTH_G


class ToySDXLTokenizer(comfy.sdxl_clip.SDXLTokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data=None):
        options = {"embedding_directory": embedding_directory, "tokenizer_data": tokenizer_data or {}}
        self.clip_l = comfy.sd1_clip.SDTokenizer(embedding_size=WIDTH_L, **options)
        self.clip_g = SmallTokenizerG(**options)


class ToySDXLClip(comfy.sdxl_clip.SDXLClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        super(comfy.sdxl_clip.SDXLClipModel, self).__init__()
        options = {"layer": "hidden", "layer_idx": -2, "layer_norm_hidden_state": False}
        self.clip_l = SmallClip(WIDTH_L, device, dtype, model_options, layers=LAYERS, **options)
        options["special_tokens"] = {"start": 49406, "end": 49407, "pad": 0}
        self.clip_g = SmallClip(WIDTH_G, device, dtype, model_options, layers=LAYERS, **options)
        self.dtypes = {dtype}


class ToySDXL(comfy.supported_models.SDXL):
    """Recognised by how wide its text and its vector are; its text encoders have the names that newer files give."""

    unet_config = {
        "model_channels": MODEL_CHANNELS,
        "use_linear_in_transformer": True,
        "context_dim": WIDTH_L + WIDTH_G,
        "adm_in_channels": WIDTH_G + SIZES,
        "use_temporal_attention": False,
    }
    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}
    latent_format = ToyLatent
    text_encoder_key_prefix = ["text_encoders."]
    process_clip_state_dict = comfy.supported_models_base.BASE.process_clip_state_dict
    process_clip_state_dict_for_saving = comfy.supported_models_base.BASE.process_clip_state_dict_for_saving

    def clip_target(self, state_dict=None):
        return comfy.supported_models_base.ClipTarget(ToySDXLTokenizer, ToySDXLClip)
