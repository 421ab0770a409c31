"""A prompt that is learned on the edited model::

    min_v   || e'(z_t, v) - e(z_t, c_e) ||^2         v: context tokens

It is of the kind of concept inversion (CCE, arXiv 2308.01508), P4D (arXiv 2309.06135) and UnlearnDiffAtk (arXiv
2310.11868). These learn word embeddings, before the text encoder; here it is the encodings behind it, which the text
encoder cannot restrain, so that the attack is a stronger one.
"""

from __future__ import annotations

from dataclasses import replace

from ...protocols import Model
from ...texts.encoder import Encoder
from ...training.choice import Soft
from .attack import Asked, Budget, Case, Learned
from .lessons import SETTINGS, Lessons, OnStep, Pupil


class SoftPrompt(Learned):
    """Encodings that nobody could type."""

    name = "soft prompt"
    title = "Learning a secret prompt"
    deed = "Learns a prompt on the erased model, one that cannot be typed, until it draws the concept."
    meaning = "Whoever has both models can learn a prompt for it: no published method withstands that."

    def steps(self, budget: Budget) -> int:
        return budget.soft_steps

    def spent(self, budget: Budget) -> str:
        return f"tokens: {budget.soft_tokens}, steps: {budget.soft_steps}"

    def learn(self, case: Case, model: Model, on_step: OnStep) -> Asked:
        budget = case.budget
        cond = soft_prompt(model, case.encode, case.lessons, budget.soft_tokens, budget.soft_steps, on_step)
        return Asked({"a learned prompt": cond})


def soft_prompt(
    model: Model, encode: Encoder, taught: Lessons, tokens: int, steps: int,
    on_step: OnStep = lambda step, loss: None, rate: float = 0.05,
) -> list:  # fmt: skip
    """The host's conditioning whose learned ``tokens`` make the edited model predict the concept."""
    soft = Soft(encode(""), tokens)
    pupil = Pupil(model, encode, taught, replace(SETTINGS, steps=steps, choice_lr=rate), choices={"soft": soft})
    pupil.learn("soft", lambda batch: pupil.edited_under(batch, [soft] * len(batch.phrases)), on_step)
    return encode("").reading(soft.context()[0].detach().cpu())
