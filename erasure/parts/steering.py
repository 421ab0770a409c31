"""Steering: what a block gives out is moved where features of a concept dictionary are excited. torch only.

SAeUron (Cywinski and Deja, arXiv 2501.18052). For a vector x at a place of the picture, at noise level sigma::

    z_i = relu(E_i x + b_i) where that is above the dictionary's threshold, else 0
    flagged:   z_i > mu_i(sigma), the mean over all that was drawn when the features were picked
    negative:  x <- x + sum over flagged i of (z_i gamma mu_i(sigma | concept) - z_i) D_i,   gamma < 0
    replace:   x <- what the nearest place of the picture has where nothing is flagged

The second is after the finding (arXiv 2606.31699) that negative features leave what a network knows: there, features
only say where. What the features do not explain stays, because x itself is moved. So the part needs no more of the
dictionary than the rows of its own features, and carries them: nobody has to have the dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..artifact import Probe
from ..verdict import Finding
from .part import Part

if TYPE_CHECKING:
    from ..families.family import Family
    from ..families.rows import Rows

NEGATIVE, REPLACE = MODES = ("negative", "replace")
BOTH, CONDITIONAL = ROWS = ("both", "conditional")
"""Which rows of a call are steered: those of the negative prompt, too, as published, or not."""


@dataclass(frozen=True)
class Steering(Part):
    """One block's steering for one concept.

    ``point``: the block's name. ``features`` [f]: numbers in the dictionary of the hash ``dictionary``. ``encoder``,
    ``decoder`` [f, d] and ``bias`` [f]: their rows, in the network's own scale; ``threshold``: above which a feature
    is active. ``sigmas`` [s], ascending; at each of them ``levels`` [s, f], above which a feature is flagged, out of
    reach where it is not of the concept at that noise level; ``aims`` [s, f], with gamma in them; and ``filler``
    [s, d], which stands where all of a picture is flagged, for ``replace``. ``contrast``: how many times as much the
    features were excited by ``concept`` as by other texts.
    """

    point: str
    mode: str
    rows: str
    dictionary: str
    threshold: float
    features: torch.Tensor
    encoder: torch.Tensor
    decoder: torch.Tensor
    bias: torch.Tensor
    sigmas: torch.Tensor
    levels: torch.Tensor
    aims: torch.Tensor
    filler: torch.Tensor
    concept: str = ""
    contrast: float = 0.0
    role: str = "eraser"
    kind: ClassVar[str] = "steering"

    @property
    def noun(self) -> str:
        return "a steering of features"

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: getattr(self, name) for name in TENSORS if getattr(self, name).numel()}

    def facts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in FACTS}

    @classmethod
    def read(cls, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> Steering:
        if facts["mode"] not in MODES or facts["rows"] not in ROWS:
            raise ValueError(f"{facts['mode']}, {facts['rows']}")
        filler = tensors.get("filler", torch.zeros(len(tensors["sigmas"]), 0))
        own: dict[str, Any] = {name: tensors[name] for name in TENSORS if name != "filler"}
        return cls(**{name: facts[name] for name in FACTS}, **own, filler=filler)

    def join(self, options: dict, family: Family, strength: float, is_active: Callable[[dict], bool]) -> None:
        blocks = options.get(TOGETHER, {})
        if self.point not in blocks:
            blocks = {**blocks, self.point: Steered()}
            family.hook(options, {self.point: blocks[self.point]}, blocks[self.point].begin)
            options[TOGETHER] = blocks
        blocks[self.point].add(self, strength, is_active)

    def findings(self, probes: Sequence[Probe]) -> list[Finding]:
        if self.contrast >= CLEAR:
            times = min(round(self.contrast), MOST_TIMES)
            return [
                Finding(
                    "⚠",
                    f"'{self.concept}' excites its features {times} times as much as other texts do. Whether it is "
                    "gone only pictures can show: connect Erasure Report.",
                )  # fmt: skip
            ]
        return [
            Finding(
                "⚠",
                f"The dictionary has no features that are only of '{self.concept}', which may still be drawn; other "
                "things may change.",
            )  # fmt: skip
        ]

    # -- the tensors' own

    def z(self, x: torch.Tensor) -> torch.Tensor:
        """How active its features are in vectors [b, n, d]: [b, n, f]."""
        p = torch.relu(x @ self.encoder.T + self.bias)
        return p * (p > self.threshold)

    def flagged(self, x: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Its z of vectors [b, n, d], and where these show the concept; both [b, n, f]."""
        z = self.z(x)
        flagged = z > self.levels[self.knots(rows.sigma)][:, None]
        if self.rows == CONDITIONAL:
            flagged = flagged & rows.conditional.to(x.device)[:, None, None]
        return z, flagged

    def turned(self, z: torch.Tensor, flagged: torch.Tensor, rows: Rows) -> torch.Tensor:
        """By how much vectors move, [b, n, d], when their flagged features are turned around."""
        return (flagged * (z * self.aims[self.knots(rows.sigma)][:, None] - z)) @ self.decoder

    def knots(self, sigma: torch.Tensor) -> torch.Tensor:
        """For noise levels [b], the nearest of its own, by their ratio: [b]."""
        sigma = sigma.to(self.sigmas).clamp_min(1e-6)
        logs = (sigma.log()[:, None] - self.sigmas.clamp_min(1e-6).log()).abs()
        return logs.argmin(1)

    def on(self, like: torch.Tensor) -> Steering:
        """The same on a device, in float32."""
        own: dict[str, Any] = {
            name: getattr(self, name).to(like.device, torch.float32) for name in TENSORS if name != "features"
        }
        return replace(self, **own)


TENSORS = ("features", "encoder", "decoder", "bias", "sigmas", "levels", "aims", "filler")
FACTS = ("point", "mode", "rows", "dictionary", "threshold", "concept", "contrast")
TOGETHER = "concept_erasure_steering"
"""Under this name, a run's options hold the hook of each block."""
CLEAR = 10.0
"""How many times as much features must be excited by their concept as by other texts. In the toy world those of colours
are 3 to 9 times, and do not erase."""
MOST_TIMES = 99


class Steered:
    """The hook of all steerings of a block in one run: ``(vectors [b, n, d], rows) -> vectors``, or None for no change.

    Each looks at what the block gave out, and what they move is added up: one after the other, a concept that is
    turned around could bring the other one back.
    """

    def __init__(self) -> None:
        self._members: list[tuple[Steering, float, Callable[[dict], bool]]] = []
        self._acting: list[int] = []
        self._ready: dict[int, Steering] = {}

    def add(self, steering: Steering, strength: float, is_active: Callable[[dict], bool]) -> None:
        self._members.append((steering, strength, is_active))

    def begin(self, options: dict) -> bool:
        """Before a call of the network: whether any of them acts in it."""
        self._acting = [i for i, (_, _, is_active) in enumerate(self._members) if is_active(options)]
        return bool(self._acting)

    def __call__(self, x: torch.Tensor, rows: Rows) -> torch.Tensor | None:
        wide = x.float()
        finds = [(own, strength, *own.flagged(wide, rows)) for own, strength in self._ready_on(x)]
        if not any(bool(flagged.any()) for *_, flagged in finds):
            return None
        moved, free = wide.clone(), torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        for own, strength, z, flagged in finds:
            if own.mode == NEGATIVE:
                moved += strength * own.turned(z, flagged, rows)
            else:
                free &= ~flagged.any(-1)
        for own, strength, _, flagged in finds:
            if own.mode == REPLACE:
                moved = replaced(moved, flagged.any(-1), free, own.filler[own.knots(rows.sigma)], rows.grid, strength)
        return moved.to(x.dtype)

    def _ready_on(self, x: torch.Tensor) -> list[tuple[Steering, float]]:
        """Those that act in this call, on the vectors' device, with their strengths."""
        for i in self._acting:
            if i not in self._ready:
                self._ready[i] = self._members[i][0].on(x)
        return [(self._ready[i], self._members[i][1]) for i in self._acting]


def replaced(
    x: torch.Tensor, flagged: torch.Tensor, free: torch.Tensor, filler: torch.Tensor, grid: tuple[int, ...],
    strength: float,
) -> torch.Tensor:  # fmt: skip
    """x [b, n, d] with flagged places [b, n] as the nearest that is free [b, n]; ``filler`` [b, d] where none is.

    ``grid``: the places' layout, whose product is n.
    """
    axes = [torch.arange(side, device=x.device, dtype=torch.float32) for side in grid]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(grid))
    apart = torch.cdist(places, places)
    out = x.clone()
    for row in flagged.any(1).nonzero().flatten().tolist():
        if bool(free[row].any()):
            source = x[row][apart.masked_fill(~free[row], torch.inf).argmin(1)]
        else:
            source = filler[row].expand_as(x[row])
        out[row] = torch.where(flagged[row][:, None], torch.lerp(x[row], source, strength), x[row])
    return out
