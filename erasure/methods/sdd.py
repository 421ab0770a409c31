"""SDD: safe self-distillation (Kim et al., arXiv 2307.05977).

    min_θ'  || sg e'(z_t, c_0) - e'(z_t, c_e) ||^2

The student learns to predict for the concept what it predicts for the empty prompt itself; sg stops the gradient.
Latents come from a teacher that is the exponential moving average of the student, and the teacher is the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..training.loop import Method, Phase
from ..training.preservation import with_preservation
from ..training.run import Run
from ..training.settings import Settings


class SDD(Method):
    """One update a step, of the weights; the average over steps is kept."""

    settings = {
        "weights": "cross-attention", "rank": 0, "in_context": False, "preserve_weight": 0.0, "drawn_by": "average",
        "average": 0.95, "weight_lr": 3e-4, "refresh": 10,
    }  # fmt: skip

    def phases(self, settings: Settings) -> Sequence[Phase]:
        return [Phase("distil", "delta", distil)]


def distil(run: Run) -> torch.Tensor:
    """The weights learn: the concept gives what the text without it gives, in the edited model itself."""
    batch = run.concept_batch()
    with torch.no_grad():
        without = run.edited_under(batch, [phrase.neutral for phrase in batch.phrases])
    return with_preservation(run, run.distance(run.edited(batch, beside=False), without, batch))
