"""The random checkpoint as other loaders keep it: in eight bits, quantised by the host, or packed in bytes.

Packed weights are a stand-in for what third-party loaders do: a tensor type of their own that tells its true shape,
layers that unpack it in ``forward`` and know nothing of weight functions, and a patcher that leaves patches on it.
"""

from __future__ import annotations

import json
from pathlib import Path

import comfy.lora
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import torch
from safetensors.torch import load_file

from concept_erasure.erasure.host.weights import stored_weights

UNET = "model.diffusion_model."


def unet_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return {k.removeprefix(UNET): v for k, v in load_file(checkpoint).items() if k.startswith(UNET)}


@torch.inference_mode()
def load(state: dict[str, torch.Tensor], **options):
    """A MODEL as the stock diffusion-model loader gives it: in inference mode, as the host runs its nodes."""
    return comfy.sd.load_diffusion_model_state_dict(dict(state), model_options=options)


def scaled(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights as scaled fp8 files have them: quantised in all attention and feed-forward layers."""
    out = {}
    for name, weight in state.items():
        if weight.ndim != 2 or not name.endswith("weight") or not ("attn" in name or ".ff." in name):
            out[name] = weight
            continue
        scale = weight.float().abs().max() / torch.finfo(torch.float8_e4m3fn).max
        out[name] = (weight.float() / scale).to(torch.float8_e4m3fn)
        out[f"{name}_scale"] = scale.clone()
        about = json.dumps({"format": "float8_e4m3fn"}).encode()
        out[f"{name.removesuffix('weight')}comfy_quant"] = torch.tensor(list(about), dtype=torch.uint8)
    return out


class Packed(torch.Tensor):
    """Half-precision numbers as bytes, which say the shape of the numbers."""

    def __new__(cls, data, size):
        return torch.Tensor._make_subclass(cls, data, False)

    def __init__(self, data, size):
        self.true_size = size

    @property
    def shape(self):
        return getattr(self, "true_size", self.size())

    def detach(self):
        return self

    def clone(self, *_, **__):
        return self

    def to(self, *args, **kwargs):
        out = super().to(*args, **kwargs)
        out.true_size = self.shape
        return out

    def numbers(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor).view(torch.float16)


class PackedOps(comfy.ops.manual_cast):
    class Linear(comfy.ops.manual_cast.Linear):
        def _load_from_state_dict(self, state, prefix, *_):
            weight, bias = state.get(f"{prefix}weight"), state.get(f"{prefix}bias")
            if weight is not None:
                if weight.shape[1] % 32 == 0:
                    weight = Packed(weight.half().contiguous().view(torch.uint8), weight.shape)
                self.weight = torch.nn.Parameter(weight, requires_grad=False)
            if bias is not None:
                self.bias = torch.nn.Parameter(bias, requires_grad=False)

        def forward(self, x):
            weight = self.weight
            patches = getattr(weight, "patches", None)
            weight = (weight.numbers() if isinstance(weight, Packed) else weight).to(x.dtype)
            if patches:
                weight = comfy.lora.calculate_weight(patches, weight.float(), "").to(x.dtype)
            return torch.nn.functional.linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))


class SealedOps(PackedOps):
    """Packed layers that compute on their own device alone, when the whole network runs."""

    running = False

    class Linear(PackedOps.Linear):
        def forward(self, x):
            if not SealedOps.running and isinstance(self.weight, Packed):
                raise NotImplementedError("no kernel for this device")
            return super().forward(x)


class PackedPatcher(comfy.model_patcher.ModelPatcher):
    def patch_weight_to_device(self, key, *args, **kwargs):
        weight = comfy.utils.get_attr(self.model, key)
        if not isinstance(weight, Packed):
            return super().patch_weight_to_device(key, *args, **kwargs)
        if key in self.patches:
            weight.patches = self.patches[key]
        return None

    def unpatch_model(self, *args, **kwargs):
        for parameter in self.model.parameters():
            if isinstance(parameter, Packed):
                parameter.patches = []
        return super().unpatch_model(*args, **kwargs)

    def load(self, *args, **kwargs):
        return super().load(*args, **{**kwargs, "force_patch_weights": True})


def packed(state: dict[str, torch.Tensor], operations=PackedOps):
    model = load(state, custom_operations=operations)
    model.__class__ = PackedPatcher
    return model


# ---------------------------------------------------------------- everything that a network is


def numbers(tensor: torch.Tensor) -> list[bytes]:
    """A tensor's bytes, and those of the tensors that it is made of."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return [part for name in names for part in numbers(getattr(tensor, name))]
    plain = tensor.as_subclass(torch.Tensor) if isinstance(tensor, Packed) else tensor
    return [plain.contiguous().view(-1).view(torch.uint8).cpu().numpy().tobytes()]


def readable(tensor: torch.Tensor) -> bool:
    """Whether the host can do in inference mode, where it runs nodes, what it does to every weight."""
    with torch.inference_mode():
        try:
            tensor.detach().float()
        except RuntimeError:
            return False
    return True


def snapshot(model) -> dict[str, object]:
    """All weights, buffers, functions and patches of a MODEL, with types, devices and modes, to compare by ``==``."""
    out: dict[str, object] = {}
    for name, tensor in [*stored_weights(model).items(), *model.model.named_buffers()]:
        kinds = type(tensor), tensor.dtype, tensor.device, tuple(tensor.shape), tensor.requires_grad, readable(tensor)
        out[name] = (*kinds, getattr(tensor, "patches", None) or None, *numbers(tensor))
    for name, layer in model.model.named_modules():
        functions = [list(getattr(layer, f, ())) for f in ("weight_function", "bias_function")]
        hooks = len(layer._forward_hooks), len(layer._forward_pre_hooks), "forward" in vars(layer)
        out[f"{name} (layer)"] = (*functions, *hooks, getattr(layer, "comfy_cast_weights", None), layer.training)
    out["patches"] = {k: list(v) for k, v in model.patches.items()}, dict(model.weight_wrapper_patches)
    out["options"] = repr(model.model_options), sorted(model.object_patches), sorted(model.attachments)
    return out
