"""Changes of weights: at rest, and learnable, added to weights or pruned from them. torch only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, ClassVar, cast

import torch
from torch import nn

from ..artifact import Change, ErasureError, Full, LowRank
from .part import Holder, Part


@dataclass(frozen=True)
class DeltaTensors(Part):
    """Changes of weights at rest, by the weights' names."""

    by_weight: Mapping[str, Change]

    kind: ClassVar[str] = "delta"
    single: ClassVar[bool] = True
    noun = "a change of the weights"
    version = "1"

    def tensors(self) -> dict[str, torch.Tensor]:
        changes = self.by_weight.items()
        return {f"{name}.{part}": tensor for name, change in changes for part, tensor in change.tensors().items()}

    @classmethod
    def read(cls, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> DeltaTensors:
        changes: dict[str, Change] = {}
        for name, tensor in tensors.items():
            weight, part = name.rsplit(".", 1)
            if part == "full":
                changes[weight] = Full(tensor)
            elif part == "up":
                changes[weight] = LowRank(tensor, tensors[f"{weight}.down"])
        return cls(changes)

    def changes(self) -> Mapping[str, Change]:
        return self.by_weight

    def attach(self, holder: Holder) -> None:
        holder.change_weights(self.by_weight)

    @classmethod
    def combined(cls, parts: Sequence[tuple[DeltaTensors, float]]) -> list[DeltaTensors]:
        """One, the changes of each weight added exactly."""
        summands: dict[str, list[tuple[Change, float]]] = {}
        for part, weight in parts:
            for name, change in part.by_weight.items():
                summands.setdefault(name, []).append((change, weight))
        return [cls({name: add(changes) for name, changes in summands.items()})]


def changing(changes: Mapping[str, Change]) -> tuple[DeltaTensors, ...]:
    """The parts of an erasure that changes these weights, and none where it changes nothing."""
    return (DeltaTensors(changes),) if changes else ()


def add(changes: Sequence[tuple[Change, float]]) -> Change:
    """The weighted sum of changes of one weight: low-rank when all are and their ranks together stay small."""
    if len(changes) == 1 and changes[0][1] == 1:
        return changes[0][0]
    low = [(change, w) for change, w in changes if isinstance(change, LowRank)]
    if len(low) == len(changes):
        ups = torch.cat([w * change.up for change, w in low], 1)
        downs = torch.cat([change.down for change, _ in low])
        if ups.shape[1] * (ups.shape[0] + downs.shape[1]) < ups.shape[0] * downs.shape[1]:
            return LowRank(ups, downs)
    return Full(sum((w * change.dense() for change, w in changes[1:]), start=changes[0][1] * changes[0][0].dense()))


class Delta(nn.Module):
    """A learnable change of some weights, float32: low-rank (rank > 0) for matrices, written out otherwise.

    It starts at zero. Low-rank parts read their input through ``directions`` [r, width] where that is text, as in the
    weights ``reading`` it, and through random directions elsewhere.
    """

    def __init__(
        self,
        shapes: Mapping[str, torch.Size],
        rank: int,
        generator: torch.Generator,
        directions: torch.Tensor | None = None,
        reading: Collection[str] = (),
    ):
        super().__init__()
        self.names = list(shapes)
        read = [directions if name in reading else None for name in shapes]
        parts = [self._part(*each) for each in zip(shapes.values(), repeat(rank), repeat(generator), read)]
        self.parts = nn.ModuleList(parts)

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
        return {name: part["full"] if "full" in part else part["up"] @ part["down"] for name, part in self._named()}

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
