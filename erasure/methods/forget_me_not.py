"""Forget-Me-Not: attention re-steering (Zhang et al., arXiv 2303.17591).

    min_θ'  sum over layers  || A(z_t, c_e)[tokens of the concept] ||^2

A: the edited model's cross-attention probabilities. No layer is to look at the concept's name. The paper uses noised
pictures of the concept; here they are the sampler's own latents for it. Squares are averaged over positions and heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..artifact import ErasureError
from ..host.subject import Subject
from ..training.loop import Method, Phase
from ..training.preservation import with_preservation
from ..training.run import Run
from ..training.settings import Settings


class ForgetMeNot(Method):
    """One update a step, of the weights."""

    settings = {
        "weights": "cross-attention", "rank": 0, "in_context": False, "preserve_weight": 0.0, "weight_lr": 1e-3,
        "steps": 100, "refresh": 10,
    }  # fmt: skip

    def require(self, here: Subject, settings: Settings) -> None:
        if not here.family.attends:
            raise ErasureError(
                f"'{settings.method}' watches layers that attend to the text alone, which {here.family.name} models do "
                "not have: choose another method."
            )

    def phases(self, settings: Settings) -> Sequence[Phase]:
        return [Phase("steer attention", "delta", steer)]


def steer(run: Run) -> torch.Tensor:
    """The weights learn: no layer attends to the concept's name."""
    maps = run.attention_to_concept(run.concept_batch())
    return with_preservation(run, torch.stack([row.square().mean() for row in maps]).mean())
