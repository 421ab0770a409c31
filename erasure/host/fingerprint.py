"""Which model an erasure was made for: family, text width, shapes of its text entry, a few of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..artifact import ErasureError
from ..protocols import Model
from .weights import Weights, is_ordinary

CLOSE = 5e-3
"""bf16 moves the values by .002 at most, a fine-tune that changes weights by one in fifty by .01 or more."""
ROUGHLY_CLOSE = 0.25
"""The same where one of the two is of weights of 4 or 8 bits, which move the values by .02 to .1; those of another
checkpoint lie apart by about 1."""


@dataclass(frozen=True)
class Fingerprint:
    """``family``: the host's class name; ``shapes``: a short hash of the shapes of the text entry; ``values``: sums of
    some of its weights, relative to their length, which rounding to half precision changes little."""

    family: str
    shapes: str
    values: str

    def __str__(self) -> str:
        return f"{self.family}:{self.shapes}:{self.values}"


def parse_fingerprint(text: str) -> Fingerprint | None:
    """The inverse of ``str``; None for an empty or foreign text."""
    parts = text.split(":")
    return Fingerprint(*parts) if len(parts) == 3 else None


def hash_of_shapes(shapes: Mapping[str, Sequence[int]]) -> str:
    """A short hash of weights' names and shapes."""
    text = ";".join(f"{name}{tuple(shapes[name])}" for name in sorted(shapes))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def fingerprint_of(model: Model, entry: Sequence[str]) -> Fingerprint:
    """Of a host MODEL with these weights that read text; its patches (LoRA, other erasures) do not count."""
    weights = Weights(model)
    names = sorted(entry)
    shapes = hash_of_shapes({name: weights.shape(name) for name in names})
    return Fingerprint(type(model.model.model_config).__name__, shapes, _values(weights, names))


def _values(weights: Weights, names: Sequence[str]) -> str:
    """With fewer digits for weights of fewer than 16 bits, and none for weights that cannot be read."""
    some = names[:: max(1, len(names) // 4)]
    digits = 3 if all(is_ordinary(weights.stored[name]) for name in some) else 1
    values: list[float] = []
    try:
        for name in some:
            first = weights[name].detach().flatten()[:256].to("cpu", torch.float32)
            values += [float(part.sum() / first.norm().clamp_min(1e-12)) for part in first.chunk(2)]
    except ErasureError:
        return ""
    return ",".join(f"{value:.{digits}f}" for value in values)


def of_one_checkpoint(a: Fingerprint, b: Fingerprint) -> bool:
    """Whether both are of one checkpoint, whatever its precision; True where one of them does not say."""
    ours, theirs = _numbers(a.values), _numbers(b.values)
    if len(ours) != len(theirs):
        return True
    near = CLOSE if _is_exact(a) and _is_exact(b) else ROUGHLY_CLOSE
    return all(abs(x - y) < near for x, y in zip(ours, theirs, strict=True))


def _is_exact(of: Fingerprint) -> bool:
    return len(of.values.split(",")[0].partition(".")[2]) > 1


def _numbers(values: str) -> list[float]:
    """No numbers for what early versions of this pack wrote, a hash."""
    try:
        return [float(value) for value in values.split(",")]
    except ValueError:
        return []
