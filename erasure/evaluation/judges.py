"""Who says what a picture shows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F

from ..artifact import ErasureError
from ..protocols import Clip
from .diffusion_judge import DiffusionJudge
from .metrics import places

TEMPLATES = ("a photo of a {}", "a picture of a {}", "{}")
"""Phrases whose encodings are averaged for a label, as is usual for zero-shot classification (arXiv 2103.00020)."""
COLOURS = {
    "red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0), "black": (0, 0, 0), "white": (1, 1, 1)
}  # fmt: skip
"""Pictures of one colour, which every CLIP can name."""
BATCH = 32
NO_PROJECTION = (
    "The judge's text encoder does not belong to the CLIP Vision model, or lacks the projection to what they share, as "
    "clip_l.safetensors and the encoders in SD 1.x checkpoints do: connect the other half of the same CLIP, complete."
)


class Judge(Protocol):
    """Places labels in pictures. An attribute ``name`` is what reports call it; without one, its class."""

    def ranks(self, pictures: torch.Tensor, labels: Sequence[str], among: Sequence[str]) -> list[int]:
        """For each picture [n, h, w, 3] in [0, 1], the place (0 = top) of its label among all of ``among``."""
        ...


def try_out(judge: Judge | None, among: Sequence[str], width: int, height: int) -> str:
    """Shows the judge one empty picture, for it to say what is wrong with it or with the labels before any is drawn.

    Returns what speaks against relying on it: nothing, mostly.
    """
    if judge is None or isinstance(judge, DiffusionJudge):  # which knows every label and every size
        return ""
    judge.ranks(torch.zeros(1, height, width, 3), among[:1], among)
    return judge.doubt() if isinstance(judge, ClipJudge) else ""


def name_of(judge: Judge | None) -> str:
    """Who counts, in words; empty for nobody."""
    if judge is None:
        return ""
    names = {DiffusionJudge: "the unedited model itself", ClipJudge: "the connected CLIP"}
    return names.get(type(judge)) or str(getattr(judge, "name", "") or type(judge).__name__)


class ClipJudge:
    """Zero-shot classification by CLIP (Radford et al., arXiv 2103.00020), through the host's CLIP_VISION and CLIP.

    The two must be halves of one CLIP. Their widths are compared here; halves of different models of one width cannot
    be told apart, but place labels at random, which shows in ``doubt`` and in the unedited model's row of any report.
    """

    def __init__(self, vision, clip: Clip):
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
        rows = [self.vision.encode_image(part)["image_embeds"].float().cpu() for part in pictures.split(BATCH)]
        return F.normalize(torch.cat(rows), dim=-1)

    def label(self, name: str) -> torch.Tensor:
        """Embedding of a label, [d], of length 1: the mean over ``TEMPLATES``."""
        return F.normalize(torch.stack([self.text(t.format(name)) for t in TEMPLATES]).mean(0), dim=-1)

    def text(self, text: str) -> torch.Tensor:
        """Embedding of a text, [d], of length 1. Raises ErasureError when it cannot be compared with pictures."""
        if text not in self._texts:
            _, pooled = self.clip.encode_from_tokens(self.clip.tokenize(text), return_pooled=True)
            pooled = pooled if pooled is None else projected(self.clip, pooled)
            if pooled is None or pooled.shape[-1] != self.width:
                found = "no text embedding" if pooled is None else f"texts of width {pooled.shape[-1]}"
                raise ErasureError(
                    f"The CLIP judge gets pictures of width {self.width} and {found}: connect the Load CLIP that "
                    "belongs to the CLIP Vision model."
                )
            # a layer that the file lacks is left as the memory was: zeros nearly everywhere, or not even numbers; what
            # passes for weights by chance is found by ``doubt``
            if not pooled.isfinite().all() or 2 * pooled.count_nonzero() < pooled.numel():
                raise ErasureError(NO_PROJECTION)
            self._texts[text] = F.normalize(pooled[0].float().cpu(), dim=-1)
        return self._texts[text]

    def doubt(self) -> str:
        """A sentence that says not to rely on this judge, when it cannot name most plain colours; else nothing."""
        names, values = list(COLOURS), torch.tensor(list(COLOURS.values()), dtype=torch.float)
        known = self.ranks(values[:, None, None].expand(-1, 64, 64, -1), names, names).count(0)
        if 2 * known > len(names):
            return ""
        return f"Do not rely on this judge, it names {known} of {len(names)} plain colours right. {NO_PROJECTION}"

    @cached_property
    def width(self) -> int:
        """Width of the pictures' embeddings, found with one picture."""
        return self.pictures(torch.zeros(1, 8, 8, 3)).shape[-1]


@torch.no_grad()
def projected(clip: Clip, pooled: torch.Tensor) -> torch.Tensor:
    """A text's embedding, [1, d], in the space that both halves of CLIP share.

    For SD 1.x and others the host returns it before that projection, because nothing in these models reads it.
    """
    for part in clip.cond_stage_model.modules():
        projection = getattr(getattr(part, "transformer", None), "text_projection", None)
        if projection is not None and projection.in_features == pooled.shape[-1]:
            return pooled if part.return_projected_pooled else projection(pooled)
    return pooled
