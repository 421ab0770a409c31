"""What a LoRA file says of itself, so that other programs list it with the models that it is for.

Two sets of keys are read: those of kohya's trainer (``ss_…``: A1111, Forge and their relatives) and ModelSpec 1.0.1
(``modelspec.…``: SwarmUI and others, https://github.com/Stability-AI/ModelSpec). All values are strings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

import comfy.supported_models
import torch
from safetensors.torch import save

from .artifact import Metadata
from .protocols import Model
from .version import pack_version


@dataclass(frozen=True)
class Base:
    """What a LoRA goes onto: ``version`` as kohya's trainer names it, ``architecture`` as ModelSpec does; for models
    that predict v there are names of their own."""

    version: str
    architecture: str
    v_version: str = ""
    v_architecture: str = ""
    v2: bool = False

    def names(self, predicts_v: bool) -> tuple[str, str]:
        """Version and architecture."""
        if not predicts_v:
            return self.version, self.architecture
        return self.v_version or self.version, self.v_architecture or self.architecture


def _sd2(architecture: str, v_architecture: str = "") -> Base:
    return Base("sd_v2", architecture, "sd_v2_v", v_architecture, v2=True)


BASES = {
    "SD15": Base("sd_v1", "stable-diffusion-v1", "sd_v1_v"),
    "SD20": _sd2("stable-diffusion-v2-512", "stable-diffusion-v2-768-v"),
    "SD21UnclipL": _sd2("stable-diffusion-v2-unclip-l"),
    "SD21UnclipH": _sd2("stable-diffusion-v2-unclip-h"),
    "SD_X4Upscaler": _sd2("stable-diffusion-x4-upscaler"),
    "SDXL": Base("sdxl_base_v1-0", "stable-diffusion-xl-v1-base"),
    "SDXLRefiner": Base("sdxl_refiner_v1-0", "stable-diffusion-xl-v1-refiner"),
}
"""The host's classes of models. Those derived from one of them (SSD-1B, Vega and KOALA from SDXL, other packs' classes)
count as it, as they do where the host itself saves a checkpoint."""


def base_of(model: Model, family: str) -> Base:
    """What an erasure of a family goes onto, on a host MODEL that it fits.

    A class of the host's own says so. ``family`` comes from a file and may be any text; it counts for another pack's
    class, whose ancestors decide where the host knows no such family. A model of no known class has its class's name.
    """
    own = type(model.model.model_config)
    known = [_host_class(name) for name in (own.__name__, family)]
    for kind in (*known, own):
        for ancestor in kind.__mro__ if kind is not None else ():
            if ancestor.__name__ in BASES:
                return BASES[ancestor.__name__]
    return Base(own.__name__, own.__name__)


def _host_class(name: str) -> type | None:
    kind = getattr(comfy.supported_models, name, None)
    return kind if isinstance(kind, type) else None


def prediction(model: Model) -> str:
    """What a host MODEL predicts, in ModelSpec's word; empty for what it has no word for."""
    kinds = {kind.__name__ for kind in type(model.get_model_object("model_sampling")).__mro__}
    if kinds & {"EDM", "X0"}:  # which derive from the two below
        return ""
    return "v" if "V_PREDICTION" in kinds else "epsilon" if "EPS" in kinds else ""


def lora_strings(
    model: Model, made: Metadata, title: str, rank: int, tensors: Mapping[str, torch.Tensor]
) -> dict[str, str]:
    """The strings of a LoRA file of some tensors, whose largest rank is given, of an erasure for a host MODEL."""
    base, predicted = base_of(model, made.family), prediction(model)
    version, architecture = base.names(predicted == "v")
    digest = numbers_hash(tensors)
    strings = {
        "ss_base_model_version": version,
        "ss_v2": str(base.v2),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "ss_network_args": json.dumps({}),
        "sshs_model_hash": digest,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",  # whose names the keys are
        "modelspec.title": title,
        "modelspec.description": f"{title}. A concept erasure by the method {made.method or 'unknown'}, made with "
        f"Concept Erasure for ComfyUI {made.pack_version or pack_version()}. Use it at strength 1.",
        "modelspec.date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "modelspec.hash_sha256": f"0x{digest}",
        "modelspec.prediction_type": predicted,
    }
    return {name: value for name, value in strings.items() if value}


def numbers_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the numbers in a .safetensors file of some tensors, in hexadecimal; no string in the file changes it.

    The short hash of older programs (``sshs_legacy_hash``) is left out: it is the same for all files below 1 MB.
    """
    data = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    return hashlib.sha256(memoryview(data)[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
