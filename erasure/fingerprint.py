"""Which model an erasure was made for: family, text width, cross-attention shapes, and a hash of a few weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Fingerprint:
    """``family``: the host's class name; ``shapes`` and ``values``: short hashes of attn2 shapes and some weights."""

    family: str
    shapes: str
    values: str

    def __str__(self) -> str:
        return f"{self.family}:{self.shapes}:{self.values}"


def parse_fingerprint(text: str) -> Fingerprint | None:
    """The inverse of ``str``; None for an empty or foreign text."""
    parts = text.split(":")
    return Fingerprint(*parts) if len(parts) == 3 else None


def checkpoint_weights(model) -> dict[str, torch.Tensor]:
    """The parameters of a host MODEL as its checkpoint has them.

    Clones share one network, which still carries the patches of whichever of them ran last; the host keeps what was
    there before in ``backup``.
    """
    backup = getattr(model, "backup", {})
    return {n: getattr(backup[n], "weight", p) if n in backup else p for n, p in model.model.named_parameters()}


def _attention_weights(model) -> dict[str, torch.Tensor]:
    return {n: w for n, w in checkpoint_weights(model).items() if ".attn2.to_k." in n or ".attn2.to_v." in n}


def context_dim(model) -> int | None:
    """Width of the text context that a host MODEL's cross-attention reads, or None when it has none."""
    for name, weight in model.model.named_parameters():
        if name.endswith(".attn2.to_k.weight"):
            return weight.shape[1]
    return None


def fingerprint(model) -> Fingerprint:
    """Of a host MODEL; its patches (LoRA, other erasures) do not count."""
    weights = _attention_weights(model)
    shapes = ";".join(f"{name}{tuple(weight.shape)}" for name, weight in sorted(weights.items()))
    digest = hashlib.sha256()
    for name in sorted(weights)[:: max(1, len(weights) // 4)]:
        some = weights[name].detach().flatten()[:256].to("cpu", torch.float32)
        # rounded, so that a half-precision copy of a checkpoint counts as the same one
        digest.update((some * 512).round().to(torch.int32).numpy().tobytes())
    family = type(model.model.model_config).__name__
    return Fingerprint(family, hashlib.sha256(shapes.encode()).hexdigest()[:12], digest.hexdigest()[:12])
