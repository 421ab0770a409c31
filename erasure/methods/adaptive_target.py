"""AGE: the concept's target is chosen while the weights learn (Bui et al., arXiv 2501.18950).

    min_θ' max_π  || e'(z_t, c_e) - e(z_t, c_t) ||^2  +  || e'(z_t, c_t) - e(z_t, c_t) ||^2,   c_t ~ Gumbel-softmax(π)

c_t is a mixture of neighbours of the concept. The logits π move against the weights, towards the neighbour that the
edit disturbs most, which the second term then holds. The candidates are the concept's nearest texts in the preserve
set, or without one the nearest common words; the temperature is the published one for objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..training.choice import Choice
from ..training.loop import Method, Phase
from ..training.preservation import with_preservation
from ..training.run import Run
from ..training.settings import Settings

if TYPE_CHECKING:
    from ..training.setting_up import Setting

TARGETS = 8
"""Texts nearest to each name, among which a target is learned."""


class AdaptiveTarget(Method):
    """Alternates an update of the weights and one of the target."""

    settings = {
        "weights": "cross-attention", "rank": 0, "in_context": False, "preserve_weight": 0.0, "weight_lr": 2e-3,
        "drawn_by": "edited", "refresh": 10,
    }  # fmt: skip

    def choices(self, setting: Setting) -> dict[str, Choice]:
        words = [word for row in setting.near for word in row[:TARGETS]]
        return {"target": Choice([setting.encode(word) for word in words], temperature=0.1, hard=False)}

    def phases(self, settings: Settings) -> Sequence[Phase]:
        return [Phase("erase", "delta", erase), Phase("choose", "target", choose)]


def erase(run: Run) -> torch.Tensor:
    """The weights learn: the concept gives what the target did, and the target still does."""
    return with_preservation(run, _to_target(run, learning=False))


def choose(run: Run) -> torch.Tensor:
    """The target moves to where both are hardest."""
    return -_to_target(run, learning=True)


def _to_target(run: Run, learning: bool) -> torch.Tensor:
    batch = run.concept_batch()
    rows = [run.chosen("target")] * len(batch.phrases)
    [target] = run.original_under(batch, rows, learning=learning)
    erased = run.distance(run.edited(batch, beside=False), target, batch)
    return erased + run.distance(run.edited_under(batch, rows), target, batch)
