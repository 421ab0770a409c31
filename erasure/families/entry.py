"""Transformers whose whole text passes through one linear layer, or a few that read the same: the text entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .family import KEYS_AND_VALUES, Family, HostModel


class LinearEntry(Family):
    """``networks``: the host's classes, by their names within ``comfy.ldm``, for older hosts lack some.

    ``entries``: names of the layers that read text, or how these end. ``norm``: the name of an RMS norm that the text
    passes before. ``pooled``: the name of the layer that reads the pooled text, in networks that have it.
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
        name = f"diffusion_model.{self.pooled}.weight"
        return name if self.pooled and name in dict(model.named_parameters()) else None

    def in_front(self, model: HostModel) -> Sequence[str]:
        return [f"diffusion_model.{self.norm}.weight"] if self.norm else []

    def encodings(self, model: HostModel, rows: torch.Tensor, tokens: Mapping[str, Sequence]) -> torch.Tensor:
        return rms_norm(model.get_submodule(f"diffusion_model.{self.norm}"), rows) if self.norm else rows


def is_one_of(module: nn.Module, classes: Sequence[str]) -> bool:
    """Whether a module is of one of the host's classes, given by their names within ``comfy.ldm``."""
    names = {f"{kind.__module__}.{kind.__name__}" for kind in type(module).__mro__}
    return not names.isdisjoint(f"comfy.ldm.{name}" for name in classes)


def rms_norm(norm: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """What an RMS norm of the host makes of encodings [n, d], float32."""
    weight = norm.weight.detach().to("cpu", torch.float32)  # type: ignore[operator]
    return F.rms_norm(rows, weight.shape, weight, norm.eps or torch.finfo(torch.float32).eps)  # type: ignore[arg-type]
