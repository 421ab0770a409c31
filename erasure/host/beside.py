"""Networks beside a MODEL's own: the host loads, offloads and moves them with it, as it does a ControlNet."""

from __future__ import annotations

from collections.abc import Mapping

import comfy.model_patcher
import torch
from torch import nn

from ..artifact import ErasureError
from ..parts.branch import Branch
from ..protocols import Model
from .subject import subject
from .weights import effective_weights

NETWORK = "diffusion_model."


def computing_dtype(model: Model) -> torch.dtype:
    """What a MODEL's network computes in."""
    return model.model.manual_cast_dtype or model.model.get_dtype()


def patcher_of(model: Model, branch: Branch):
    """A control branch's network, with its weights, in the host's hands. Raises ErasureError where they do not fit."""
    with torch.inference_mode(False):
        network = subject(model).family.branch(model.model, computing_dtype(model), model.offload_device)
        fitting = {name: weight.shape for name, weight in network.state_dict().items()}
        if fitting != {name: weight.shape for name, weight in branch.weights.items()}:
            raise ErasureError(
                "The erasure's control branch was made for a model of another size: connect the model it was made for."
            )
        network.load_state_dict(dict(branch.weights))
        network.eval().requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(network, model.load_device, model.offload_device)


def copy_of_encoder(model: Model) -> nn.Module:
    """A control branch's network that learns, where it starts: as the MODEL's own encoder, patches and all, in float32;
    what is behind it is silent. Raises ErasureError for a MODEL that has none."""
    network = subject(model).family.branch(model.model, torch.float32, torch.device("cpu"))
    known = dict(model.model.named_parameters())
    shared = [name for name in network.state_dict() if f"{NETWORK}{name}" in known]
    weights: Mapping[str, torch.Tensor] = effective_weights(model, [f"{NETWORK}{name}" for name in shared])
    own = {name: weights[f"{NETWORK}{name}"].float().cpu() for name in shared}
    silent = {name: torch.zeros_like(weight) for name, weight in network.state_dict().items() if name not in own}
    network.load_state_dict(own | silent)
    return network
