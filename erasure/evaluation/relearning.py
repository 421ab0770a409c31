"""Getting a concept back by learning on the edited model: who attacks has its weights, and knows what was erased.

Both attacks learn from what the unedited model predicts for the concept, written down as ``Lessons``::

    soft prompt   min_v   || e'(z_t, v) - e(z_t, c_e) ||^2         v: context tokens
    relearning    min_θ'  || e'(z_t, c_e) - e(z_t, c_e) ||^2       a few steps on keys and values

The first is of the kind of concept inversion (CCE, arXiv 2308.01508), P4D (arXiv 2309.06135) and UnlearnDiffAtk
(arXiv 2310.11868). These learn word embeddings, before the text encoder; here it is the encodings behind it, which the
text encoder cannot restrain, so that the attack is a stronger one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from .. import deltas, learning, training
from ..choice import Soft
from ..concepts import PHRASINGS, Encoder
from ..run import TRAJECTORIES, Batch, Phrase, Run
from ..settings import Settings
from ..training import Phase, Progress
from ..trajectories import Sampling

Lessons = Sequence[tuple[Batch, torch.Tensor]]
"""Latents of the concept with what the unedited model predicts for them."""
LESSONS = 60
SETTINGS = Settings(method="", batch=8, lr_decay=0.5, preserve_weight=0.0, drawn_by="original", seed=0)


def lessons(model, encode: Encoder, names: Sequence[str], sampling: Sampling, count: int = LESSONS) -> Lessons:
    """What the unedited model predicts on its own way to the concept; call inside ``learning.gradients()``."""
    phrases = [Phrase(encode(p.format(name)), encode(""), name=name) for name in names for p in PHRASINGS[:4]]
    settings = replace(SETTINGS, sampling=sampling)
    run = Run(learning.plain_patcher(model), encode, phrases, [], None, None, None, {}, settings)
    for _ in range(TRAJECTORIES):
        run.sample()
    batches = [run.concept_batch() for _ in range(count)]
    return [(batch, run.original(batch)) for batch in batches]


class Attack(Run):
    """A run on the edited model, which draws nothing itself."""

    def __init__(self, model, encode: Encoder, taught: Lessons, delta, choices, settings: Settings):
        super().__init__(learning.plain_patcher(model), encode, [], [], None, None, delta, choices, settings)
        self.taught = taught

    def sample(self) -> None:
        """Lessons take the place of trajectories."""

    def lesson(self) -> tuple[Batch, torch.Tensor]:
        return self._pick(self.taught)


def soft_prompt(
    model, encode: Encoder, taught: Lessons, tokens: int, steps: int,
    on_step: Callable[[int, float], None] = lambda step, loss: None, rate: float = 0.05,
) -> list:  # fmt: skip
    """The host's conditioning whose learned ``tokens`` make the edited model predict the concept."""
    settings = replace(SETTINGS, steps=steps, choice_lr=rate)
    soft = Soft(encode(""), tokens)
    run = Attack(model, encode, taught, None, {"soft": soft}, settings)

    def loss(_) -> torch.Tensor:
        batch, wanted = run.lesson()
        return run.distance(run.edited_under(batch, [soft] * len(batch.phrases)), wanted, batch)

    training.train(run, [Phase("invert", "soft", loss)], Progress(), on_step)
    return encode("").reading(soft.context()[0].detach().cpu())


def relearned(
    model, encode: Encoder, taught: Lessons, steps: int,
    on_step: Callable[[int, float], None] = lambda step, loss: None, rate: float = 1e-3,
):  # fmt: skip
    """The edited model after a few steps of fine-tuning on the concept."""
    settings = replace(SETTINGS, steps=steps, weight_lr=rate, lr_decay=0.0)
    names = deltas.weight_names(model.model, settings.weights)
    delta = deltas.Delta(deltas.true_shapes(model, names), 0, torch.Generator())
    run = Attack(model, encode, taught, delta, {}, settings)

    def loss(_) -> torch.Tensor:
        batch, wanted = run.lesson()
        return run.distance(run.edited(batch, prompt=False), wanted, batch)

    training.train(run, [Phase("relearn", "delta", loss)], Progress(), on_step)
    out = model.clone()
    out.add_patches(deltas.patches(delta.at_rest()))
    return out
