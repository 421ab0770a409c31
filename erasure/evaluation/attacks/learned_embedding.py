"""Word vectors that are learned on the edited model::

    min_v   || e'(z_t, E("a photo of a <v>")) - e(z_t, c_e) ||^2         v: vectors in the place of a word's

E is the text encoder, which stays as it is: this is Concept Inversion (CCE, arXiv 2308.01508) by textual inversion (Gal
et al., arXiv 2208.01618), learned on what the unedited model predicts on its way to its own pictures. The vectors are
what an embedding file holds, so whoever is handed one brings the concept back by typing its name.

Costs ``soft_steps`` steps of learning at batch 8, on the edited model and again for the control, with the text
encoder run there and back in each; then the pictures of one prompt on each model and for the control.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ...families import Family
from ...host.network import Scope, autograd_safe
from ...protocols import Model
from ...texts.encoder import Encoder
from ...training.choice import Soft
from ...training.pool import Batch
from .attack import PLAIN, Asked, Budget, Case, Learned
from .lessons import SETTINGS, Lessons, OnStep, Pupil

WORD = "thing"
"""Whose vectors are the first ones, and whose place they take."""
RATE = 0.1
"""Of learning, in root mean squares of the concept's own vectors."""


class LearnedEmbedding(Learned):
    """A few vectors, before the text encoder; needs CLIP text encoders, which embedding files are for."""

    name = "learned embedding"
    title = "Learning an embedding for it"
    deed = "Learns a word of its own on the erased model, by textual inversion, and asks with that word."
    meaning = "An embedding file can bring the concept back, by typing the file's name."
    slow = True

    def misfit(self, encode: Encoder, family: Family) -> str:
        if not encode.is_clip:
            return "for it learns words of CLIP, and this model's text encoder is another one."
        return super().misfit(encode, family)

    def steps(self, budget: Budget) -> int:
        return budget.soft_steps

    def spent(self, budget: Budget) -> str:
        return f"tokens: {budget.embedding_tokens}, steps: {budget.soft_steps}"

    def learn(self, case: Case, model: Model, on_step: OnStep) -> Asked:
        budget = case.budget
        word = Word(case.encode, budget.embedding_tokens)
        rate = RATE * word.size(case.concept.label)
        teach(word, model, case.lessons, budget.soft_steps, rate, on_step)
        return Asked({PLAIN.format("<learned>"): word.cond()}, vectors=word.at_rest())


class Word(Soft):
    """A phrase with vectors that learn in one word's place: [tokens, d] for each text encoder."""

    def __init__(self, encode: Encoder, tokens: int):
        nn.Module.__init__(self)
        self.encode, self.text = encode, encode(PLAIN.format(WORD))
        self.place = encode.place(PLAIN, WORD)
        with torch.inference_mode(False):
            first = self.own(WORD)
            self.vectors = nn.ParameterDict({key: rows[:1].repeat(tokens, 1) for key, rows in first.items()})
        self._weights = {
            n: autograd_safe(t) for n, t in [*self._reader.named_parameters(), *self._reader.named_buffers()]
        }
        self._context: torch.Tensor | None = None

    @property
    def _reader(self) -> nn.Module:
        reader: nn.Module = self.encode.clip.cond_stage_model
        return reader

    def own(self, name: str) -> dict[str, torch.Tensor]:
        """The vectors that each text encoder itself has for a name, [tokens, d]."""
        place, vectors = self.encode.place(PLAIN, name), {}
        for key, chunks in self.encode.recall.tokens(PLAIN.format(name)).items():
            table = getattr(self._reader, f"clip_{key}").transformer.get_input_embeddings()
            numbers = torch.tensor([int(token[0]) for token in chunks[0][place]], device=table.weight.device)
            vectors[key] = table(numbers, out_dtype=torch.float32).detach().clone()
        return vectors

    def size(self, name: str) -> float:
        """The root mean square of a name's numbers."""
        return float(torch.cat([rows.flatten() for rows in self.own(name).values()]).square().mean().sqrt())

    def renew(self) -> None:
        """Reads the phrase anew where it is next asked for: its vectors have changed."""
        self._context = None

    def within(self, context: torch.Tensor) -> torch.Tensor:
        """The phrase's encodings in the place of a context's, [1, n, d], with gradients."""
        if self._context is None:
            self._context = self.read()[0][0]
        return self._context.to(context)

    def read(self) -> list:
        """The host's conditioning of the phrase."""
        clip, tokens = self.encode.clip, self.encode.recall.tokens(self.text.text)
        filled = {key: [self._filled(chunks[0], self.vectors[key])] for key, chunks in tokens.items()}
        scope = Scope(self._reader)
        weights = {f"model.{n}": t for n, t in self._weights.items()}
        # the host's CLIP adds in place, so what backward needs is saved as it was
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.clone(), lambda tensor: tensor):
            read: list = torch.func.functional_call(
                scope, weights, (lambda: clip.encode_from_tokens_scheduled(filled),)
            )
        return read

    def _filled(self, chunk: list[tuple], vectors: torch.Tensor) -> list[tuple]:
        """A chunk with the vectors in the word's place; its padding becomes so much shorter."""
        start, stop = self.place.start, self.place.stop
        rows = [(row, 1.0) for row in vectors]
        return [*chunk[:start], *rows, *chunk[stop : len(chunk) - len(rows) + stop - start]]

    @torch.no_grad()
    def cond(self) -> list:
        """The host's conditioning of the phrase, as it stands."""
        [[context, extra]] = self.read()
        return [[context.cpu(), {k: v.cpu() if torch.is_tensor(v) else v for k, v in extra.items()}]]

    def at_rest(self) -> dict[str, torch.Tensor]:
        """The vectors by the names that embedding files have for text encoders."""
        return {f"clip_{key}": row.detach().cpu().clone() for key, row in self.vectors.items()}


def teach(
    word: Word, model: Model, taught: Lessons, steps: int, rate: float,
    on_step: OnStep = lambda step, loss: None,
) -> None:  # fmt: skip
    """Has a word learn until the edited model predicts the concept with it."""
    pupil = Pupil(model, word.encode, taught, replace(SETTINGS, steps=steps, choice_lr=rate), choices={"word": word})

    def predict(batch: Batch) -> torch.Tensor:
        word.renew()
        return pupil.edited_under(batch, [word] * len(batch.phrases))

    pupil.learn("word", predict, on_step)
