"""Deltas: which cross-attention weights change, the forms a change takes, its way into the host's weight patches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import nn

from ..artifact import Change, ErasureError, Full, LowRank

WEIGHTS = {
    "keys+values": ("to_k", "to_v"), "values": ("to_v",), "cross-attention": ("to_q", "to_k", "to_v", "to_out"),
    "all but cross-attention": (),
}  # fmt: skip
"""Choice -> projections of ``attn2``. ``cross-attention`` is the papers' xattn, everything in ``attn2``;
``all but cross-attention`` is noxattn, every other matrix and kernel of the UNet."""

READS_TEXT = (".attn2.to_k.weight", ".attn2.to_v.weight")
"""Ends of the names of weights whose input is the text."""


def weight_names(model: nn.Module, choice: str) -> list[str]:
    """Names of the chosen parameters in a host model, e.g. ``diffusion_model.….attn2.to_k.weight``.

    Raises ErasureError when the model has no ``attn2``.
    """
    parameters = dict(model.named_parameters())
    crossing = [name for name in parameters if ".attn2." in name]
    if not crossing:
        raise ErasureError(
            f"This model ({type(model).__name__}) has no cross-attention on text (attn2), so there is nothing to "
            "change: use an SD 1.x, SD 2.x or SDXL checkpoint."
        )
    if choice == "all but cross-attention":
        rest = set(parameters) - set(crossing)
        return [n for n, p in parameters.items() if n in rest and n.startswith("diffusion_model.") and p.ndim > 1]
    return [name for name in crossing if name.split(".attn2.")[1].split(".")[0] in WEIGHTS[choice]]






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
            name: directions if directions is not None and name.endswith(READS_TEXT) else None
            for name in shapes
        }
        self.parts = nn.ModuleList([self._part(shapes[name], rank, generator, read[name]) for name in shapes])

    @staticmethod
    def _part(
        shape: torch.Size, rank: int, generator: torch.Generator, directions: torch.Tensor | None
    ) -> nn.ParameterDict:
        if rank == 0 or len(shape) != 2:
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

    def begin_with(self, delta: Mapping[str, Change]) -> None:
        """Starts some weights' changes from these, or where this delta has a low rank from the nearest ones."""
        for name, part in self._named():
            if name in delta and "full" in part:
                part["full"].data.copy_(delta[name].dense())
            elif name in delta:
                u, s, v = torch.linalg.svd(delta[name].dense(), full_matrices=False)
                r = len(part["down"])
                # read at the scale that the learned rows would have, so that one learning rate suits both starts
                scale = part["down"].norm(dim=1)
                part["up"].data.copy_(u[:, :r] * s[:r] / scale)
                part["down"].data.copy_(v[:r] * scale[:, None])

    def groups(self, rate: float, width: int) -> list[dict]:
        """What Adam trains and how fast: matrices that read the layer's input at ``rate`` for ``width`` inputs."""
        groups = []
        for _, part in self._named():
            for kind, parameter in part.items():
                reads = kind != "up" and parameter.ndim > 1
                share = width / parameter[0].numel() if width and reads else 1.0
                groups.append({"params": [parameter], "lr": rate * share})
        return groups

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


class Mask(nn.Module):
    """Weights [any shape] that are kept or set to zero, each by a learnable score: a change by pruning.

    A weight goes when its score falls below zero. Gradients pass the threshold as those of a sigmoid
    (straight-through). All scores start at ``START``, where nothing is pruned.
    """

    START = 0.1

    def __init__(self, weights: Mapping[str, torch.Tensor]):
        super().__init__()
        self.names = list(weights)
        self.scores = nn.ParameterList([torch.full(w.shape, self.START) for w in weights.values()])
        for i, weight in enumerate(weights.values()):
            self.register_buffer(f"weight_{i}", weight.float(), persistent=False)

    def groups(self, rate: float, width: int) -> list[dict]:
        """What Adam trains and how fast; a score means the same in every layer."""
        return [{"params": list(self.parameters()), "lr": rate}]

    def kept(self) -> list[torch.Tensor]:
        """Ones and zeros, with the gradients of a sigmoid."""
        return [_straight_through((score > 0).float(), torch.sigmoid(score)) for score in self.scores]

    def start_from(self, delta: Mapping[str, Change]) -> None:
        """Continues from weights that were pruned before. Raises ErasureError when these are others."""
        if set(delta) != set(self.names):
            raise ErasureError("The erasure to resume from changes other weights: give it the same weights setting.")
        for name, score in zip(self.names, self.scores, strict=True):
            score.data[delta[name].dense() != 0] = -self.START

    def changes(self) -> dict[str, torch.Tensor]:
        """What pruning adds to each weight, carrying gradients, by weight name."""
        weights = (getattr(self, f"weight_{i}") for i in range(len(self.names)))
        return {n: w * (kept - 1) for n, w, kept in zip(self.names, weights, self.kept(), strict=True)}

    def at_rest(self) -> dict[str, Change]:
        """The pruning as it stands now, for an ``Erasure``."""
        return {name: Full(change.detach().cpu().clone()) for name, change in self.changes().items()}


def _straight_through(value: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
    return value + (soft - soft.detach())
