"""Erasures and other people's files: out as a plain LoRA, in from LoRA, difference and full-weight files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import comfy.lora
import comfy.lora_convert
import comfy.utils
import torch
from comfy.weight_adapter import LoRAAdapter

from . import attach
from .artifact import (
    OWN_STRINGS,
    Change,
    Erasure,
    ErasureError,
    Full,
    LowRank,
    Metadata,
    read_tensors,
    write_tensors,
)
from .fingerprint import checkpoint_weights, context_dim, fingerprint
from .texts.names import lines
from .version import host_version, pack_version

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
CONTENTS = ("find out", "full weights", "difference")
PREFIXES = ("", "unet.", "model.diffusion_model.", "diffusion_model.")
"""What public files put before the names of a UNet's weights."""
EXACT = 1e-6
"""Singular values below this share of the largest are float32 rounding."""


# ---------------------------------------------------------------- out


def lora_keys(model) -> dict[str, str]:
    """Host weight name -> the key under which LoRA files keep it, for every weight of a MODEL's UNet.

    The names are those of kohya's trainer after diffusers' blocks, which trainers and loaders share.
    """
    known = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    return {
        f"diffusion_model.{ours}": "lora_unet_" + theirs.removesuffix(".weight").removesuffix(".bias").replace(".", "_")
        for theirs, ours in known.items()
    }


def lora_tensors(model, erasure: Erasure, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    """The erasure's change as the tensors of a LoRA file. Raises ErasureError when it has none or fits another model.

    Low-rank parts go out as they are; parts that are written out are factored without loss of more than rounding.
    """
    attach.check_fit(model, erasure)
    if not erasure.delta:
        raise ErasureError(
            "This erasure is a prompt and changes no weights, which a LoRA cannot hold: keep it with Save Erasure."
        )
    keys = lora_keys(model)
    out: dict[str, torch.Tensor] = {}
    for name, change in erasure.delta.items():
        if name not in keys:
            raise ErasureError(f"The weight {name} has no name in LoRA files: keep this erasure with Save Erasure.")
        out |= _lora_part(keys[name], name, change, dtype)
    return out


def _lora_part(key: str, name: str, change: Change, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    if name.endswith(".bias"):
        return {f"{key}.diff_b": change.dense().to(dtype)}
    if isinstance(change, Full) and change.full.ndim != 2:
        return {f"{key}.diff": change.dense().to(dtype)}
    part = change if isinstance(change, LowRank) else factor(change.dense())
    alpha = torch.tensor(float(len(part.down)))  # alpha / rank scales the product: 1
    factors = {"lora_up.weight": part.up.to(dtype), "lora_down.weight": part.down.to(dtype)}
    return {f"{key}.{end}": tensor for end, tensor in {**factors, "alpha": alpha}.items()}


def factor(matrix: torch.Tensor) -> LowRank:
    """A matrix [out, in] as a product of its own rank, by singular value decomposition."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    rank = max(1, int((s > EXACT * s[0]).sum()))
    root = s[:rank].sqrt()
    return LowRank((u[:, :rank] * root).float(), (root[:, None] * v[:rank]).float())


def export_lora(model, erasure: Erasure, path: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Writes the LoRA file in one move and returns its tensors. Raises ErasureError."""
    tensors = lora_tensors(model, erasure, dtype)
    m = erasure.metadata
    ranks = {len(t) for key, t in tensors.items() if key.endswith("lora_down.weight")}
    strings = {
        "modelspec.title": f"Erases {', '.join(lines(m.concept))}",
        "modelspec.architecture": f"{m.family}/lora",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(max(ranks, default=0)),
        "ss_network_alpha": str(max(ranks, default=0)),
        **{f"erasure.{name}": value for name in ("method", "concept", "target", "preserve", "family", "fingerprint",
                                                 "settings", "pack_version") if (value := getattr(m, name))},
    }  # fmt: skip
    write_tensors(tensors, strings, path)
    return tensors


# ---------------------------------------------------------------- in


def import_erasure(model, path: Path, concept: str, content: str = CONTENTS[0]) -> Erasure:
    """An erasure from a file of another program; the MODEL tells names and, for full weights, what they differ from.

    Read are LoRA files (kohya, diffusers and this pack's own), ``.diff`` files, and what the public UCE and ESD scripts
    save: UNet weights under diffusers' or the checkpoint's names, whole or as differences. Raises ErasureError.
    """
    attach.require_unet(model)
    tensors, strings = read_tensors(path)
    if set(strings) >= OWN_STRINGS:
        raise ErasureError(f"'{path.name}' is an erasure of this pack already: load it with Load Erasure.")
    weights = checkpoint_weights(model)
    named = {ours: tensors[key] for key, ours in _weight_names(model, tensors).items() if ours in weights}
    if named:
        delta = _from_weights(path.name, named, weights, content)
    else:
        delta = _from_lora(path.name, model, tensors, weights)
    if not delta:
        raise ErasureError(
            f"'{path.name}' holds nothing that changes the connected model: check that both are of one family, or load "
            "the file with the node it was made for."
        )
    here = fingerprint(model)
    return Erasure(
        Metadata(
            method="imported",
            concept="\n".join(lines(concept)) or strings.get("erasure.concept", path.stem),
            target=strings.get("erasure.target", ""),
            preserve=strings.get("erasure.preserve", ""),
            family=here.family,
            context_dim=str(context_dim(model)),
            fingerprint=strings.get("erasure.fingerprint", ""),
            pack_version=pack_version(),
            host_version=host_version(),
        ),
        (),
        delta,
    )


def _weight_names(model, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Which tensors of a file are weights of the UNet, and their names in the host."""
    theirs = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    known = {name: f"diffusion_model.{ours}" for name, ours in theirs.items()}
    known |= {ours.removeprefix("diffusion_model."): ours for ours in model.model.state_dict()}
    bare = [(key, key.removeprefix(prefix)) for key in tensors for prefix in PREFIXES]
    return {key: known[name] for key, name in bare if name in known}


def _check_shape(file: str, name: str, theirs: Sequence[int], ours: torch.Size) -> None:
    """Raises ErasureError for a weight of another shape; a kernel of 1 × 1 is as good as none."""
    found, wanted = (list(shape[:2]) if set(shape[2:]) <= {1} else list(shape) for shape in (theirs, ours))
    if found != wanted:
        raise ErasureError(
            f"'{file}' was made for a model whose {name} is {list(theirs)} and not {list(ours)}: connect the model it "
            "was made for."
        )


def _from_weights(
    file: str, named: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], content: str
) -> dict[str, Change]:
    for name, tensor in named.items():
        _check_shape(file, name, tensor.shape, weights[name].shape)
    named = {name: tensor.reshape(weights[name].shape) for name, tensor in named.items()}
    # the model as the file's precision has it, so that rounding is not taken for erasing
    base = {name: weights[name].detach().cpu().to(tensor.dtype).float() for name, tensor in named.items()}
    apart = {name: tensor.float() - base[name] for name, tensor in named.items()}
    if content == CONTENTS[0]:
        nearer = sum(float(t.square().sum()) for t in apart.values()) < sum(
            float(t.float().square().sum()) for t in named.values()
        )
        content = CONTENTS[1] if nearer else CONTENTS[2]
    found = apart if content == CONTENTS[1] else {name: tensor.float() for name, tensor in named.items()}
    return {name: Full(tensor) for name, tensor in found.items() if tensor.any()}


def _from_lora(
    file: str, model, tensors: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]
) -> dict[str, Change]:
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(tensors)), keys, log_missing=False)
    return {
        name: _change(file, name, patch, weights[name].shape) for name, patch in patches.items() if name in weights
    }


def _change(file: str, name: str, patch: object, shape: torch.Size) -> Change:
    """What the host read for a weight of a shape; convolutions are written out."""
    if isinstance(patch, LoRAAdapter):
        up, down, alpha, middle, dora, _ = patch.weights
        scale = 1.0 if alpha is None else alpha / len(down)
        if middle is None and dora is None and up.flatten(1).shape[1] == len(down):
            _check_shape(file, name, [len(up), *down.shape[1:]], shape)
            if up.ndim == down.ndim == len(shape) == 2:
                return LowRank(up.float() * scale, down.float())
            return Full((up.flatten(1).float() * scale @ down.flatten(1).float()).reshape(shape))
    elif isinstance(patch, tuple) and patch[0] == "diff":
        _check_shape(file, name, patch[1][0].shape, shape)
        return Full(patch[1][0].float().reshape(shape))
    raise ErasureError(f"'{file}' changes {name} in a form that is not read here: load it with the stock LoRA loader.")

