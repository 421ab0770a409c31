"""The judge: one small classifier with a head each for subject, hand, background and number."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from toyworld.judge import halving

from .hands import HANDS
from .scenes import BACKGROUNDS
from .subjects import SUBJECTS

FILE = Path(__file__).with_name("judge.safetensors")
KINDS: dict[str, tuple[str, ...]] = {
    "subject": tuple(subject.name for subject in SUBJECTS),
    "hand": tuple(hand.name for hand in HANDS),
    "background": BACKGROUNDS,
    "number": ("one", "two", "three", "four"),
}
SIDE = 128


class Judge(nn.Module):
    """Pictures [b, 3, 128, 128] in [0, 1], or halves of them, -> logits by kind."""

    def __init__(self) -> None:
        super().__init__()
        layers = halving([32, 64, 96, 128])
        for a, b in ((128, 160), (160, 192)):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(8, b), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({kind: nn.Linear(2 * 192, len(names)) for kind, names in KINDS.items()})

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        h = self.features(pictures * 2 - 1)
        pooled = torch.cat([h.mean((2, 3)), h.amax((2, 3))], 1)
        return {kind: head(pooled) for kind, head in self.heads.items()}

    @torch.no_grad()
    def ranks(self, pictures: torch.Tensor, concepts: list[str]) -> list[int]:
        """For each picture, the place (0 = top) of its concept among the concepts of the same kind."""
        logits, places = self(pictures), []
        for i, concept in enumerate(concepts):
            kind = kind_of(concept)
            row = logits[kind][i]
            places.append(int((row > row[KINDS[kind].index(concept)]).sum()))
        return places


def kind_of(concept: str) -> str:
    """``subject``, ``hand``, ``background`` or ``number``. Raises KeyError for a word that names nothing here."""
    for kind, names in KINDS.items():
        if concept in names:
            return kind
    raise KeyError(f"'{concept}' is no concept of the drawn world")


def halves(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Left and right halves, to judge two subjects one by one."""
    middle = pictures.shape[-1] // 2
    return pictures[..., :middle], pictures[..., middle:]


def load_judge(path: Path = FILE) -> Judge:
    judge = Judge()
    judge.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return judge.eval()
