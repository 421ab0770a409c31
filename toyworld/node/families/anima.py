"""Anima: Cosmos' cross-attention on what an adapter makes of a causal Qwen3 for each token of T5.

The host's adapter has one size alone, so this family has a network and a model of its own: the host's, with a small
adapter.
"""

from __future__ import annotations

import comfy.ldm.anima.model
import comfy.ldm.cosmos.predict2
import comfy.model_base
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.text_encoders.anima
import comfy.text_encoders.llama
import torch
import torch.nn.functional as F

from ..family import ToyLatent
from ..table import Table
from . import qwen

WIDTH = 96
LAYERS = 2
T5_TOKENS = 32128
LENGTH = 64
"""Rows that a text is padded to with zeros; Anima pads to 512."""
CHANNELS = 128
EXTRA = {
    "out_channels": 4,
    "num_blocks": 4,
    "num_heads": 4,
    "crossattn_emb_channels": WIDTH,
    "adaln_lora_dim": 64,
    "extra_per_block_abs_pos_emb": False,
    "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0,
    "rope_t_extrapolation_ratio": 1.0,
}
"""What the host reads from the size of Anima's network alone."""
NETWORK = {
    "image_model": "anima",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 4,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": CHANNELS,
    "concat_padding_mask": True,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "min_fps": 1,
    "max_fps": 30,
    "use_adaln_lora": True,
    "extra_h_extrapolation_ratio": 1.0,
    "extra_w_extrapolation_ratio": 1.0,
    "extra_t_extrapolation_ratio": 1.0,
    "rope_enable_fps_modulation": False,
    **EXTRA,
}


class ToyVideoLatent(ToyLatent):
    """The same latents with an axis for time, as Wan's and Qwen-Image's have it."""

    latent_dimensions = 3


class ToyAnimaNetwork(comfy.ldm.anima.model.Anima):
    def __init__(self, *args, **kwargs):
        super(comfy.ldm.anima.model.Anima, self).__init__(*args, **kwargs)
        options = {key: kwargs.get(key) for key in ("device", "dtype", "operations")}
        self.llm_adapter = comfy.ldm.anima.model.LLMAdapter(
            source_dim=WIDTH, target_dim=WIDTH, model_dim=WIDTH, num_layers=2, num_heads=3, **options
        )
        self.llm_adapter.embed = Table(T5_TOKENS, WIDTH, options["dtype"], options["device"], options["operations"])

    def preprocess_text_embeds(self, text_embeds, text_ids, t5xxl_weights=None) -> torch.Tensor:
        """The host's, with a shorter padding."""
        if text_ids is None:
            return text_embeds
        out = self.llm_adapter(text_embeds, text_ids)
        if t5xxl_weights is not None:
            out = out * t5xxl_weights
        return F.pad(out, (0, 0, 0, max(0, LENGTH - out.shape[1])))


class ToyAnimaModel(comfy.model_base.Anima):
    def __init__(self, model_config, device=None):
        comfy.model_base.BaseModel.__init__(
            self, model_config, comfy.model_base.ModelType.FLOW, device=device, unet_model=ToyAnimaNetwork
        )


class ToyAnimaTokenizer(comfy.text_encoders.anima.AnimaTokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(embedding_directory=embedding_directory, tokenizer_data=tokenizer_data or {})
        self.qwen3_06b.embedding_size = self.t5xxl.embedding_size = WIDTH


class SmallQwen3(qwen.SmallQwen):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        options = {"layer": "last", "model_class": comfy.text_encoders.llama.Qwen3_06B}
        super().__init__(WIDTH, LAYERS, device, dtype, model_options, **options)


class ToyAnimaClip(comfy.text_encoders.anima.AnimaTEModel):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        super(comfy.text_encoders.anima.AnimaTEModel, self).__init__(
            device=device, dtype=dtype, name="qwen3_06b", clip_model=SmallQwen3, model_options=model_options or {}
        )


class ToyAnima(comfy.supported_models.Anima):
    """Recognised by how wide its network is and by how few channels its latents have."""

    unet_config = {"image_model": "anima", "model_channels": CHANNELS, "in_channels": 4}
    unet_extra_config = EXTRA
    latent_format = ToyVideoLatent
    vae_key_prefix = ["vae."]
    text_encoder_key_prefix = ["text_encoders."]

    def get_model(self, state_dict, prefix="", device=None):
        return ToyAnimaModel(self, device=device)

    def clip_target(self, state_dict=None):
        return comfy.supported_models_base.ClipTarget(ToyAnimaTokenizer, ToyAnimaClip)
