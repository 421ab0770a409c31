"""How well an erasure holds: the concept is asked for in other ways than by the report, and counted when it comes back.

``by name`` asks in phrasings that training here sees as well, so it is a check and not an attack.

Every attack has a stated budget, and every prompt is also drawn by the unedited model, with the same noise: an attack
that does not bring the concept back there says nothing. There are no prompt lists here; prompts are the user's own, or
found by the attack.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch

from .. import learning
from ..artifact import ErasureError
from ..concepts import PHRASINGS, Encoder
from ..trajectories import Sampling
from ..version import host_version, pack_version
from . import attacks, relearning
from .attacks import Search
from .grid import grid, shrunk
from .judges import Judge, try_out
from .metrics import Share, preserving
from .report import Drawing, draw, shares

BLACK_BOX = ("by name", "other names", "concept direction", "token search", "behind tags")
WHITE_BOX = ("soft prompt", "relearning")
ATTACKS = (*BLACK_BOX, *WHITE_BOX)
Tick = Callable[[torch.Tensor | None], None]


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
    """What attacks may spend: ``strengths`` of the concept's direction, how much is searched for tokens, and steps of
    learning at batch 8."""

    strengths: Sequence[float] = (1.0, 2.0, 3.0)
    search: Search = field(default_factory=Search)
    soft_tokens: int = 8
    soft_steps: int = 60
    relearn_steps: int = 10

    def said(self, attack: str) -> str:
        """The budget of one attack in words."""
        return {
            "concept direction": "strength " + ", ".join(f"{s:g}" for s in self.strengths),
            "token search": f"tokens: {self.search.tokens}, texts tried: {self.search.texts}",
            "soft prompt": f"tokens: {self.soft_tokens}, steps: {self.soft_steps}",
            "relearning": f"steps: {self.relearn_steps}",
        }.get(attack, "")


@dataclass(frozen=True)
class Trial:
    """One attack: its prompts, and the pictures [prompts * seeds, h, w, 3] of the unedited and of the edited model,
    shrunk for the grid.

    ``before`` and ``after``: in how many of them the judge sees the concept; None without a judge.
    """

    attack: str
    budget: str
    prompts: Sequence[str]
    pictures: tuple[torch.Tensor, torch.Tensor]
    before: Share | None = None
    after: Share | None = None


@dataclass(frozen=True)
class StressReport:
    """All trials, and what they were made with; ``doubt``: what speaks against relying on the judge."""

    trials: Sequence[Trial]
    concept: Concept
    drawing: Drawing
    budget: Budget
    doubt: str = ""

    def grid(self) -> torch.Tensor:
        """All pictures, [sheets, h, w, 3]: a row for each prompt."""
        labels = [f"{trial.attack}: {prompt}" for trial in self.trials for prompt in trial.prompts]
        pictures = [torch.cat([trial.pictures[side] for trial in self.trials]) for side in (0, 1)]
        return grid(labels, ["unedited", "edited"], pictures)

    def text(self) -> str:
        """One line for each attack."""
        doubt = [self.doubt] if self.doubt else []
        return "\n".join([*doubt, *(_said(trial) for trial in self.trials)])

    def json(self) -> str:
        """Everything but the pictures."""
        trials = [
            {
                "attack": trial.attack, "budget": trial.budget, "prompts": list(trial.prompts),
                "back": shares({"before": trial.before, "after": trial.after}),
            }
            for trial in self.trials
        ]  # fmt: skip
        about = {
            "concept": asdict(self.concept), "drawing": asdict(self.drawing), "budget": asdict(self.budget),
            "doubt": self.doubt,
        }  # fmt: skip
        made_by = {"pack_version": pack_version(), "host_version": host_version()}
        return json.dumps({"trials": trials, **about, **made_by}, indent=1)


def _said(trial: Trial) -> str:
    spent = f" ({trial.budget})" if trial.budget else ""
    if trial.after is None or trial.before is None:
        return f"{trial.attack}{spent}: {len(trial.pictures[1])} pictures, not counted"
    return f"{trial.attack}{spent}: back in {trial.after}; unedited {trial.before.value:.3f}"


def stress(
    before,
    after,
    clip,
    vae,
    concept: Concept,
    drawing: Drawing,
    tests: Sequence[str] = ATTACKS,
    budget: Budget | None = None,
    judge: Judge | None = None,
    on_tick: Callable[[int, int, torch.Tensor | None], None] = lambda done, total, picture: None,
) -> StressReport:
    """Runs attacks on an edited model. ``on_tick`` gets how far it is, and pictures as they are drawn.

    Raises ErasureError for a concept without a name, without anything that it could be mistaken for, or without
    other names when nothing else is asked for.
    """
    _check(concept, judge, tests)
    doubt = try_out(judge, concept.labels, drawing.width, drawing.height)
    learns = set(tests) & set(WHITE_BOX)
    if learns:
        for model in (before, after):
            learning.require_trainable(model)  # before anything is drawn
    budget, encode = budget or Budget(), Encoder(clip)
    total, done = _work(concept, tests, budget), [0]

    def tick(picture: torch.Tensor | None = None) -> None:
        done[0] = min(done[0] + 1, total)
        on_tick(done[0], total, picture)

    negative = encode(drawing.negative).cond
    by_text = black_box(encode, concept, tests, budget, tick)
    pictured = 2 * len(drawing.seeds) * (sum(map(len, by_text.values())) + len(learns))

    def trial(attack: str, asked: Mapping[str, list], attacked=after) -> Trial:
        pictures, counts = [], []
        for model in (before, attacked):
            drawn, hits = [], []
            for positive in asked.values():
                shown = draw(model, vae, positive, negative, drawing)
                hits += [] if judge is None else ranks(judge, shown, concept)
                drawn.append(shrunk(shown, pictured))
                tick(shown)
            pictures.append(torch.cat(drawn))
            counts.append(None if judge is None else preserving(hits))
        return Trial(attack, budget.said(attack), list(asked), (pictures[0], pictures[1]), *counts)

    trials = [trial(name, asked) for name, asked in by_text.items()]
    if learns:
        ways = white_box(before, after, encode, concept, sampling_of(before, drawing), tests, budget, tick)
        trials += [trial(name, *found) for name, found in ways.items()]
    return StressReport(trials, concept, drawing, budget, doubt)


def _check(concept: Concept, judge: Judge | None, tests: Sequence[str]) -> None:
    if not concept.names:
        raise ErasureError("The concept is empty: type what was erased, one name a line.")
    if list(tests) == ["other names"] and not concept.others:
        raise ErasureError("There are no other names to ask by: type them, one a line, or switch on another attack.")
    if judge is not None and not set(concept.among) - {concept.label}:
        raise ErasureError(
            "The judge has nothing to choose from but the concept: type into 'among' what else pictures can show, one "
            "label a line."
        )


def ranks(judge: Judge, pictures: torch.Tensor, concept: Concept) -> list[int]:
    """The concept's place (0 = top) in what the judge sees in each picture."""
    return judge.ranks(pictures, [concept.label] * len(pictures), concept.labels)


def sampling_of(model, drawing: Drawing) -> Sampling:
    """The same sampler for attacks that learn as for the pictures."""
    latent = model.get_model_object("latent_format")
    ratio = getattr(latent, "spacial_downscale_ratio", 8)
    shape = (latent.latent_channels, drawing.height // ratio, drawing.width // ratio)
    return Sampling(drawing.sampler, drawing.scheduler, drawing.steps, drawing.cfg, shape)


def black_box(
    encode: Encoder, concept: Concept, tests: Sequence[str], budget: Budget, tick: Tick = lambda picture: None
) -> dict[str, dict[str, list]]:
    """Attacks that need the text encoder alone: attack -> prompt -> the host's conditioning."""
    found: dict[str, dict[str, list]] = {}
    if "by name" in tests:
        found["by name"] = {p.format(n): encode(p.format(n)).cond for n in concept.names for p in PHRASINGS[:4]}
    if "other names" in tests and concept.others:
        found["other names"] = {text: encode(text).cond for text in concept.others}
    with torch.no_grad():
        if "concept direction" in tests:
            found["concept direction"] = {
                name: cond for s in budget.strengths for name, cond in attacks.added(encode, concept.names, s)
            }
        if "token search" in tests:
            text = attacks.search(encode, concept.names, 1.0, budget.search, lambda: tick(None))
            found["token search"] = {text.text: text.cond}
    if "behind tags" in tests:
        asked = [p.format(n) for n in concept.names for p in PHRASINGS[:4]]
        texts = [attacks.behind_tags(text, turn) for turn, text in enumerate(asked)]
        found["behind tags"] = {text: encode(text).cond for text in texts}
    return found


def white_box(
    before, after, encode: Encoder, concept: Concept, sampling: Sampling, tests: Sequence[str], budget: Budget,
    tick: Tick = lambda picture: None,
) -> dict[str, tuple[dict[str, list], object]]:  # fmt: skip
    """Attacks that learn on the edited model: attack -> the host's conditionings, and the model to draw them with."""
    found: dict[str, tuple[dict[str, list], object]] = {}

    def step(done: int, loss: float) -> None:
        tick(None)

    with learning.gradients():
        taught = relearning.lessons(before, encode, concept.names, sampling)
        if "soft prompt" in tests:
            cond = relearning.soft_prompt(after, encode, taught, budget.soft_tokens, budget.soft_steps, step)
            found["soft prompt"] = ({"learned": cond}, after)
        if "relearning" in tests:
            model = relearning.relearned(after, encode, taught, budget.relearn_steps, step)
            text = PHRASINGS[2].format(concept.label)
            found["relearning"] = ({text: encode(text).cond}, model)
    return found


def _work(concept: Concept, tests: Sequence[str], budget: Budget) -> int:
    """How many ticks there will be."""
    batches = -(-budget.search.tried // 64) + budget.search.generations + 1
    ticks = {
        "by name": 8 * len(concept.names), "other names": 2 * len(concept.others),
        "concept direction": 2 * len(attacks.NEUTRAL) * len(budget.strengths), "token search": 2 + batches,
        "behind tags": 8 * len(concept.names),
        "soft prompt": 2 + budget.soft_steps, "relearning": 2 + budget.relearn_steps,
    }  # fmt: skip
    return max(1, sum(ticks[name] for name in tests))
