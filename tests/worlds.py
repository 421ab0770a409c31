"""Tiny models with random weights, in the layout of the toy checkpoint, for tests that need a host but no pictures."""

from __future__ import annotations

from pathlib import Path

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from toyworld import autoencoder
from toyworld.node import family
from toyworld.train import unet_model

family.register()


class NarrowWorld(family.ToyWorld):
    """A second family: the same network with a narrower text context."""

    unet_config = {**family.ToyWorld.unet_config, "context_dim": 64}


comfy.supported_models.models.append(NarrowWorld)


def random_checkpoint(path: Path, seed: int = 0, context_dim: int = family.CONTEXT_DIM) -> Path:
    """A checkpoint that the stock loader reads. Nothing in it is zero, so that every part can be seen to matter."""
    torch.manual_seed(seed)
    state = {f"model.diffusion_model.{k}": v for k, v in _random_unet(context_dim).items()}
    if context_dim == family.CONTEXT_DIM:
        state |= {f"cond_stage_model.transformer.{k}": v for k, v in _random_text_encoder().items()}
        for name, part in (("encoder", autoencoder.encoder()), ("decoder", autoencoder.decoder())):
            weights = {f"taesd_{name}.{k}": v for k, v in part.state_dict().items()}
            state |= {f"first_stage_model.{k}": v for k, v in autoencoder.widen(weights).items()}
        state |= {"first_stage_model.vae_scale": torch.tensor(1.0), "first_stage_model.vae_shift": torch.tensor(0.0)}
    save_file({k: v.detach().half().contiguous() for k, v in state.items()}, path)
    return path


def _random_unet(context_dim: int) -> dict[str, torch.Tensor]:
    net = unet_model()
    for name, parameter in net.named_parameters():
        if ".attn2.to_k" in name or ".attn2.to_v" in name:
            width = context_dim**-0.5
            parameter.data = torch.randn(len(parameter), context_dim) * (2 * width if "to_k" in name else width)
        elif not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return net.state_dict()


def _random_text_encoder() -> dict[str, torch.Tensor]:
    model = CLIPTextModel(CLIPTextConfig(**family.TEXT_CONFIG))
    # A token must count for more than its place, or the random encoder could not tell texts apart.
    model.get_input_embeddings().weight.data.normal_(std=0.3)
    state = model.state_dict()
    return {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in state.items()}


@torch.inference_mode()
def load(path: Path, dtype: torch.dtype | None = None):
    """(MODEL, CLIP, VAE) as CheckpointLoaderSimple gives them: in inference mode, as the host runs its nodes."""
    options = {} if dtype is None else {"dtype": dtype}
    return comfy.sd.load_checkpoint_guess_config(str(path), model_options=options)[:3]


class NoCrossAttention(torch.nn.Module):
    """A diffusion model of another kind, as far as this pack looks at one."""

    def __init__(self, device=None, operations=None, **_):
        super().__init__()
        self.dtype = torch.float32
        self.proj = operations.Linear(4, 4, device=device)


def model_without_attn2():
    """A MODEL that is no UNet with cross-attention on text."""
    config = family.ToyWorld({"disable_unet_model_creation": False})
    config.unet_config = {"dtype": torch.float32}
    inner = comfy.model_base.BaseModel(config, unet_model=NoCrossAttention)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(inner, device, comfy.model_management.unet_offload_device())
