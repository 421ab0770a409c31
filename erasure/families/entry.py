"""Transformers whose whole text passes through one linear layer, or a few that read the same: the text entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import nn

from ..parts.prompt import BLOCKS, PromptTensors
from .calls import join_calls
from .family import KEYS_AND_VALUES, Family, HostModel
from .gradients import OutOfPlace
from .joint import JointPrompt


class LinearEntry(Family):
    """``networks``: the host's classes, by their names within ``comfy.ldm``, for older hosts lack some.

    ``entries``: names of the layers that read text, or how these end. ``norm``: the name of an RMS norm that the text
    passes before, ``pooled``: of the layer that reads the pooled text; each in networks that have it.
    """

    networks: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    norm = ""
    pooled = ""

    def fits(self, network: nn.Module) -> bool:
        return is_one_of(network, self.networks) and any(map(self.reads_text, dict(network.named_parameters())))

    def reads_text(self, name: str) -> bool:
        path = name.removesuffix(".weight")
        return path != name and any(path == entry or path.endswith(f".{entry}") for entry in self.entries)

    def text_entry(self, model: HostModel, choice: str = KEYS_AND_VALUES) -> list[str]:
        return [name for name, _ in model.named_parameters() if self.reads_text(name)]

    def pooled_entry(self, model: HostModel) -> str | None:
        return weight_of(model, self.pooled)

    def in_front(self, model: HostModel) -> Sequence[str]:
        name = weight_of(model, self.norm)
        return [] if name is None else [name]

    def encodings(self, model: HostModel, rows: torch.Tensor, tokens: Mapping[str, Sequence]) -> torch.Tensor:
        name = weight_of(model, self.norm)
        return rows if name is None else rms_norm(model.get_submodule(name.removesuffix(".weight")), rows)

    def raw(self, model: HostModel, encodings: torch.Tensor) -> torch.Tensor | None:
        if not self.in_front(model) or self.adapts:
            return encodings
        name = weight_of(model, self.norm)  # what has passed it is as long as the norm makes it, whatever it was
        return None if name is None else encodings / weight_on_cpu(model.get_parameter(name))

    def blocks(self, model: HostModel) -> Sequence[str]:
        return tuple(BLOCKS) if self.learns else ()  # a prompt joins the text, which all blocks read

    def join_prompt(
        self, options: dict, prompt: PromptTensors, strength: float, is_active: Callable[[dict], bool]
    ) -> None:
        join_calls(options, JointPrompt(prompt, strength, is_active))

    def differentiable(self) -> AbstractContextManager:
        return OutOfPlace() if torch.is_grad_enabled() else nullcontext()


def is_one_of(module: nn.Module, classes: Sequence[str]) -> bool:
    """Whether a module is of one of the host's classes, given by their names within ``comfy.ldm``."""
    names = {f"{kind.__module__}.{kind.__name__}" for kind in type(module).__mro__}
    return not names.isdisjoint(f"comfy.ldm.{name}" for name in classes)


def weight_of(model: HostModel, layer: str) -> str | None:
    """The name of the weight of a network's layer; None in networks that do not have it."""
    name = f"diffusion_model.{layer}.weight"
    return name if layer and name in dict(model.named_parameters()) else None


def as_given(model: HostModel, layers: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Encodings [n, d] as a network gives them to some of its layers, [1, n, d]; a copy, for some write into it."""
    like = next(layers.parameters())
    return rows[None].to(like.device, model.get_dtype_inference(), copy=True)


def weight_on_cpu(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().to("cpu", torch.float32)


def rms_norm(norm: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """What an RMS norm of the host makes of encodings [n, d], float32."""
    weight = weight_on_cpu(norm.weight)  # type: ignore[arg-type]
    return F.rms_norm(rows, weight.shape, weight, norm.eps or torch.finfo(torch.float32).eps)  # type: ignore[arg-type]
