"""What the host's transformers need before gradients pass through them."""

from __future__ import annotations

import torch
from torch.overrides import TorchFunctionMode


class OutOfPlace(TorchFunctionMode):
    """``x += y`` makes a new tensor: several blocks write over what backward still needs.

    It cannot be told from ``x.add_(y)``, whose result nobody takes: the host's slow attention adds its mask so, hence
    trainings choose another one.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return (torch.add if function is torch.Tensor.add_ else function)(*args, **(kwargs or {}))
