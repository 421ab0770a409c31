"""Who says what a picture shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F

from ..artifact import ErasureError
from .metrics import places

TEMPLATES = ("a photo of a {}", "a picture of a {}", "{}")
"""Phrases whose encodings are averaged for a label, as is usual for zero-shot classification (arXiv 2103.00020)."""
BATCH = 32


class Judge(Protocol):
    """Places labels in pictures."""

    def ranks(self, pictures: torch.Tensor, labels: Sequence[str], among: Sequence[str]) -> list[int]:
        """For each picture [n, h, w, 3] in [0, 1], the place (0 = top) of its label among all of ``among``."""
        ...


def try_out(judge: Judge, among: Sequence[str], width: int, height: int) -> None:
    """Shows the judge one empty picture, for it to say what is wrong with it or with the labels before any is drawn."""
    judge.ranks(torch.zeros(1, height, width, 3), among[:1], among)


class ClipJudge:
    """Zero-shot classification by CLIP (Radford et al., arXiv 2103.00020), through the host's CLIP_VISION and CLIP.

    The two must be halves of one CLIP. Their widths are compared here; halves of different models of one width cannot
    be told apart, but place labels at random, which shows in the unedited model's row of any report.
    """

    def __init__(self, vision, clip):
        if vision is None or clip is None:
            raise ErasureError(
                "The CLIP judge needs both halves of one CLIP: connect Load CLIP Vision and the matching Load CLIP."
            )
        self.vision, self.clip = vision, clip
        self._texts: dict[str, torch.Tensor] = {}

    def ranks(self, pictures: torch.Tensor, labels: Sequence[str], among: Sequence[str]) -> list[int]:
        scores = self.pictures(pictures) @ torch.stack([self.label(name) for name in among]).T
        return places(scores, [list(among).index(label) for label in labels])

    def pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """Embeddings of pictures [n, h, w, 3], [n, d], of length 1."""
        rows = [self.vision.encode_image(part)["image_embeds"].float() for part in pictures.split(BATCH)]
        return F.normalize(torch.cat(rows), dim=-1)

    def label(self, name: str) -> torch.Tensor:
        """Embedding of a label, [d], of length 1: the mean over ``TEMPLATES``."""
        return F.normalize(torch.stack([self.text(t.format(name)) for t in TEMPLATES]).mean(0), dim=-1)

    def text(self, text: str) -> torch.Tensor:
        """Embedding of a text, [d], of length 1. Raises ErasureError when it cannot be compared with pictures."""
        if text not in self._texts:
            _, pooled = self.clip.encode_from_tokens(self.clip.tokenize(text), return_pooled=True)
            width = self._width()
            if pooled is None or pooled.shape[-1] != width:
                found = "no text embedding" if pooled is None else f"texts of width {pooled.shape[-1]}"
                raise ErasureError(
                    f"The CLIP judge gets pictures of width {width} and {found}: connect the Load CLIP that belongs to "
                    "the CLIP Vision model."
                )
            self._texts[text] = F.normalize(pooled[0].float(), dim=-1)
        return self._texts[text]

    def _width(self) -> int:
        return self.pictures(torch.zeros(1, 8, 8, 3)).shape[-1]
