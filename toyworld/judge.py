"""The judge: one small classifier with a head each for shape, colour and style."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from .world import KINDS, kind_of

FILE = Path(__file__).with_name("judge.safetensors")


def halving(widths: Sequence[int]) -> list[nn.Module]:
    """Convolutions that each halve a picture's edge, from 3 channels to the last of the widths."""
    layers: list[nn.Module] = []
    for a, b in pairwise([3, *widths]):
        layers += [nn.Conv2d(a, b, 3, padding=1, stride=2), nn.GroupNorm(8, b), nn.ReLU()]
    return layers


class Judge(nn.Module):
    """Pictures [b, 3, 64, 64] in [0, 1] -> logits by kind: ``{"shape": [b, 8], "colour": [b, 6], "style": [b, 4]}``."""

    def __init__(self) -> None:
        super().__init__()
        layers = halving([32, 64, 96, 128])
        self.features = nn.Sequential(*layers, nn.Conv2d(128, 128, 3, padding=1), nn.ReLU())
        self.heads = nn.ModuleDict({kind: nn.Linear(128 * 16, len(names)) for kind, names in KINDS.items()})

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        h = self.features(pictures * 2 - 1).flatten(1)
        return {kind: head(h) for kind, head in self.heads.items()}

    @torch.no_grad()
    def ranks(self, pictures: torch.Tensor, concepts: list[str]) -> list[int]:
        """For each picture, the place (0 = top) of its concept among the concepts of the same kind."""
        logits = self(pictures)
        places = []
        for i, concept in enumerate(concepts):
            kind = kind_of(concept)
            names = KINDS[kind]
            index = list(names).index(concept) if concept in names else list(names.values()).index(concept)
            row = logits[kind][i]
            places.append(int((row > row[index]).sum()))
        return places


def load_judge(path: Path = FILE) -> Judge:
    judge = Judge()
    judge.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return judge.eval()
