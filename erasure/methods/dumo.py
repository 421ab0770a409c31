"""DuMo: a control branch erases, and the network stays as it is (Han et al., arXiv 2501.01125).

    min_B,tau  || e_B(z_t, c_e) - t ||^2  +  || e_B(z_t, c_p) - e(z_t, c_p) ||^2,   t as in ESD

e_B: the network with the branch, a copy of its encoder and middle whose answers are added to the skips, each times tau,
a table over time and layers. The text gate decides which rows the branch is asked for. While it learns, it is asked
for all, so that preserved texts (c_p) are held by the branch, too, and not by the gate alone. Known to us are the
paper's abstract and its code for drawing: its training loss is unpublished, and both terms are assumed. There, the gate
compares texts as SPM does; here it is that of erasure prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..host.subject import Subject
from ..parts.gate import GateTensors
from ..parts.part import Learner
from ..training.loop import Method, Phase
from ..training.preservation import preservation
from ..training.run import Run
from ..training.settings import Settings

if TYPE_CHECKING:
    from ..training.setting_up import Setting


class DuMo(Method):
    """One update a step, of the branch and its table."""

    role = "eraser"
    # latents of the network as it was already show the concept: on these, the branch learns to go on painting it
    settings = {"steps": 200, "weight_lr": 1e-3, "preserve_weight": 1.0, "drawn_by": "edited", "refresh": 10}

    def require(self, here: Subject, settings: Settings) -> None:
        here.family.branch(here.model.model, torch.float32, torch.device("meta"))

    def beside(self, setting: Setting, gate: GateTensors | None) -> Learner:
        return setting.branch(gate)

    def change(self, setting: Setting) -> None:
        return None

    def phases(self, settings: Settings) -> Sequence[Phase]:
        return [Phase("erase", "branch", erase)]


def erase(run: Run) -> torch.Tensor:
    """The branch learns: with it, the model predicts the target for the concept, and what it did for other texts."""
    batch = run.concept_batch()
    _, target = run.original_and_target(batch)
    loss = run.distance(run.edited(batch, beside=True), target, batch)
    weight = run.settings.preserve_weight
    return loss + weight * preservation(run, beside=True) if weight > 0 else loss
