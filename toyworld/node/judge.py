"""The worlds' judges as nodes, for the *judge* input of the nodes that measure."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[2]
DRAWN = ROOT / "drawnworld" / "judge.safetensors"


class Ranking:
    """Places a concept among all concepts of its kind, whatever other labels there are.

    ``judge``: of a world, for pictures of ``side`` pixels; ``known``: all names that it takes.
    """

    def __init__(self, name: str, judge, known: Sequence[str], side: int) -> None:
        self.name, self.judge, self.known, self.side = name, judge, list(known), side

    def ranks(self, pictures: torch.Tensor, labels: Sequence[str], among: Sequence[str]) -> list[int]:
        """``erasure.evaluation.judges.Judge.ranks``. Raises ValueError for a label that is no concept."""
        unknown = [label for label in among if label not in self.known]
        if unknown:
            raise ValueError(f"The {self.name} does not know '{unknown[0]}': choose among {', '.join(self.known)}.")
        shown = F.interpolate(pictures.permute(0, 3, 1, 2), size=(self.side, self.side), mode="area")
        return self.judge.ranks(shown, list(labels))


def of_toy_world() -> Ranking:
    judge, world = (_module("toyworld", part) for part in ("judge", "world"))
    known = [name for kind in world.KINDS.values() for pair in kind.items() for name in pair]
    return Ranking("Toy World Judge", judge.load_judge(), known, 64)


def of_drawn_world() -> Ranking:
    _module("toyworld", "judge")  # from which it is built
    judge = _module("drawnworld", "judge")
    known = [name for names in judge.KINDS.values() for name in names]
    return Ranking("Drawn World Judge", judge.load_judge(), known, judge.SIDE)


class _JudgeNode:
    """Nothing -> ERASURE_JUDGE."""

    RETURN_TYPES = ("ERASURE_JUDGE",)
    RETURN_NAMES = ("judge",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {}}


class ToyWorldJudge(_JudgeNode):
    """What shape, colour and style a picture shows."""

    DESCRIPTION = "Judges pictures of the toy world: what shape, colour and style they show."
    CATEGORY = "concept erasure/toy world"

    def load(self) -> tuple[Ranking]:
        return (of_toy_world(),)


class DrawnWorldJudge(_JudgeNode):
    """What subject a picture shows, by whose hand, on what background, and how many."""

    DESCRIPTION = "Judges pictures of the drawn world: what subject they show, by whose hand, where, and how many."
    CATEGORY = "concept erasure/drawn world"

    def load(self) -> tuple[Ranking]:
        return (of_drawn_world(),)


def _module(package: str, part: str) -> ModuleType:
    """A part of a package of this repository: a host that was given this folder alone cannot import it by name."""
    if package not in sys.modules:
        folder = ROOT / package
        spec = importlib.util.spec_from_file_location(
            package, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        sys.modules[package] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[package])
    return importlib.import_module(f"{package}.{part}")
