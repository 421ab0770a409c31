"""What every attack is: words for people, and a way to ask for the concept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from ... import learning
from ...families import Family
from ...host.subject import subject
from ...host.trajectories import Sampling
from ...protocols import Model
from ...texts.encoder import Encoder
from ...texts.phrases import PHRASINGS
from ..drawing import Drawing, Start, draw
from .lessons import Lessons, lessons
from .out_of_order import out_of_order
from .ring_a_bell import Search

Tick = Callable[[int], None]
"""Takes how much has been done since, in rows that went through the network."""
SAID = PHRASINGS[:4]
"""Phrasings in which a concept is asked for."""
PLAIN = PHRASINGS[2]
"""The one in which it is asked for once."""


@dataclass(frozen=True)
class Concept:
    """What was erased, by its ``names``; ``others``: prompts that ask for it in other words; ``among``: everything that
    the judge may see instead."""

    names: Sequence[str]
    others: Sequence[str] = ()
    among: Sequence[str] = ()

    @property
    def label(self) -> str:
        """What the judge should not see."""
        return self.names[0]

    @property
    def labels(self) -> list[str]:
        """Everything that the judge chooses from."""
        return list(dict.fromkeys([self.label, *self.among]))


@dataclass(frozen=True)
class Budget:
    """What attacks may spend: ``strengths`` of the concept's direction, how much is searched for tokens, steps of
    learning at batch 8; after which shares of the steps pictures are ``completed``, with how much noise they are
    ``denoised`` again, which share of their sides is ``inpainted``; how strong noise is, for each share of it that is
    new at every step; ``embedding_tokens`` of a learned word; ``controls``: whether attacks
    that learn are run on a model that reads no text as well, where that is not done in any case.
    """

    strengths: Sequence[float] = (1.0, 2.0, 3.0)
    search: Search = field(default_factory=Search)
    soft_tokens: int = 8
    soft_steps: int = 60
    relearn_steps: int = 10
    completed: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5)
    denoised: Sequence[float] = (0.5, 0.6, 0.7, 0.8)
    inpainted: float = 0.5
    noises: Sequence[float] = (1.0, 1.02, 1.04)
    etas: Sequence[float] = (0.0, 1.0, 1.4, 1.85)
    embedding_tokens: int = 4
    controls: bool = False


@dataclass(frozen=True)
class Case:
    """What an attack is given; one that knows no more than the text encoder needs neither of the models.

    ``instead``: what takes the concept's place, or could; empty where nothing is known.
    """

    encode: Encoder
    concept: Concept
    budget: Budget = field(default_factory=Budget)
    tick: Tick = lambda rows: None
    before: Any = None
    after: Any = None
    sampling: Sampling = field(default_factory=Sampling)
    vae: Any = None
    instead: str = ""
    drawing: Drawing = Drawing((0,))

    @property
    def negative(self) -> list:
        """The conditioning of every picture's negative prompt."""
        return self.encode(self.drawing.negative).cond

    @cached_property
    def shown(self) -> torch.Tensor:
        """The unedited model's pictures of the concept, [seeds, h, w, 3], drawn once."""
        positive = self.encode(PLAIN.format(self.concept.label)).cond
        pictures = draw(self.before, self.vae, positive, self.negative, self.drawing)
        self.tick(self.drawing.rows)
        return pictures

    @cached_property
    def lessons(self) -> Lessons:
        """What attacks that learn are taught, read once; ask for it inside ``learning.gradients()``."""
        return lessons(self.before, self.encode, self.concept.names, self.sampling, self.tick)


@dataclass(frozen=True)
class Asked:
    """What an attack asks: the host's conditioning for each prompt, and the edited model, where that is another now.

    ``starts``: where the drawing of a prompt starts, if not at plain noise; ``unedited``: where the unedited model's
    does, if elsewhere. ``text``: the text of all prompts, where they have other names. ``control``: the same without
    what is tested, on the unedited model if on no other. ``vectors``: of a word that was learned for it, by the names
    that embedding files have for text encoders.
    """

    prompts: Mapping[str, list]
    model: Model | None = None
    starts: Mapping[str, Start] = field(default_factory=dict)
    text: str = ""
    control: Asked | None = None
    unedited: Mapping[str, Start] | None = None
    vectors: Mapping[str, torch.Tensor] = field(default_factory=dict)


def beside_no_prompt(case: Case, starts: Mapping[str, Start]) -> Asked:
    """The concept asked for by its name from each start; the control starts there without a prompt."""
    text = PLAIN.format(case.concept.label)
    control = Asked(dict.fromkeys(starts, case.encode("").cond), starts=starts, text=text)
    return Asked(dict.fromkeys(starts, case.encode(text).cond), starts=starts, text=text, control=control)


class Attack:
    """One way to ask for the concept.

    ``name``: in inputs and files. For people: ``title``; ``deed``, a sentence on what it does; ``meaning``, a sentence
    on what it means when the concept comes back. ``learns``: it needs the model itself, and not only what is typed.
    ``draws``: it draws in another way. ``control``: a sentence on what it is seen beside, if anything. ``slow``: it is
    run when it is asked for alone. ``best``: a seed counts once, for the best picture of all prompts. ``fewest_steps``
    of drawing that it needs.
    """

    name: str
    title: str
    deed: str
    meaning: str
    learns: bool = False
    draws: bool = False
    control: str = ""
    slow: bool = False
    best: bool = False
    fewest_steps: int = 1

    def prompts(self, concept: Concept, budget: Budget) -> int:
        """How many prompts it will ask; none where it has nothing to ask."""
        raise NotImplementedError

    def misfit(self, encode: Encoder, family: Family) -> str:
        """Why it cannot be run on such a model, in a sentence that goes on; empty where it can."""
        return ""

    def effort(self, budget: Budget) -> int:
        """Rows through the network that finding them takes, about."""
        return 0

    def controlled(self, budget: Budget) -> bool:
        """Whether there is a control."""
        return bool(self.control)

    def rounds(self, budget: Budget) -> float:
        """How often it draws all seeds' pictures before it asks."""
        return 0.0

    def spent(self, budget: Budget) -> str:
        """Its budget in words."""
        return ""

    def ask(self, case: Case) -> Asked:
        """Finds what to ask."""
        raise NotImplementedError


class Typed(Attack):
    """Prompts that anybody can type, without looking for any."""

    def texts(self, concept: Concept) -> list[str]:
        raise NotImplementedError

    def prompts(self, concept: Concept, budget: Budget) -> int:
        return len(set(self.texts(concept)))

    def ask(self, case: Case) -> Asked:
        return Asked({text: case.encode(text).cond for text in self.texts(case.concept)})


class Learned(Attack):
    """Learning on the edited model, from what the unedited one predicts for the concept.

    Against these no published method holds, so they say how much work it takes.
    """

    learns = True
    control = "Control: the same on the unedited model, whose text weights are put out of order."

    def misfit(self, encode: Encoder, family: Family) -> str:
        return "" if family.learns else f"for it trains, and learning on {family.name} models is not supported."

    ROWS = 24
    """Rows through the network in a step of learning: a batch of 8, once there and about twice as much back."""

    def prompts(self, concept: Concept, budget: Budget) -> int:
        return 1

    def steps(self, budget: Budget) -> int:
        raise NotImplementedError

    def controlled(self, budget: Budget) -> bool:
        return self.slow or budget.controls

    def effort(self, budget: Budget) -> int:
        return self.ROWS * self.steps(budget) * (2 if self.controlled(budget) else 1)

    def learn(self, case: Case, model: Model, on_step: Callable[[int, float], None]) -> Asked:
        """On a model, inside ``learning.gradients()``."""
        raise NotImplementedError

    def ask(self, case: Case) -> Asked:
        with learning.gradients():
            asked = self.learn(case, case.after, lambda step, loss: case.tick(self.ROWS))
            if not self.controlled(case.budget):
                return asked
            other = out_of_order(case.before, subject(case.before).entry, case.drawing.seeds[0])
            control = self.learn(case, other, lambda step, loss: case.tick(self.ROWS))
        return replace(asked, control=replace(control, model=control.model or other))
