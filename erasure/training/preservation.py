"""What holds everything but the concept while any method learns: the preserve set, all of it or what is hurt most.

    ``all``           || e'(z_t, c_p) - e(z_t, c_p) ||^2,  c_p random texts of the preserve set
    ``adversarial``   min_θ' max_π || e'(z_t, c_r) - e(z_t, c_r) ||^2,  c_r ~ Gumbel-softmax(π), drawn hard

The second is adversarial preservation (Bui et al., arXiv 2410.15618): the logits π learn, one step for each of the
weights', to find the text that the edit hurts most. The candidates are the preserve set, or without one the nearest
common words. The authors' script draws z_t for c_r; here it is, more cheaply, that of random preserved texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..texts.encoder import Encoder
from .choice import Choice
from .loop import Phase
from .run import Run
from .settings import Settings

CANDIDATES = 100
"""Size of the pool, nearest texts first, in which the adversary searches (arXiv 2410.15618)."""


def with_preservation(run: Run, loss: torch.Tensor) -> torch.Tensor:
    """A loss of the weights, and the preserve set's where the settings ask for it."""
    weight = run.settings.preserve_weight
    return loss + weight * preservation(run, beside=False) if weight > 0 else loss


def preservation(run: Run, beside: bool) -> torch.Tensor:
    """How far the edited model's predictions for preserved texts have moved from the original's."""
    batch = run.kept_batch()
    if run.settings.preserve_by == "adversarial":
        batch = replace(batch, phrases=[run.chosen("preserved")] * len(batch.phrases))
    return run.distance(run.edited(batch, beside=beside), run.original(batch), batch)


def find_the_hurt(run: Run) -> torch.Tensor:
    """The adversary's loss: the less, the more the chosen text is hurt."""
    batch = run.kept_batch()
    mixture = run.chosen("preserved")
    rows = [mixture] * len(batch.phrases)
    hurt = run.distance(run.edited_under(batch, rows), run.original_under(batch, rows, learning=True)[0], batch)
    return -hurt


def choice_of_adversary(encode: Encoder, near: Sequence[Sequence[str]], settings: Settings) -> dict[str, Choice]:
    """What the adversary chooses among, where there is one: the texts nearest to each name."""
    if settings.preserve_by != "adversarial":
        return {}
    texts = list(dict.fromkeys(word for row in near for word in row[:CANDIDATES]))
    return {"preserved": Choice([encode(text) for text in texts], temperature=2.0, hard=True)}


def adversary(settings: Settings) -> Sequence[Phase]:
    """The adversary's phase, where there is one."""
    return [Phase("adversary", "preserved", find_the_hurt)] if settings.preserve_by == "adversarial" else []
