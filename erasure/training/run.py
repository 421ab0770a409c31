"""What a method sees while it trains: batches of z_t, and predictions of the original and the edited model.

The frozen teacher is the same network with the delta off, never a second copy.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from ..host import attach
from ..host.attention import AttentionMaps
from ..host.network import Network
from ..host.trajectories import sample_trajectory
from ..parts.delta import Delta, Mask
from ..parts.part import Learner, Part
from ..protocols import Model
from ..texts.encoder import Encoder, Text
from .choice import Choice, Mixture, Soft
from .memory import Memory
from .objectives import append_dims, distance, negative_guidance
from .pool import Batch, Phrase, Pool
from .settings import Settings


@dataclass(frozen=True)
class Learners:
    """What can learn in a training: what erases, or is a key, ``beside`` the weights; a change of these; choices, by
    name."""

    beside: Learner | None = None
    delta: Delta | Mask | None = None
    choices: Mapping[str, Choice | Soft] = field(default_factory=dict)


class Run:
    """One training: what learns in it, on which network, from which texts."""

    def __init__(
        self, model: Model, encode: Encoder, settings: Settings, learners: Learners = Learners(),  # noqa: B008, it is frozen
        phrases: Sequence[Phrase] = (), kept: Sequence[Text] = (), memory: Memory | None = None,
    ):  # fmt: skip
        self.model, self.encode, self.settings = model, encode, settings
        self.beside, self.delta, self.choices = learners.beside, learners.delta, dict(learners.choices)
        self.average = copy.deepcopy(self.delta) if settings.average > 0 else None
        self.network = Network(model, settings.sampling.shape, settings.checkpointing)
        generator = torch.Generator().manual_seed(settings.seed)
        self.pool = Pool(self.network, phrases, kept, encode(""), settings, generator, memory or Memory())
        for module in (*self.learned.values(), self.average):
            if module is not None:
                module.to(self.network.device)

    @property
    def learned(self) -> dict[str, nn.Module]:
        """What phases can train, by name."""
        beside = {} if self.beside is None else {self.beside.name: self.beside}
        return {**beside, **({} if self.delta is None else {"delta": self.delta}), **self.choices}

    @property
    def result(self) -> Delta | Mask | None:
        """The delta that an erasure takes: the average over steps, where there is one."""
        return self.average or self.delta

    @property
    def eraser(self) -> Learner | None:
        """What learns to erase beside the weights; a key is none."""
        return self.beside if self.beside is not None and self.beside.role == "eraser" else None

    @property
    def generator(self) -> torch.Generator:
        """All random numbers of the training come from it."""
        return self.pool.generator

    @property
    def kept(self) -> list[Text]:
        """The preserve set's texts."""
        return self.pool.kept

    # -- what losses are made of ------------------------------------------------------------------------------------

    def concept_batch(self) -> Batch:
        """Latents drawn for phrases of the concept."""
        return self.pool.draw(lambda row: isinstance(row, Phrase))

    def kept_batch(self) -> Batch:
        """Latents drawn for texts of the preserve set."""
        return self.pool.draw(lambda row: not isinstance(row, Phrase))

    def chosen(self, name: str) -> Mixture:
        """A draw of one of the run's choices."""
        choice = self.choices[name]
        assert isinstance(choice, Choice)
        return choice.draw(self.generator)

    def attention_to_concept(self, batch: Batch) -> list[torch.Tensor]:
        """Attention [heads, queries, tokens of the name] that every layer of the edited model pays to the concept, for
        every row."""
        maps = AttentionMaps()
        self.network.predict(batch.z, batch.sigma, batch.texts, maps=maps)
        spans = [self._span(phrase) for phrase in batch.phrases]
        return [row[..., span] for layer in maps.maps for row, span in zip(layer, spans, strict=True)]

    def _span(self, phrase: Phrase) -> slice:
        return self.encode.place(phrase.template, phrase.name)

    def original(self, batch: Batch) -> torch.Tensor:
        """Noise that the frozen model predicts for the batch's own texts, [b, c, h, w]; no gradients."""
        return self.original_under(batch, batch.texts)[0]

    def edited(self, batch: Batch, beside: bool) -> torch.Tensor:
        """Noise that the edited model predicts for the batch's own texts, with or without what learns beside its
        weights."""
        part: Part | None = self.beside.now() if beside and self.beside is not None else None
        return self.network.predict(batch.z, batch.sigma, batch.texts, part)

    def original_and_target(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """What the frozen model predicts for the concept, and where that is moved: away from the concept, or onto
        what takes its place. No gradients."""
        if self.settings.target != "empty prompt":
            original, target = self.original_under(batch, batch.texts, [p.anchor for p in batch.phrases])
            return original, target
        original, neutral = self.original_under(batch, batch.texts, [p.neutral for p in batch.phrases])
        return original, negative_guidance(neutral, original, self.settings.eta)

    def original_under(
        self, batch: Batch, *texts: Sequence[Text | Mixture | Soft], learning: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """What the frozen model predicts for the same latents under several texts, one a row, in one call.

        No gradients, but with ``learning`` those of mixtures.
        """
        z, sigma = batch.z.repeat(len(texts), *[1] * (batch.z.ndim - 1)), batch.sigma.repeat(len(texts))
        rows = [text for some in texts for text in some]

        def predict() -> torch.Tensor:
            # not checkpointed: backward would run the layers again with the edited weights, outside of these
            return self.network.predict(z, sigma, rows, checkpointed=False)

        with torch.set_grad_enabled(learning and torch.is_grad_enabled()):
            return self.network.computing_with(self.network.base, predict).chunk(len(texts))

    def edited_under(self, batch: Batch, texts: Sequence[Text | Mixture | Soft]) -> torch.Tensor:
        """What the edited model, with nothing beside its weights, predicts for the same latents under other texts."""
        return self.network.predict(batch.z, batch.sigma, texts)

    def distance(self, prediction: torch.Tensor, target: torch.Tensor, batch: Batch) -> torch.Tensor:
        return distance(prediction, target, batch.sigma, self.settings.space)

    def way(self) -> tuple[float, float]:
        """``way_of`` the result."""
        return self.way_of(self.result)

    @torch.no_grad()
    def way_of(self, result: Delta | Mask | None, batches: int = 6) -> tuple[float, float]:
        """How far a result has moved what the model predicts for the concept, as a share of the way to what takes its
        place: the anchor, or what is predicted without the concept, which negative guidance goes 1 + eta times as far
        as. And how far what it predicts for preserved texts, as a share of that way.

        Seen in clean latents on pooled trajectories; an eraser beside the weights is on, a key is not.
        """
        beside = self.eraser is not None
        weights = self.network.changed(result)
        done = whole = moved = 0.0
        for _ in range(batches):
            batch, other = self.concept_batch(), self.pool.draw(lambda row: True)
            original, target = self.original_and_target(batch)
            edited = self.network.computing_with(weights, partial(self.edited, batch, beside))
            scale = append_dims(batch.sigma, batch.z)
            wanted, change = (target - original) * scale, (edited - original) * scale
            done, whole = done + float((wanted * change).sum()), whole + float(wanted.square().sum())
            texts = [self.pool.pick(self.kept) for _ in other.phrases]
            [before] = self.original_under(other, texts)
            after = self.network.computing_with(weights, partial(self.edited_under, other, texts))
            moved += float(((after - before) * append_dims(other.sigma, other.z)).square().sum())
        beyond = 1 + self.settings.eta if self.settings.target == "empty prompt" else 1.0
        return (beyond * done / whole, beyond * (moved / whole) ** 0.5) if whole else (0.0, 0.0)

    # -- where latents come from ------------------------------------------------------------------------------------

    def sample(self, preview: Callable | None = None) -> None:
        """Adds one trajectory to the pool, drawn by the model that the settings ask for."""
        self.keep_up()
        by = self.settings.drawn_by
        edit = {"original": None, "edited": self.delta, "average": self.result}[by]
        part = None if by == "original" or self.eraser is None else self.eraser.now()
        self.pool.sample(edit, part, preview)

    @contextlib.contextmanager
    def apart(self, seed: int) -> Iterator[None]:
        """With random numbers and a pool of its own, of which nothing is left afterwards."""
        before, self.pool = self.pool, self.pool.apart(seed)
        try:
            yield
        finally:
            self.pool = before

    def keep_up(self) -> None:
        """Tells what learns beside the weights how these are changed by now."""
        if self.beside is not None and self.result is not None:
            self.beside.keep_up(self.result.at_rest())

    def follow(self) -> None:
        """Moves the averaged delta a little towards the one that learns."""
        if self.average is not None and self.delta is not None:
            with torch.no_grad():
                for slow, fast in zip(self.average.parameters(), self.delta.parameters(), strict=True):
                    slow.lerp_(fast, 1 - self.settings.average)

    def show(self, preview: Callable, edited: bool) -> None:
        """Draws the concept, always from the same noise; learning sees nothing of it."""
        model = self.model
        if edited and self.eraser is not None:
            model = attach.with_part(model, self.eraser.at_rest())
        generator = torch.Generator().manual_seed(self.settings.seed)
        positive, negative = self.pool.phrases[0].text.cond, self.encode("").cond
        with torch.no_grad():
            self.network.computing_with(
                self.network.changed(self.result if edited else None),
                lambda: sample_trajectory(model, positive, negative, self.settings.sampling, 1, generator, preview),
            )
