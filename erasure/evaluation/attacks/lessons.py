"""Getting a concept back by learning on the edited model: who attacks has its weights, and knows what was erased.

Both attacks that do so learn from what the unedited model predicts for the concept, written down as ``Lessons``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ...host.trainable import plain_patcher
from ...host.trajectories import Sampling
from ...protocols import Model
from ...texts.encoder import Encoder
from ...texts.phrases import PHRASINGS
from ...training import loop
from ...training.loop import Phase, Progress
from ...training.pool import TRAJECTORIES, Batch, Phrase
from ...training.run import Learners, Run
from ...training.settings import Settings

Lessons = Sequence[tuple[Batch, torch.Tensor]]
"""Latents of the concept with what the unedited model predicts for them."""
LESSONS = 60
SETTINGS = Settings(method="", batch=8, lr_decay=0.5, preserve_weight=0.0, drawn_by="original", seed=0)
OnStep = Callable[[int, float], None]


def lessons(
    model: Model, encode: Encoder, names: Sequence[str], sampling: Sampling,
    tick: Callable[[int], None] = lambda rows: None, count: int = LESSONS,
) -> Lessons:  # fmt: skip
    """What the unedited model predicts on its own way to the concept; call inside ``learning.gradients()``.

    ``tick`` is told of rows that went through the network, and may raise, to stop.
    """
    phrases = [Phrase(encode(p.format(name)), encode(""), name=name) for name in names for p in PHRASINGS[:4]]
    settings = replace(SETTINGS, sampling=sampling)
    run = Run(plain_patcher(model), encode, settings, phrases=phrases)
    for _ in range(TRAJECTORIES):
        run.sample()
        tick(_trajectory(sampling))
    taught = []
    for _ in range(count):
        batch = run.concept_batch()
        taught.append((batch, run.original(batch)))
        tick(settings.batch)
    return taught


def effort(sampling: Sampling) -> int:
    """Rows through the network that lessons take, about."""
    return TRAJECTORIES * _trajectory(sampling) + LESSONS * SETTINGS.batch


def _trajectory(sampling: Sampling) -> int:
    return 2 * SETTINGS.batch * sampling.steps


class Pupil(Run):
    """A run on the edited model, which draws nothing itself."""

    def __init__(self, model: Model, encode: Encoder, taught: Lessons, settings: Settings, delta=None, choices=None):
        super().__init__(plain_patcher(model), encode, settings, Learners(delta=delta, choices=choices or {}))
        self.taught = taught

    def sample(self, preview: Callable | None = None) -> None:
        """Lessons take the place of trajectories."""

    def lesson(self) -> tuple[Batch, torch.Tensor]:
        return self.pool.pick(self.taught)

    def learn(self, trains: str, predict: Callable[[Batch], torch.Tensor], on_step: OnStep) -> None:
        """Trains ``trains`` until ``predict`` gives what was taught."""

        def loss(_) -> torch.Tensor:
            batch, wanted = self.lesson()
            return self.distance(predict(batch), wanted, batch)

        loop.train(self, [Phase("attack", trains, loss)], Progress(), on_step)
