"""ESD: erased stable diffusion (Gandikota et al., arXiv 2303.07345).

    min_θ'  || e'(z_t, c_e) - t ||^2,   t = e(z_t, c_0) - eta (e(z_t, c_e) - e(z_t, c_0))

The weights learn to predict for the concept what negative guidance away from it gives. Which weights is the variant:
``cross-attention`` is ESD-x, ``keys+values`` ESD-x-strict, ``all but cross-attention`` ESD-u.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..training.loop import Method, Phase
from ..training.preservation import with_preservation
from ..training.run import Run
from ..training.settings import Settings


class ESD(Method):
    """One update a step, of the weights."""

    settings = {
        "weights": "cross-attention", "rank": 0, "in_context": False, "eta": 1.0, "preserve_weight": 0.0,
        "drawn_by": "edited", "weight_lr": 2e-3, "refresh": 10,
    }  # fmt: skip

    def phases(self, settings: Settings) -> Sequence[Phase]:
        return [Phase("erase", "delta", erase)]


def erase(run: Run) -> torch.Tensor:
    """The weights learn: the concept gives what the target did."""
    batch = run.concept_batch()
    _, target = run.original_and_target(batch)
    return with_preservation(run, run.distance(run.edited(batch, beside=False), target, batch))
