"""Deltas: which cross-attention weights change, the forms a change takes, its way into the host's weight patches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import cast

import torch
from comfy.lora import calculate_weight
from comfy.weight_adapter import LoRAAdapter
from torch import nn

from .artifact import Change, ErasureError, Full, LowRank
from .fingerprint import checkpoint_weights

WEIGHTS = {"keys+values": ("to_k", "to_v"), "values": ("to_v",), "cross-attention": ("to_q", "to_k", "to_v", "to_out")}
"""Choice -> projections of ``attn2``. ``cross-attention`` is the paper's xattn: everything in ``attn2``."""

READS_TEXT = ("to_k", "to_v")
"""Projections of ``attn2`` whose input is the text."""


def weight_names(model: nn.Module, choice: str) -> list[str]:
    """Names of the chosen ``attn2`` parameters in a host model, e.g. ``diffusion_model.….attn2.to_k.weight``.

    Raises ErasureError when the model has no ``attn2``.
    """
    parts = WEIGHTS[choice]
    names = [
        name
        for name, parameter in model.named_parameters()
        if ".attn2." in name and name.split(".attn2.")[1].split(".")[0] in parts and parameter.ndim in (1, 2)
    ]
    if not names:
        raise ErasureError(
            f"This model ({type(model).__name__}) has no cross-attention on text (attn2), so there is nothing to "
            "change: use an SD 1.x, SD 2.x or SDXL checkpoint."
        )
    return names


def effective_weights(model, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The named weights [out, in] of a host MODEL, float32, with this MODEL's own patches (LoRA, other erasures)."""
    weights = checkpoint_weights(model)
    return {
        name: calculate_weight(model.patches.get(name, []), weights[name].detach().float().clone(), name)
        for name in names
    }


class Delta(nn.Module):
    """A learnable change of some weights, float32: low-rank (rank > 0) for matrices, written out otherwise.

    It starts at zero. Low-rank parts read their input through ``directions`` [r, context_dim] where that is text, and
    through random directions elsewhere.
    """

    def __init__(
        self,
        shapes: Mapping[str, torch.Size],
        rank: int,
        generator: torch.Generator,
        directions: torch.Tensor | None = None,
    ):
        super().__init__()
        self.names = list(shapes)
        read = {
            name: directions if directions is not None and name.split(".")[-2] in READS_TEXT else None
            for name in shapes
        }
        self.parts = nn.ModuleList([self._part(shapes[name], rank, generator, read[name]) for name in shapes])

    @staticmethod
    def _part(
        shape: torch.Size, rank: int, generator: torch.Generator, directions: torch.Tensor | None
    ) -> nn.ParameterDict:
        if rank == 0 or len(shape) == 1:
            return nn.ParameterDict({"full": nn.Parameter(torch.zeros(shape))})
        r = min(rank, *shape)
        down = torch.randn(r, shape[1], generator=generator) / shape[1] ** 0.5
        if directions is not None:
            down[: len(directions)] = directions[:r]
        return nn.ParameterDict({"up": nn.Parameter(torch.zeros(shape[0], r)), "down": nn.Parameter(down)})

    def _named(self) -> Iterator[tuple[str, dict[str, nn.Parameter]]]:
        return zip(self.names, cast("list[dict[str, nn.Parameter]]", self.parts), strict=True)

    def start_from(self, delta: Mapping[str, Change]) -> None:
        """Continues from a learned delta. Raises ErasureError when its weights or ranks are others."""
        for name, part in self._named():
            tensors = delta[name].tensors() if name in delta else {}
            same = {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in part.items()}
            if not same or len(delta) != len(self.names):
                raise ErasureError(
                    "The erasure to resume from changes other weights or has another rank: give it the same weights "
                    "and rank settings, or start anew without it."
                )
            for k, v in tensors.items():
                part[k].data.copy_(v)

    def changes(self) -> dict[str, torch.Tensor]:
        """The changes as tensors that carry gradients, by weight name."""
        return {
            name: part["full"] if "full" in part else part["up"] @ part["down"]
            for name, part in self._named()
        }

    def at_rest(self) -> dict[str, Change]:
        """The delta as it stands now, as plain tensors for an ``Erasure``."""
        out: dict[str, Change] = {}
        for name, part in self._named():
            tensors = {k: v.detach().cpu().clone() for k, v in part.items()}
            out[name] = Full(tensors["full"]) if "full" in tensors else LowRank(tensors["up"], tensors["down"])
        return out


def patches(delta: Mapping[str, Change]) -> dict[str, object]:
    """The delta in the form that the host's ``ModelPatcher.add_patches`` takes."""
    return {name: _patch(change) for name, change in delta.items()}


def _patch(change: Change) -> object:
    if isinstance(change, LowRank):
        # alpha None makes the host apply up @ down without scaling
        return LoRAAdapter(set(), (change.up, change.down, None, None, None, None))
    return ("diff", (change.full,))
