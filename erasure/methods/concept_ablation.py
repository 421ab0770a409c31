"""Concept ablation (Kumari et al., arXiv 2303.13516).

    min_θ'  || e'(z_t, c_e) - sg e(z_t, c_a) ||^2,   z_t drawn for c_a

The concept learns to give what an anchor gives, on latents of the anchor. Without an anchor text it is the same phrase
without the concept. The paper noises about 200 generated anchor pictures; here they are the sampler's own latents.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..training.loop import Method, Phase
from ..training.preservation import with_preservation
from ..training.run import Run
from ..training.settings import Settings


class ConceptAblation(Method):
    """One update a step, of the weights."""

    settings = {
        "weights": "keys+values", "rank": 0, "preserve_weight": 0.0, "drawn_for": "replacement", "space": "noise",
        "weight_lr": 2e-3, "refresh": 10,
    }  # fmt: skip

    def phases(self, settings: Settings) -> Sequence[Phase]:
        return [Phase("ablate", "delta", ablate)]


def ablate(run: Run) -> torch.Tensor:
    """The weights learn: the concept gives what its replacement did."""
    batch = run.concept_batch()
    [anchor] = run.original_under(batch, [phrase.replacement for phrase in batch.phrases])
    return with_preservation(run, run.distance(run.edited(batch, beside=False), anchor, batch))
