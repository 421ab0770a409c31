"""Tiny random text encoders: the host's tokenizers, and its text encoders with a few narrow layers.

Qwen's vision tower, which the host would build beside some of them, is left out. Tokenizers that come with a text
encoder's file are those of another one here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.text_encoders.llama as llama
import torch
from transformers import LlamaTokenizerFast, Qwen2Tokenizer, T5TokenizerFast

from . import families

WIDE = 40
"""Of the encodings of Krea's three layers; 32 or 64 elsewhere."""
CLIP = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3}
T5 = {"d_ff": 64, "d_kv": 16, "d_model": 64, "num_heads": 2, "num_layers": 2}
COMMON = 4000
"""Tokens of a T5 that is as wide as SD 3 must have it; the most frequent ones come first."""
LLM = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 1,
    "num_key_value_heads": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """``file``: of the host, with ``tokenizer`` and ``encoder``, a class or what makes one; ``options``: for the text
    encoder; ``stream``: that of the context; ``causal``: a token's encoding depends on none behind it; ``spiece``: the
    tokenizer comes with the text encoder; ``space``: of a template in front of a text; ``blank``: an empty text is read
    as nothing in the same template."""

    file: str
    tokenizer: str
    encoder: str
    stream: str
    options: Mapping = field(default_factory=dict)
    makes: bool = True
    causal: bool = True
    spiece: bool = False
    space: str = ""
    blank: bool = True
    arguments: Mapping = field(default_factory=dict)


def llm(layer: str | list = "last", layer_idx: int | None = None, **config):
    """A text encoder of the host without a vision tower, under any name."""

    class Model(comfy.sd1_clip.SDClipModel):
        def __init__(self, device="cpu", dtype=None, attention_mask=True, model_options=None, **_):
            super().__init__(
                device=device, layer=layer, layer_idx=layer_idx, textmodel_json_config={**LLM, **config}, dtype=dtype,
                special_tokens={"pad": 151643}, layer_norm_hidden_state=False, model_class=llama.Qwen3_4B,
                enable_attention_masks=True, return_attention_masks=True, model_options=model_options or {},
            )  # fmt: skip

    return Model


QWEN = {"qwen25_7b_class": llm()}
TINY = {
    "SDXL": Tiny("sdxl_clip", "SDXLTokenizer", "SDXLClipModel", "g",
                 {"clip_l_model_config": CLIP, "clip_g_model_config": {**CLIP, "projection_dim": 64}}, makes=False),
    "Flux.1": Tiny("text_encoders.flux", "FluxTokenizer", "flux_clip", "t5xxl",
                   {"clip_l_model_config": CLIP, "t5xxl_model_config": T5}, causal=False),
    "SD 3.5": Tiny("text_encoders.sd3_clip", "SD3Tokenizer", "sd3_clip", "t5xxl",
                   {"clip_l_model_config": CLIP, "clip_g_model_config": {**CLIP, "projection_dim": 64},
                    "t5xxl_model_config": {**T5, "d_model": 4096, "num_layers": 1, "vocab_size": COMMON}},
                   causal=False),
    "SD 3.5 without T5": Tiny("text_encoders.sd3_clip", "SD3Tokenizer", "sd3_clip", "g",
                              {"clip_l_model_config": CLIP, "clip_g_model_config": {**CLIP, "projection_dim": 64}},
                              arguments={"t5": False}),
    "Chroma": Tiny("text_encoders.pixart_t5", "PixArtTokenizer", "pixart_te", "t5xxl", {"t5xxl_model_config": T5},
                   causal=False),
    "AuraFlow": Tiny("text_encoders.aura_t5", "AuraT5Tokenizer", "AuraT5Model", "pile_t5xl",
                     {"pile_t5xl_model_config": T5}, makes=False, causal=False),
    "Wan 2.x": Tiny("text_encoders.wan", "WanT5Tokenizer", "te", "umt5xxl",
                    {"umt5xxl_model_config": {**T5, "vocab_size": 32128}}, causal=False, spiece=True),
    "LTX-Video": Tiny("text_encoders.lt", "LTXVT5Tokenizer", "ltxv_te", "t5xxl", {"t5xxl_model_config": T5},
                      causal=False),
    "Z-Image": Tiny("text_encoders.z_image", "ZImageTokenizer", "te", "qwen3_4b", {"qwen3_4b_model_config": LLM}),
    "Klein": Tiny("text_encoders.flux", "KleinTokenizer", "klein_te", "qwen3_4b",
                  {"qwen3_4b_class": llm([0, 1, 2], hidden_size=32)}),
    "Anima": Tiny("text_encoders.anima", "AnimaTokenizer", "te", "t5xxl", {"qwen3_06b_model_config": LLM}),
    "Qwen-Image": Tiny("text_encoders.qwen_image", "QwenImageTokenizer", "te", "qwen25_7b", QWEN),
    "LongCat-Image": Tiny("text_encoders.longcat_image", "LongCatImageTokenizer", "te", "qwen25_7b", QWEN, blank=False),
    "Krea 2": Tiny("text_encoders.krea2", "Krea2Tokenizer", "te", "qwen3vl_4b",
                   {"qwen3vl_4b_class": llm([0, 1, 2], hidden_size=WIDE)}),
    "Boogu": Tiny("text_encoders.boogu", "BooguTokenizer", "te", "qwen3vl_8b", {"qwen3vl_8b_class": llm()},
                  blank=False),
    "Kandinsky 5": Tiny("text_encoders.kandinsky5", "Kandinsky5TokenizerImage", "te", "qwen25_7b",
                        {**QWEN, "clip_l_model_config": CLIP}),
    "OmniGen 2": Tiny("text_encoders.omnigen2", "Omnigen2Tokenizer", "te", "qwen25_3b",
                      {"qwen25_3b_model_config": LLM}),
    "HunyuanVideo": Tiny("text_encoders.hunyuan_video", "HunyuanVideoTokenizer", "hunyuan_video_clip", "llama",
                         {"clip_l_model_config": CLIP, "llama_model_config": LLM}),
    "Lumina 2": Tiny("text_encoders.lumina2", "LuminaTokenizer", "te", "gemma2_2b",
                     {"gemma2_2b_model_config": {**LLM, "vocab_size": 32128}}, spiece=True),
    "Ovis-Image": Tiny("text_encoders.ovis", "OvisTokenizer", "te", "qwen3_2b", {"qwen3_2b_model_config": LLM},
                       space=" ", blank=False),
}  # fmt: skip


def reading(network: str, encoder: str = "", **config) -> tuple[families.Tiny, str]:
    """A tiny network as it reads a text encoder, by default the one of the same name; with other widths."""
    tiny = families.TINY[network]
    return replace(tiny, config={**tiny.config, **config}), encoder or network


PAIRS = {
    **{name: reading(name) for name in (
        "Anima", "Lumina 2", "Z-Image", "Flux.1", "Ovis-Image", "Krea 2", "Chroma", "Wan 2.x", "LTX-Video", "AuraFlow",
        "OmniGen 2", "Boogu", "Kandinsky 5", "Qwen-Image",
    )},
    "Flux.1 schnell": reading("Flux.1 schnell", "Flux.1"),
    "Flux.2": reading("Flux.2", "Klein", context_in_dim=96),
    "PixArt": reading("PixArt", "Chroma"),
    "SD 3.5": reading("SD 3.5", "SD 3.5 without T5", adm_in_channels=128, context_embedder_config={
        "target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128},
    }),
}  # fmt: skip
"""Name -> a tiny network, and the tiny text encoder that it reads."""


def is_known(tiny: Tiny) -> bool:
    """Whether the host has the text encoder; older ones lack some."""
    return importlib.util.find_spec(f"comfy.{tiny.file}") is not None


@torch.inference_mode()
def load(tiny: Tiny):
    """A CLIP of the host, with random weights that tell all tokens apart."""
    module = importlib.import_module(f"comfy.{tiny.file}")
    encoder = getattr(module, tiny.encoder)
    target = comfy.supported_models_base.ClipTarget(
        getattr(module, tiny.tokenizer), encoder(**tiny.arguments) if tiny.makes else encoder
    )
    with shared_tokenizers():
        clip = comfy.sd.CLIP(target, tokenizer_data=spiece() if tiny.spiece else {},
                             model_options={"dtype": torch.float32, **tiny.options})  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for name, weight in clip.cond_stage_model.named_parameters():
        weight.data = torch.ones(weight.shape)
        if weight.ndim > 1:
            scale = 1.0 if "embed" in name or name.endswith("shared.weight") else weight.shape[1] ** -0.5
            weight.data = torch.randn(weight.shape, generator=generator) * scale
    return clip


def spiece() -> dict:
    folder = Path(comfy.sd1_clip.__file__).parent / "text_encoders" / "t5_pile_tokenizer"
    return {"spiece_model": torch.frombuffer(bytearray((folder / "tokenizer.model").read_bytes()), dtype=torch.uint8)}


_read = {kind: functools.cache(kind.from_pretrained) for kind in (Qwen2Tokenizer, T5TokenizerFast, LlamaTokenizerFast)}


@contextlib.contextmanager
def shared_tokenizers() -> Iterator[None]:
    """Each tokenizer is read from its files once: it takes seconds."""
    with contextlib.ExitStack() as stack:
        for kind, read in _read.items():
            stack.enter_context(mock.patch.object(kind, "from_pretrained", read))
        yield
