"""Prompt-only erasing: weights frozen, the prompt alone moves the concept's prediction to the target.

    min_p  || e(z_t, c_e, p) - t ||^2,   t = e(z_t, c_0) - eta (e(z_t, c_e) - e(z_t, c_0))

The removal objective of KPOP (arXiv 2403.12326) and ESD (arXiv 2303.07345), with the erasure prompt as the only
parameter. The prompt's keys and values do not depend on the text, so it needs the text gate: without one, it pulls
every prompt alike, and the preserve term has to hold the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..training.loop import Method, Phase
from ..training.preservation import preservation
from ..training.run import Run
from ..training.settings import Settings

if TYPE_CHECKING:
    from ..training.setting_up import Setting


class PromptOnly(Method):
    """One update a step, of the prompt."""

    role = "eraser"
    # a prompt that erases alone has to move much further than a key that starts at the concept
    settings = {"steps": 120, "prompt_lr": 1e-1, "start": "empty prompt"}

    def change(self, setting: Setting) -> None:
        return None

    def phases(self, settings: Settings) -> Sequence[Phase]:
        return [Phase("erase", "prompt", erase)]


def erase(run: Run) -> torch.Tensor:
    """The prompt learns: with it, the model predicts the target for the concept."""
    batch = run.concept_batch()
    _, target = run.original_and_target(batch)
    loss = run.distance(run.edited(batch, beside=True), target, batch)
    if run.settings.preserve_weight > 0 and not run.settings.gate:
        loss = loss + run.settings.preserve_weight * preservation(run, beside=True)
    return loss
