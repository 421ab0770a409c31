"""The control of attacks that learn, or look for noise: the same on a model that can read no text, or draw nothing.

Whoever learns enough can make any network draw anything, and then an attack says nothing of what an erasure has left
(inversion beside a random model: TINA, arXiv 2603.17828). So the control is the unedited model, some weights of which
have their numbers in a random order. With those of its text entry it draws as well as before, and what it reads means
nothing; with all of them it knows nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from comfy.weight_adapter import WeightAdapterBase

from ...host.weights import stored_weights, string_to_seed
from ...protocols import Model


class OutOfOrder(WeightAdapterBase):
    """A patch that puts a weight's numbers in a random order. It holds none, so it costs nothing on large models."""

    name = "out_of_order"

    def __init__(self, seed: int):
        self.seed, self.loaded_keys, self.weights = seed, set[str](), list[torch.Tensor]()

    def calculate_weight(
        self, weight, key, strength, strength_model, offset, function, intermediate_dtype=torch.float32,
        original_weight=None,
    ):  # fmt: skip
        generator = torch.Generator().manual_seed(self.seed + string_to_seed(key))
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        return weight.flatten()[order].view(weight.shape)


def out_of_order(model: Model, names: Iterable[str], seed: int = 0) -> Model:
    """The MODEL with the numbers of each of some weights in a random order."""
    out = model.clone()
    out.add_patches({name: OutOfOrder(seed) for name in names})
    return out


def weights_of(model: Model) -> list[str]:
    """All matrices and kernels of a MODEL's network; with norms and biases left in order it gives out numbers of their
    usual size."""
    return [name for name, weight in stored_weights(model).items() if math.prod(weight.shape[1:]) > 1]
