"""Flux.1: two streams that join; T5 for the tokens, and CLIP's one vector of the whole text for the modulation."""

from __future__ import annotations

import os

import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.text_encoders.flux
import comfy.text_encoders.t5
from transformers import T5TokenizerFast

from ..family import ToyLatent
from ..table import Table
from .clip import SmallClip

WIDTH = 96
POOLED = 64
TOKENS = 32128
LENGTH = 32
"""Tokens that a text is padded to; Flux.1 pads to 256, and it reads the padding, too."""
EXTRA = {"out_channels": 4, "num_heads": 4, "axes_dim": [8, 12, 12]}
"""What the host takes for the same in every Flux; one head of 128 is too few for shape, colour and style at once."""
NETWORK = {
    "image_model": "flux",
    "in_channels": 4,
    "patch_size": 2,
    "hidden_size": 128,
    "depth": 2,
    "depth_single_blocks": 2,
    "mlp_ratio": 4.0,
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
    "context_in_dim": WIDTH,
    "vec_in_dim": POOLED,
    "txt_ids_dims": [],
    **EXTRA,
}
T5 = {
    "d_model": WIDTH,
    "d_kv": 32,
    "num_heads": 3,
    "d_ff": 192,
    "num_layers": 2,
    "dense_act_fn": "gelu_pytorch_tanh",
    "is_gated_act": True,
    "model_type": "t5",
    "vocab_size": 1,
}
TOKENIZER = os.path.join(os.path.dirname(comfy.text_encoders.flux.__file__), "t5_tokenizer")


class T5Tokenizer(comfy.sd1_clip.SDTokenizer):
    """The host's, with another width and a shorter padding."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(
            TOKENIZER,
            embedding_directory=embedding_directory,
            pad_with_end=False,
            embedding_size=WIDTH,
            embedding_key="t5xxl",
            tokenizer_class=T5TokenizerFast,
            has_start_token=False,
            pad_to_max_length=False,
            max_length=99999999,
            min_length=LENGTH,
            tokenizer_data=tokenizer_data or {},
        )


class ToyFluxTokenizer(comfy.text_encoders.flux.FluxTokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data=None):
        options = {"embedding_directory": embedding_directory, "tokenizer_data": tokenizer_data or {}}
        self.clip_l = comfy.sd1_clip.SDTokenizer(embedding_size=POOLED, **options)
        self.t5xxl = T5Tokenizer(**options)


class SmallT5(comfy.sd1_clip.SDClipModel):
    """The host's T5 with other sizes and a small table."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config=dict(T5),
            special_tokens={"end": 1, "pad": 0},
            model_class=comfy.text_encoders.t5.T5,
            model_options=model_options or {},
        )
        self.transformer.set_input_embeddings(Table(TOKENS, WIDTH, dtype, device, self.operations))


class ToyFluxClip(comfy.text_encoders.flux.FluxClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        super(comfy.text_encoders.flux.FluxClipModel, self).__init__()
        self.clip_l = SmallClip(POOLED, device, dtype, model_options, return_projected_pooled=False)
        self.t5xxl = SmallT5(device, dtype, model_options)
        self.dtypes = {dtype}


class ToyFlux(comfy.supported_models.Flux):
    """Recognised by how wide its network and its text are."""

    unet_config = {"image_model": "flux", "hidden_size": 128, "context_in_dim": WIDTH, "guidance_embed": True}
    unet_extra_config = EXTRA
    latent_format = ToyLatent

    def clip_target(self, state_dict=None):
        return comfy.supported_models_base.ClipTarget(ToyFluxTokenizer, ToyFluxClip)
