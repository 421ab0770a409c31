"""A few steps of fine-tuning on keys and values::

min_θ'  || e'(z_t, c_e) - e(z_t, c_e) ||^2
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ...host.subject import subject
from ...host.weights import patches, true_shapes
from ...parts.delta import Delta
from ...protocols import Model
from ...texts.encoder import Encoder
from ...texts.phrases import PHRASINGS
from .attack import Asked, Budget, Case, Learned
from .lessons import SETTINGS, Lessons, OnStep, Pupil


class Relearning(Learned):
    """The model itself is changed."""

    name = "relearning"
    title = "Retraining the model"
    deed = "Retrains the erased model on the concept for a few steps, and asks for it by name."
    meaning = "Whoever retrains the model brings it back: no published method withstands that."

    def steps(self, budget: Budget) -> int:
        return budget.relearn_steps

    def spent(self, budget: Budget) -> str:
        return f"steps: {budget.relearn_steps}"

    def learn(self, case: Case, model: Model, on_step: OnStep) -> Asked:
        model = relearned(model, case.encode, case.lessons, case.budget.relearn_steps, on_step)
        text = PHRASINGS[2].format(case.concept.label)
        return Asked({text: case.encode(text).cond}, model)


def relearned(
    model: Model, encode: Encoder, taught: Lessons, steps: int,
    on_step: OnStep = lambda step, loss: None, rate: float = 1e-3,
):  # fmt: skip
    """The edited model after a few steps of fine-tuning on the concept."""
    settings = replace(SETTINGS, steps=steps, weight_lr=rate, lr_decay=0.0)
    names = subject(model).weights(settings.weights)
    delta = Delta(true_shapes(model, names), 0, torch.Generator())
    pupil = Pupil(model, encode, taught, settings, delta)
    pupil.learn("delta", lambda batch: pupil.edited(batch, beside=False), on_step)
    out = model.clone()
    out.add_patches(patches(delta.at_rest()))
    return out
