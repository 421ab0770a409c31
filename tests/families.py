"""Tiny random networks of every family: the host's own classes, read by its loader of diffusion models.

The host tells a network by the shapes of its weights and takes the rest from what it knows of the real one. So a
family whose small version it could not read that way gets a class of its own for as long as the file is read.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import comfy.ldm.anima.model
import comfy.model_base
import comfy.nested_tensor
import comfy.ops
import comfy.sample
import comfy.sd
import comfy.supported_models
import torch

TEXT = 64
"""Width of what a text encoder gives, where the network lets one choose."""
POOLED = 64
ROWS = 7
"""Encodings of a text."""
MASK = {"attention_mask": torch.ones(1, ROWS, dtype=torch.long)}


class SmallAnima(comfy.ldm.anima.model.Anima):
    """The adapter's size is fixed in the host's own class."""

    def __init__(self, *args, **more):
        super(comfy.ldm.anima.model.Anima, self).__init__(*args, **more)
        parts = {key: more[key] for key in ("device", "dtype", "operations")}
        self.llm_adapter = comfy.ldm.anima.model.LLMAdapter(TEXT, TEXT, TEXT, num_layers=1, num_heads=2, **parts)


class SmallAnimaModel(comfy.model_base.Anima):
    def __init__(self, config, device=None):
        kind = comfy.model_base.ModelType.FLOW
        comfy.model_base.BaseModel.__init__(self, config, kind, device=device, unet_model=SmallAnima)


@dataclass(frozen=True)
class Tiny:
    """``kind``: the host's name of the model; ``network``: its network's class, by its name within ``comfy.ldm``.

    ``told_by``: what the host's detection reads of the small version and of no real one; without it, the stock class
    reads the small version as it is. ``metadata``: of the file. ``cond``: what a conditioning has beside the context.
    ``base``: a class of the host's models in place of the stock one.
    """

    kind: str
    network: str
    config: Mapping = field(default_factory=dict)
    told_by: Mapping = field(default_factory=dict)
    latent: tuple = (16, 8, 8)
    text: int = TEXT
    pooled: int = 0
    metadata: Mapping = field(default_factory=dict)
    cond: Mapping = field(default_factory=dict)
    base: type | None = None


ANIMA = {"t5xxl_ids": torch.arange(5, 10), "t5xxl_weights": torch.linspace(0.8, 1.2, 5)}
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
    "channel_mult": [1, 2], "transformer_depth": [0, 1], "transformer_depth_output": [0, 0, 1, 1],
    "transformer_depth_middle": 1, "context_dim": TEXT, "use_linear_in_transformer": True, "num_heads": -1,
    "use_spatial_transformer": True, "num_head_channels": 32, "num_classes": "sequential",
}  # fmt: skip
FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": POOLED, "context_in_dim": TEXT, "hidden_size": 128,
    "mlp_ratio": 4.0, "num_heads": 1, "depth": 1, "depth_single_blocks": 1, "axes_dim": [16, 56, 56], "theta": 10000,
    "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
CHROMA = {
    **{key: value for key, value in FLUX.items() if key != "guidance_embed"}, "vec_in_dim": None, "in_channels": 64,
    "out_channels": 64, "in_dim": 64, "out_dim": 128, "hidden_dim": 64, "n_layers": 1,
}  # fmt: skip
COSMOS = {
    "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16, "patch_spatial": 2,
    "patch_temporal": 1, "model_channels": 128, "num_blocks": 2, "num_heads": 2, "crossattn_emb_channels": TEXT,
    "pos_emb_cls": "rope3d", "pos_emb_learnable": True, "use_adaln_lora": True, "adaln_lora_dim": 32,
    "rope_enable_fps_modulation": False,
}  # fmt: skip
LUMINA = {
    "in_channels": 16, "dim": 96, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 3, "n_kv_heads": 1, "qk_norm": True,
    "multiple_of": 32, "cap_feat_dim": TEXT, "axes_dims": [8, 12, 12], "axes_lens": [32, 32, 32],
}  # fmt: skip
HUNYUAN = {
    "in_channels": 16, "out_channels": 16, "patch_size": [1, 2, 2], "vec_in_dim": 768, "context_in_dim": TEXT,
    "hidden_size": 128, "mlp_ratio": 4.0, "num_heads": 1, "depth": 1, "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56], "theta": 256, "qkv_bias": True, "guidance_embed": False, "byt5": False,
    "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
MMDIT = {
    "in_channels": 16, "out_channels": 16, "depth": 2, "adm_in_channels": POOLED, "input_size": None,
    "pos_embed_max_size": 16, "num_patches": 256, "qk_norm": "rms",
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": TEXT, "out_features": 128}},
}  # fmt: skip
TINY = {
    "SD 1.x": Tiny(
        "SD15", "modules.diffusionmodules.openaimodel.UNetModel",
        {**UNET, "use_linear_in_transformer": False, "num_classes": None},
        {"model_channels": 32, "context_dim": TEXT, "adm_in_channels": None}, (4, 8, 8),
    ),
    "SDXL": Tiny(
        "SDXL", "modules.diffusionmodules.openaimodel.UNetModel",
        {**UNET, "adm_in_channels": 2816},
        {"model_channels": 32, "context_dim": TEXT, "adm_in_channels": 2816}, (4, 8, 8), pooled=1280,
    ),
    "Cosmos-Predict2": Tiny(
        "CosmosT2IPredict2", "cosmos.predict2.MiniTrainDIT", COSMOS,
        {"image_model": "cosmos_predict2", "model_channels": 128}, (16, 1, 8, 8),
    ),
    "Anima": Tiny(
        "Anima", "anima.model.Anima", COSMOS, {"image_model": "anima", "model_channels": 128}, (16, 1, 8, 8),
        cond=ANIMA, base=SmallAnimaModel,
    ),
    "Lumina 2": Tiny(
        "Lumina2", "lumina.model.NextDiT", LUMINA, {"image_model": "lumina2", "dim": 96},
    ),
    "Z-Image": Tiny(
        "ZImage", "lumina.model.NextDiT",
        {**LUMINA, "dim": 256, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [32, 48, 48], "z_image_modulation": True,
         "time_scale": 1000.0, "pad_tokens_multiple": 32},
        {"image_model": "lumina2", "dim": 256},
    ),
    "Flux.1": Tiny("Flux", "flux.model.Flux", FLUX, pooled=POOLED),
    "Flux.1 schnell": Tiny("FluxSchnell", "flux.model.Flux", {**FLUX, "guidance_embed": False}, pooled=POOLED),
    "Flux.2": Tiny(
        "Flux2", "flux.model.Flux",
        {**FLUX, "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "mlp_ratio": 3.0, "patch_size": 1,
         "axes_dim": [32, 32, 32, 32], "theta": 2000, "qkv_bias": False, "guidance_embed": False, "txt_ids_dims": [3],
         "global_modulation": True, "mlp_silu_act": True, "ops_bias": False},
        latent=(128, 4, 4),
    ),
    "LongCat-Image": Tiny(
        "LongCatImage", "flux.model.Flux",
        {**FLUX, "vec_in_dim": None, "context_in_dim": 3584, "guidance_embed": False, "txt_ids_dims": [1, 2]},
        text=3584,
    ),
    "Ovis-Image": Tiny(
        "FluxSchnell", "flux.model.Flux",
        {**FLUX, "vec_in_dim": None, "guidance_embed": False, "txt_ids_dims": [1, 2], "yak_mlp": True,
         "txt_norm": True},
    ),
    "Qwen-Image": Tiny(
        "QwenImage", "qwen_image.model.QwenImageTransformer2DModel",
        {"in_channels": 64, "num_layers": 1, "num_attention_heads": 1, "joint_attention_dim": TEXT},
        {"image_model": "qwen_image", "num_layers": 1}, (16, 1, 8, 8),
    ),
    "Mage-Flow": Tiny(
        "MageFlow", "mage_flow.model.MageFlowTransformer2DModel",
        {"in_channels": 128, "num_layers": 1, "num_attention_heads": 1, "joint_attention_dim": 2560},
        {"image_model": "mage_flow", "num_layers": 1}, (128, 4, 4), 2560,
    ),
    "Krea 2": Tiny(
        "Krea2", "krea2.model.SingleStreamDiT",
        {"features": 128, "txtdim": 40, "heads": 1, "kvheads": 1, "layers": 1, "channels": 16, "txtlayers": 3},
        latent=(16, 1, 8, 8), text=120,
    ),
    "Chroma": Tiny(
        "Chroma", "chroma.model.Chroma", CHROMA, {"image_model": "chroma", "hidden_size": 128},
    ),
    "SD 3.5": Tiny(
        "SD3", "modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper",
        MMDIT, pooled=POOLED,
    ),
    "SD 3.5 with layers in front": Tiny(
        "SD3", "modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper",
        {**MMDIT, "context_processor_layers": 1, "context_size": TEXT},
        {"depth": 2, "context_processor_layers": 1}, pooled=POOLED,
    ),
    "Wan 2.x": Tiny(
        "WAN21_T2V", "wan.model.WanModel",
        {"dim": 128, "ffn_dim": 128, "text_dim": TEXT, "num_heads": 1, "num_layers": 1}, latent=(16, 1, 8, 8),
        metadata={"text_dim": TEXT},
    ),
    "LTX-Video": Tiny(
        "LTXV", "lightricks.model.LTXVModel",
        {"cross_attention_dim": 64, "attention_head_dim": 2, "num_attention_heads": 32, "caption_channels": TEXT,
         "num_layers": 1},
        latent=(128, 1, 4, 4), cond=MASK, metadata={"caption_channels": TEXT, "attention_head_dim": 2},
    ),
    "HunyuanVideo": Tiny(
        "HunyuanVideo", "hunyuan_video.model.HunyuanVideo", HUNYUAN, latent=(16, 1, 8, 8), pooled=768,
    ),
    "HunyuanImage": Tiny(
        "HunyuanImage21", "hunyuan_video.model.HunyuanVideo",
        {**HUNYUAN, "in_channels": 64, "out_channels": 64, "patch_size": [1, 1], "axes_dim": [64, 64],
         "vec_in_dim": None},
        latent=(64, 4, 4),
    ),
    "Ernie-Image": Tiny(
        "ErnieImage", "ernie.model.ErnieImageModel",
        {"hidden_size": 128, "num_attention_heads": 1, "num_layers": 1, "ffn_hidden_size": 128, "text_in_dim": TEXT},
        {"image_model": "ernie"}, (128, 4, 4),
    ),
    "MiniMax H3": Tiny(
        "MiniMaxH3", "minimax.model.MiniMaxH3Model",
        {"hidden_size": 128, "num_layers": 1, "token_refiner_num_layers": 1, "num_attention_heads": 1,
         "attention_head_dim": 128, "ffn_hidden_size": 128, "text_dim": TEXT, "time_embed_hidden_size": 64,
         "time_embed_dim": 64, "timestep_input_dim": 64},
        latent=((24, 1, 4, 4), (32, 2, 4)),
    ),
    "PixArt": Tiny(
        "PixArtSigma", "pixart.pixartms.PixArtMS",
        {"hidden_size": 96, "depth": 1, "num_heads": 2, "caption_channels": TEXT, "model_max_length": 8,
         "micro_condition": False},
        {"image_model": "pixart_sigma", "depth": 1}, (4, 40, 40),
    ),
    "AuraFlow": Tiny(
        "AuraFlow", "aura.mmdit.MMDiT",
        {"dim": 64, "n_layers": 2, "n_double_layers": 1, "n_heads": 2, "global_conddim": 64, "cond_seq_dim": TEXT,
         "max_seq": 64},
        {"cond_seq_dim": TEXT}, (4, 8, 8),
    ),
    "OmniGen 2": Tiny(
        "Omnigen2", "omnigen.omnigen2.OmniGen2Transformer2DModel",
        {"hidden_size": 96, "num_layers": 1, "num_refiner_layers": 1, "num_attention_heads": 3, "num_kv_heads": 1,
         "multiple_of": 32, "axes_dim_rope": [8, 12, 12], "axes_lens": [64, 64, 64], "text_feat_dim": TEXT,
         "timestep_scale": 1000.0},
        {"image_model": "omnigen2"}, cond=MASK,
    ),
    "Boogu": Tiny(
        "Boogu", "boogu.model.BooguTransformer2DModel",
        {"hidden_size": 96, "num_layers": 1, "num_double_stream_layers": 1, "num_refiner_layers": 1,
         "num_attention_heads": 3, "num_kv_heads": 1, "multiple_of": 32, "axes_dim_rope": [8, 12, 12],
         "axes_lens": [64, 64, 64], "instruction_feat_dim": TEXT},
        {"image_model": "boogu", "hidden_size": 96}, cond=MASK,
    ),
    "JoyImage": Tiny(
        "JoyImage", "joyimage.model.JoyImageTransformer3DModel",
        {"hidden_size": 128, "num_attention_heads": 1, "text_dim": TEXT, "num_layers": 1},
        {"image_model": "joyimage", "num_layers": 1}, (16, 1, 8, 8),
    ),
    "Ideogram 4": Tiny(
        "Ideogram4", "ideogram4.model.Ideogram4Transformer2DModel",
        {"num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 128, "intermediate_size": 64,
         "adaln_dim": 32, "llm_features_dim": TEXT, "rope_theta": 10000, "mrope_section": [24, 20, 20]},
        {"image_model": "ideogram4", "num_layers": 1}, (128, 4, 4),
    ),
    "Kandinsky 5": Tiny(
        "Kandinsky5Image", "kandinsky5.model.Kandinsky5",
        {"in_text_dim": TEXT, "in_text_dim2": POOLED, "time_dim": 64, "model_dim": 64, "ff_dim": 64,
         "visual_embed_dim": 64, "num_text_blocks": 1, "num_visual_blocks": 1, "axes_dims": [16, 24, 24]},
        {"image_model": "kandinsky5", "model_dim": 64}, (16, 1, 8, 8), pooled=POOLED,
    ),
}  # fmt: skip
REFUSED = {
    "SVD": Tiny(
        "SVD_img2vid", "modules.diffusionmodules.openaimodel.UNetModel",
        {**UNET, "in_channels": 8, "adm_in_channels": 768, "use_temporal_attention": True,
         "use_temporal_resblock": True, "extra_ff_mix_layer": True, "use_spatial_context": True,
         "merge_strategy": "learned_with_images", "merge_factor": 0.0, "video_kernel_size": [3, 1, 1],
         "disable_temporal_crossattention": False},
        {"model_channels": 32, "adm_in_channels": 768},
    ),
    "Stable Cascade": Tiny(
        "Stable_Cascade_C", "cascade.stage_c.StageC",
        {"c_cond": 32, "c_hidden": [32, 32], "nhead": [2, 2], "blocks": [[1, 1], [1, 1]], "c_clip_text": TEXT},
        {"stable_cascade_stage": "c"},
    ),
    "HunyuanDiT": Tiny(
        "HunyuanDiT1", "hydit.models.HunYuanDiT",
        {"hidden_size": 64, "depth": 2, "num_heads": 2, "text_states_dim": TEXT, "text_states_dim_t5": TEXT,
         "size_cond": True, "use_style_cond": True},
        {"depth": 2},
    ),
    "HiDream": Tiny(
        "HiDream", "hidream.model.HiDreamImageTransformer2DModel",
        {"patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 1, "num_single_layers": 1,
         "num_attention_heads": 1, "caption_channels": [TEXT, TEXT], "text_emb_dim": POOLED, "llama_layers": [0, 1],
         "axes_dims_rope": [64, 32, 32]},
        {"image_model": "hidream"},
    ),
    "Lens": Tiny(
        "Lens", "lens.model.LensTransformer2DModel",
        {"num_layers": 1, "num_attention_heads": 1, "enc_hidden_dim": TEXT, "selected_layer_index": [0, 1]},
        {"image_model": "lens", "num_layers": 1},
    ),
    "LTX-2": Tiny(
        "LTXAV", "lightricks.av_model.LTXAVModel",
        {"cross_attention_dim": 64, "audio_cross_attention_dim": 64, "attention_head_dim": 2,
         "audio_attention_head_dim": 2, "caption_channels": TEXT, "num_layers": 1, "connector_attention_head_dim": 8,
         "connector_num_attention_heads": 8, "connector_num_layers": 1},
        {"image_model": "ltxav", "num_layers": 1},
    ),
}  # fmt: skip
"""Networks without one linear layer that all text passes, or that read no text."""


def load(tiny: Tiny, seed: int = 0, quantised: Sequence[str] = ()):
    """A MODEL as the stock diffusion-model loader gives it, in float32; some weights as scaled fp8."""
    state = random_state(tiny, seed)
    for name in quantised:
        state |= in_eight_bits(name, state[name])
    return load_state(tiny, state, dtype=torch.float32)


def load_state(tiny: Tiny, state: Mapping[str, torch.Tensor], **options):
    """The same from weights as a file has them."""
    facts = {"config": json.dumps({"transformer": dict(tiny.metadata)})} if tiny.metadata else None
    with registered(tiny), torch.inference_mode():
        return comfy.sd.load_diffusion_model_state_dict(dict(state), options, metadata=facts)


def in_eight_bits(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """A weight as files in scaled fp8 have it."""
    scale = weight.abs().max() / torch.finfo(torch.float8_e4m3fn).max
    about = json.dumps({"format": "float8_e4m3fn"}).encode()
    return {
        name: (weight / scale).to(torch.float8_e4m3fn),
        f"{name}_scale": scale,
        f"{name.removesuffix('weight')}comfy_quant": torch.tensor(list(about), dtype=torch.uint8),
    }


def random_state(tiny: Tiny, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of a network, none of which is zero, so that every part can be seen to matter."""
    network = _class_of(tiny)(
        **tiny.config, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init
    )
    generator = torch.Generator().manual_seed(seed)
    return {name: _random(tensor, generator) for name, tensor in network.state_dict().items()}


def is_known(tiny: Tiny) -> bool:
    """Whether the host has the network; older ones lack some."""
    try:
        return hasattr(comfy.supported_models, tiny.kind) and _class_of(tiny) is not None
    except ImportError:
        return False


def _class_of(tiny: Tiny) -> type:
    module, _, name = tiny.network.rpartition(".")
    kind = getattr(importlib.import_module(f"comfy.ldm.{module}"), name)
    return SmallAnima if kind in SmallAnima.__mro__[1:] and tiny.base else kind


def _random(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    noise = torch.randn(tensor.shape, generator=generator)
    return noise / tensor[0].numel() ** 0.5 if tensor.ndim > 1 else 1 + noise / 4


@contextlib.contextmanager
def registered(tiny: Tiny) -> Iterator[None]:
    """The host knows the small version for as long as this lasts."""
    models = comfy.supported_models.models
    if not tiny.told_by:
        yield
        return
    stock = getattr(comfy.supported_models, tiny.kind)
    facts = {"unet_config": dict(tiny.told_by), "unet_extra_config": dict(tiny.config)}
    if tiny.base:
        facts["get_model"] = lambda config, state, prefix="", device=None: tiny.base(config, device=device)
    models.insert(0, type(f"Tiny{tiny.kind}", (stock,), facts))
    try:
        yield
    finally:
        models.pop(0)


def latent(tiny: Tiny, seed: int = 0):
    """Noise for one picture; of sound and picture for a network that draws both."""
    generator = torch.Generator().manual_seed(seed)
    shapes = tiny.latent if isinstance(tiny.latent[0], tuple) else (tiny.latent,)
    parts = [torch.randn(1, *shape, generator=generator) for shape in shapes]
    return parts[0] if len(parts) == 1 else comfy.nested_tensor.NestedTensor(parts)


def conditioning(tiny: Tiny, rows: torch.Tensor, pooled: torch.Tensor | None = None, **more) -> list:
    """As a text encoder gives it."""
    if "attention_mask" in tiny.cond:
        more = {"attention_mask": torch.ones(1, len(rows), dtype=torch.long), **more}
    return [[rows[None], {"pooled_output": pooled, **tiny.cond, **more}]]


@torch.inference_mode()
def draw(model, tiny: Tiny, cond: list, other: list | None = None) -> torch.Tensor:
    """What one step of the host's sampler makes of a conditioning, flat; with another beside it as the negative."""
    noise = latent(tiny)
    parts = noise.unbind() if noise.is_nested else [noise]
    empty = [torch.zeros_like(part) for part in parts]
    start = comfy.nested_tensor.NestedTensor(empty) if noise.is_nested else empty[0]
    out = comfy.sample.sample(
        model, noise, 1, 1.0 if other is None else 3.0, "euler", "simple", cond, other or cond, start,
        seed=0, disable_pbar=True,
    )  # fmt: skip
    return torch.cat([part.flatten() for part in (out.unbind() if out.is_nested else [out])]).clone()


def predictions(model, tiny: Tiny, cond: list, other: list) -> list[torch.Tensor]:
    """What the network makes of each of two conditionings in a run with both."""
    seen: list[torch.Tensor] = []

    def guide(args):
        seen.extend([args["cond_denoised"].clone(), args["uncond_denoised"].clone()])
        return args["cond"]

    model = model.clone()
    model.set_model_sampler_cfg_function(guide)
    draw(model, tiny, cond, other)
    return seen
