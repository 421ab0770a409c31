"""All but One: the guidance term moves, the unconditional score is pinned (Hong et al., arXiv 2312.12807).

    min_θ'  || (e'(z_t, c_e) - e'(z_t, c_0)) - (e(z_t, c_a) - e(z_t, c_0)) ||^2  +  || e'(z_t, c_0) - e(z_t, c_0) ||^2

c_a: what takes the concept's place, the anchor or the same phrase without the concept. Reconstructed from the
abstract, no code is public: the form of both terms and the weight 1 are assumed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..training.loop import Method, Phase
from ..training.preservation import with_preservation
from ..training.run import Run
from ..training.settings import Settings

PIN = 1.0
"""Weight of the unconditional term."""


class AllButOne(Method):
    """One update a step, of the weights."""

    settings = {
        "weights": "cross-attention", "rank": 0, "preserve_weight": 0.0, "weight_lr": 2e-3, "refresh": 10,
        "drawn_by": "edited",
    }  # fmt: skip

    def phases(self, settings: Settings) -> Sequence[Phase]:
        return [Phase("move guidance", "delta", move_guidance)]


def move_guidance(run: Run) -> torch.Tensor:
    """The weights learn: guidance towards the concept becomes guidance towards its replacement."""
    batch = run.concept_batch()
    nothing = [run.encode("")] * len(batch.phrases)
    wanted, unconditional = run.original_under(batch, [phrase.replacement for phrase in batch.phrases], nothing)
    concept, pinned = run.edited(batch, beside=False), run.edited_under(batch, nothing)
    loss = run.distance(concept - pinned, wanted - unconditional, batch)
    return with_preservation(run, loss + PIN * run.distance(pinned, unconditional, batch))
