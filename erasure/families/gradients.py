"""What the host's transformers need before gradients pass through them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class OutOfPlace(TorchFunctionMode):
    """``x += y`` makes a new tensor: several blocks write over what backward still needs.

    It cannot be told from ``x.add_(y)``, whose result nobody takes: the host's slow attention adds its mask so, hence
    trainings choose another one. ``more``: other functions, and what is called in their places.
    """

    def __init__(self, more: Mapping[Any, Callable] | None = None):
        super().__init__()
        self.instead: dict[Any, Callable] = {torch.Tensor.add_: torch.add, **(more or {})}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return self.instead.get(function, function)(*args, **(kwargs or {}))


def norm_of_copy(x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    """``rms_norm`` for blocks that write over what it was given."""
    return F.rms_norm(x.clone(), *args, **kwargs)


def normed_and_turned(
    q: torch.Tensor, k: torch.Tensor, turns: torch.Tensor, q_scale: torch.Tensor, k_scale: torch.Tensor | None = None,
    epsilon: float = 1e-6, count: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The host's ``rms_rope_split_half``, which has no backward pass: RMS norms of the last axis, of which then the
    first ``count`` numbers (0: all) are turned in pairs that are half of them apart, by matrices ``turns`` [..., 2, 2].
    """
    k_scale = q_scale if k_scale is None else k_scale
    q, k = F.rms_norm(q, q_scale.shape, q_scale, epsilon), F.rms_norm(k, k_scale.shape, k_scale, epsilon)
    return _turned(q, turns, count), _turned(k, turns, count)


def _turned(x: torch.Tensor, turns: torch.Tensor, count: int) -> torch.Tensor:
    first, second = x[..., : count or x.shape[-1]].to(turns.dtype).chunk(2, -1)
    pairs = [turns[..., i, 0] * first + turns[..., i, 1] * second for i in (0, 1)]
    return torch.cat([*(part.to(x) for part in pairs), x[..., count:] if count else x[..., :0]], -1)
