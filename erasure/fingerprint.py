"""Which model an erasure was made for: family, text width, cross-attention shapes, and what a few weights are like."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

CLOSE = 5e-3
"""bf16 moves the values by .002 at most, a fine-tune that changes weights by one in fifty by .01 or more."""


@dataclass(frozen=True)
class Fingerprint:
    """``family``: the host's class name; ``shapes``: a short hash of the shapes of attn2; ``values``: sums of some of
    its weights, relative to their length, which rounding to half precision changes little."""

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
    values: list[float] = []
    for name in sorted(weights)[:: max(1, len(weights) // 4)]:
        some = weights[name].detach().flatten()[:256].to("cpu", torch.float32)
        values += [float(part.sum() / some.norm().clamp_min(1e-12)) for part in some.chunk(2)]
    family = type(model.model.model_config).__name__
    digest = hashlib.sha256(shapes.encode()).hexdigest()[:12]
    return Fingerprint(family, digest, ",".join(f"{value:.3f}" for value in values))


def of_one_checkpoint(a: Fingerprint, b: Fingerprint) -> bool:
    """Whether both are of one checkpoint, whatever its precision; True where one of them does not say."""
    ours, theirs = _numbers(a.values), _numbers(b.values)
    if len(ours) != len(theirs):
        return True
    return all(abs(x - y) < CLOSE for x, y in zip(ours, theirs, strict=True))


def _numbers(values: str) -> list[float]:
    """No numbers for what early versions of this pack wrote, a hash."""
    try:
        return [float(value) for value in values.split(",")]
    except ValueError:
        return []
