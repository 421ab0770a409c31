"""The toy world's judge as a node, for the *judge* input of the nodes that measure."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

WORLD = Path(__file__).resolve().parents[1]
SIDE = 64


class Ranking:
    """Places a concept among all concepts of its kind, whatever other labels there are."""

    name = "Toy World Judge"

    def __init__(self) -> None:
        world = _toyworld()
        self.judge, self.known = world.judge.load_judge(), world.world.KINDS

    def ranks(self, pictures: torch.Tensor, labels: Sequence[str], among: Sequence[str]) -> list[int]:
        """``erasure.evaluation.judges.Judge.ranks``. Raises ValueError for a label that is no concept."""
        names = [name for kind in self.known.values() for pair in kind.items() for name in pair]
        unknown = [label for label in among if label not in names]
        if unknown:
            raise ValueError(f"The toy world's judge does not know '{unknown[0]}': choose among {', '.join(names)}.")
        shown = F.interpolate(pictures.permute(0, 3, 1, 2), size=(SIDE, SIDE), mode="area")
        return self.judge.ranks(shown, list(labels))


class ToyWorldJudge:
    """Nothing -> ERASURE_JUDGE."""

    DESCRIPTION = "Judges pictures of the toy world: what shape, colour and style they show."
    CATEGORY = "concept erasure/toy world"
    RETURN_TYPES = ("ERASURE_JUDGE",)
    RETURN_NAMES = ("judge",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {}}

    def load(self) -> tuple[Ranking]:
        return (Ranking(),)


def _toyworld():
    """The package around this folder: a host that was given the folder alone cannot import it by name."""
    if "toyworld" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "toyworld", WORLD / "__init__.py", submodule_search_locations=[str(WORLD)]
        )
        sys.modules["toyworld"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["toyworld"])
    for part in ("judge", "world"):
        importlib.import_module(f"toyworld.{part}")
    return sys.modules["toyworld"]
