"""The control of attacks that learn: the same attack on a model that can read no text.

Whoever learns enough can make any network draw anything, and then an attack says nothing of what an erasure has left
(inversion beside a random model: TINA, arXiv 2603.17828). So the control is the unedited model whose text entry has its
numbers in a random order: it draws as well as before, and what it reads means nothing.
"""

from __future__ import annotations

import torch

from ...artifact import Full
from ...host.subject import subject
from ...host.weights import Weights, patches
from ...protocols import Model


def out_of_order(model: Model, seed: int = 0) -> Model:
    """The MODEL with the numbers of each weight of its text entry in a random order."""
    generator, weights = torch.Generator().manual_seed(seed), Weights(model)
    changes = {}
    for name in subject(model).entry:
        weight = weights[name].detach().float().cpu()
        other = weight.flatten()[torch.randperm(weight.numel(), generator=generator)].view(weight.shape)
        changes[name] = Full(other - weight)
    out = model.clone()
    out.add_patches(patches(changes))
    return out
