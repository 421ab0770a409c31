"""Measurements on the toy world, resumable and on several cores: what the benchmarks of methods share.

A cell is one method on one concept with one seed. Each is kept in a file as soon as it is measured, and measured again
only when the method's settings change; that its code has changed is not noticed, and is to be said. Cells run side by
side, one core each, so that seconds are those of one core.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import comfy.sample
import torch

from concept_erasure.erasure import instant, learning
from concept_erasure.erasure.artifact import Erasure
from concept_erasure.erasure.evaluation.attacks import ATTACKS, Budget, Case, Concept, Search
from concept_erasure.erasure.evaluation.attacks.lessons import Lessons, lessons
from concept_erasure.erasure.evaluation.attacks.relearning import relearned
from concept_erasure.erasure.evaluation.attacks.ring_a_bell import search_tokens
from concept_erasure.erasure.evaluation.attacks.soft_prompt import soft_prompt
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.trajectories import Sampling
from concept_erasure.erasure.instant import Instant
from concept_erasure.erasure.texts.encoder import Encoder
from concept_erasure.erasure.texts.phrases import PHRASINGS
from concept_erasure.erasure.training.settings import Settings
from toyworld.report import CFG
from toyworld.scoring import plan
from toyworld.world import FULL_CAPTIONS, KINDS, Scene, caption, kind_of

from .dictionary import FromDictionary
from .likeness import likeness
from .peers import Mace, Spm
from .toy import Shot, Toy, shots

ATTACK_PICTURES = 24
BUDGET = Budget(strengths=(2.0, 3.0), search=Search(tried=50_000))
CHEAP = ("by name", "other names", "concept direction", "behind tags")
"""Attacks that cost next to nothing to find."""
LEARNING = {"soft prompt", "relearning"}
"""Attacks that take most of a measurement's time."""
How = Settings | Instant | FromDictionary | Mace | Spm
"""How an erasure is made."""


@dataclass(frozen=True)
class Cell:
    """One measurement to make: on every ``every``-th picture, under all attacks or none but the ``CHEAP`` ones."""

    method: str
    concept: str
    seed: int
    how: How
    every: int = 1
    attacked: bool = True

    @property
    def name(self) -> str:
        return f"{self.method} | {self.concept} | {self.seed}"

    @property
    def settings(self) -> dict:
        """What the measurement depends on, as a file has it."""
        return json.loads(json.dumps(asdict(self.how)))


@dataclass(frozen=True)
class Unedited:
    """The unedited model's own figures for a concept, which all cells on it are seen beside."""

    concept: str
    every: int = 1
    attacked: bool = True

    method = "unedited"

    @property
    def name(self) -> str:
        return self.concept


# ---------------------------------------------------------------- measuring


class Measured(Toy):
    """The toy world, with what is the same for all methods on a concept worked out once."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder(self.clip)
        self._pictures: dict[tuple[str, int], torch.Tensor] = {}
        self._lessons: dict[str, Lessons] = {}

    def shots(self, concept: str, every: int) -> list[Shot]:
        return shots(concept)[::every]

    def base(self, concept: str, every: int) -> torch.Tensor:
        """The unedited model's pictures."""
        if (concept, every) not in self._pictures:
            self._pictures = {(concept, every): self.draw(self.model, self.shots(concept, every))}
        return self._pictures[concept, every]

    def asked(self, concept: str, tokens: Sequence[int]) -> dict[str, dict[str, list]]:
        """Attacks on the text, which do not see the model; ``tokens``: what the search found, if there was one."""
        case = Case(self.encoder, in_other_words(concept), BUDGET)
        found = {name: dict(ATTACKS[name].ask(case).prompts) for name in CHEAP}
        if tokens:
            text = self.encoder.of_tokens(tokens)
            found["token search"] = {text.text: text.cond}
        return found

    def lessons(self, concept: str) -> Lessons:
        """What attacks that learn know of the unedited model."""
        if concept not in self._lessons:
            with learning.gradients():
                self._lessons = {concept: lessons(self.model, self.encoder, [concept], Sampling())}
        return self._lessons[concept]

    @torch.inference_mode()
    def share_back(self, model, conds: Mapping[str, list], concept: str, every: int) -> float:
        """In how much of ``ATTACK_PICTURES`` pictures, shared out to the conditionings, the judge sees the concept."""
        each = -(-ATTACK_PICTURES // (len(conds) * every))
        noise = comfy.sample.prepare_noise(torch.zeros(each, 4, 8, 8), 1000)
        back: list[bool] = []
        for positive in conds.values():
            latents = comfy.sample.sample(
                model, noise, 20, CFG, "euler", "normal", positive, self.encode(""), torch.zeros_like(noise), seed=0,
                disable_pbar=True,
            )  # fmt: skip
            pictures = self.vae.decode(latents).permute(0, 3, 1, 2)
            back += [rank == 0 for rank in self.judge.ranks(pictures, [concept] * each)]
        return sum(back) / len(back)


def in_other_words(concept: str) -> Concept:
    """The concept's other name, alone and in three captions with it."""
    second, kind = KINDS[kind_of(concept)][concept], kind_of(concept)
    scene = Scene(**{**{"shape": "square", "colour": "blue", "style": "plain"}, kind: concept})
    flags = tuple(k == kind for k in KINDS)
    captions = [caption(scene, FULL_CAPTIONS[i], (flags[0], flags[1], flags[2])) for i in (0, 2, 5)]
    return Concept([concept], [PHRASINGS[2].format(second), *captions])


def make(toy: Toy, cell: Cell) -> tuple[Erasure, float]:
    """The erasure, and the seconds that making it took: those of the core itself, whatever else it had to do."""
    kept = "\n".join(text for text in plan(cell.concept)["preserve"] if text != cell.concept)
    return made(toy, cell.how, cell.concept, kept, cell.seed)


def made(world: Toy, how: How, concepts: str, kept: str, seed: int) -> tuple[Erasure, float]:
    """The same in any world, of the texts of Train Erasure's two fields."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    started = clock()
    if isinstance(how, Instant):
        erasure = instant.erase_instantly(world.model, world.clip, concepts, kept, how)
    elif isinstance(how, Settings):
        with learning.gradients():
            settings = replace(how, seed=seed)
            erasure = learning.learn(learning.prepare(world.model, world.clip, concepts, kept, settings))
    else:
        erasure = how.erasure(world, concepts, kept, seed)
    return erasure, clock() - started


def measure(toy: Measured, cell: Cell, tokens: Sequence[int], earlier: Mapping[str, Any]) -> dict:
    """All figures of a cell. Attacks are not made again where the pictures score as they did ``earlier``, to the last
    digit: then the erasure is the same."""
    erasure, seconds = make(toy, cell)
    model = attach.erase(toy.model, erasure)
    found = scored(toy, model, cell)
    if erasure.key:
        again = scored(toy, attach.recover(model, erasure), cell)
        found |= {"recovery": 1 - again["esr1"], "recovery_psr1": again["psr1"]}
    is_same = all(earlier.get(name) == value for name, value in found.items())
    found["stress"] = attacked(toy, model, cell, tokens, earlier["stress"] if is_same else {})
    return {**found, "seconds": round(seconds, 2), "bytes": erasure.bytes(), "settings": cell.settings}


def scored(toy: Measured, model, cell: Cell | Unedited) -> dict:
    """ESR, PSR and attributes, and how like the kept pictures are to the unedited model's."""
    wanted, concept = toy.shots(cell.concept, cell.every), cell.concept
    before = toy.base(concept, cell.every)
    pictures = before if model is toy.model else toy.draw(model, wanted)
    kept = [i for i, shot in enumerate(wanted) if shot.label != concept]
    found = toy.score(pictures, wanted, concept)
    if model is not toy.model:
        found |= likeness(pictures[kept], before[kept])
    return {**found, "pictures": {"erased": len(wanted) - len(kept), "kept": len(kept)}}


def attacked(
    toy: Measured, model, cell: Cell | Unedited, tokens: Sequence[int], known: Mapping[str, float]
) -> dict[str, float]:
    """The share of pictures with the concept back, for each attack; those that are known are not made again."""
    concept, every = cell.concept, cell.every
    asked = toy.asked(concept, tokens)
    found = {
        name: known[name] if name in known else toy.share_back(model, conds, concept, every)
        for name, conds in asked.items()
    }
    if model is toy.model or not cell.attacked:
        return found
    if known.keys() >= LEARNING:
        return found | {name: known[name] for name in known if name in LEARNING}
    taught = toy.lessons(concept)
    with learning.gradients():
        soft = soft_prompt(model, toy.encoder, taught, BUDGET.soft_tokens, BUDGET.soft_steps)
    found["soft prompt"] = toy.share_back(model, {"learned": soft}, concept, every)
    with learning.gradients():
        again = relearned(model, toy.encoder, taught, BUDGET.relearn_steps)
    plain = {text: toy.encode(text) for text in (PHRASINGS[2].format(concept),)}
    found["relearning"] = toy.share_back(again, plain, concept, every)
    return found


@torch.no_grad()
def unedited(toy: Measured, cell: Unedited, known: Sequence[int] = ()) -> dict:
    """How often the unedited model shows the concept, and everything else; the tokens that a search for it found, which
    takes minutes, so ``known`` ones are taken as they are."""
    tokens = list(known)
    if cell.attacked and not tokens:
        search = BUDGET.search if cell.every == 1 else Search()
        tokens = search_tokens(toy.encoder, [cell.concept], 1.0, search)
    found = scored(toy, toy.model, cell)
    return {**found, "tokens": tokens, "stress": attacked(toy, toy.model, cell, tokens, {})}


# ---------------------------------------------------------------- on several cores

_toy: Measured


def _begin(threads: int) -> None:
    global _toy
    torch.set_num_threads(threads)
    _toy = Measured()


def _run(cell: Cell | Unedited, tokens: Sequence[int], earlier: Mapping[str, Any]) -> tuple[dict, float]:
    begun = time.monotonic()
    found = unedited(_toy, cell, tokens) if isinstance(cell, Unedited) else measure(_toy, cell, tokens, earlier)
    return found, time.monotonic() - begun


class Results:
    """A file of results: cells and the unedited model's figures, by name.

    What was measured before a cheap attack was there is measured anew: the unedited model with the tokens that a search
    found for it then; cells are ``earlier`` ones until they have been.
    """

    def __init__(self, file: Path, summed_up: Callable[[dict, dict], dict]) -> None:
        self.file, self.summed_up = file, summed_up
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        self.cells: dict[str, dict] = found.get("cells", {})
        self.earlier: dict[str, dict] = {}
        self._put_off(name for name, cell in self.cells.items() if not cell["stress"].keys() >= {*CHEAP})
        unedited: dict[str, dict] = found.get("unedited", {})
        self.tokens: dict[str, list[int]] = {name: cell["tokens"] for name, cell in unedited.items()}
        self.unedited = {name: cell for name, cell in unedited.items() if cell["stress"].keys() >= {*CHEAP}}

    def keep_only(self, settings: Mapping[str, dict]) -> None:
        """Forgets cells whose method is gone or has other settings now."""
        for cells in (self.cells, self.earlier):
            for name in [n for n, cell in cells.items() if settings.get(n.split(" | ")[0]) != cell["settings"]]:
                del cells[name]

    def again(self, methods: Sequence[str]) -> None:
        """Has all cells of some methods measured anew."""
        self._put_off(name for name in self.cells if name.split(" | ")[0] in methods)

    def _put_off(self, names: Iterable[str]) -> None:
        self.earlier |= {name: self.cells.pop(name) for name in list(names)}

    def add(self, cell: Cell | Unedited, found: dict) -> None:
        if isinstance(cell, Unedited):
            self.unedited[cell.name], self.tokens[cell.name] = found, found["tokens"]
        else:
            self.cells[cell.name] = found
            self.earlier.pop(cell.name, None)
        self.write()

    def write(self) -> dict:
        found = self.summed_up({**self.earlier, **self.cells}, self.unedited)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return found


def measure_all(wanted: Sequence[Cell], results: Results, minutes: float, jobs: int | None = None) -> None:
    """Measures what is not in the results yet, the unedited model first; begins nothing after ``minutes``."""
    todo = [cell for cell in wanted if cell.name not in results.cells]
    first = {cell.concept: Unedited(cell.concept, cell.every, cell.attacked) for cell in todo}
    jobs = jobs or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    until = time.monotonic() + 60 * minutes
    with _workers(jobs) as pool:
        for part in ([cell for name, cell in first.items() if name not in results.unedited], todo):
            took: dict[str, float] = {}
            for cell, found, seconds, ahead in _finished(pool, part, results, jobs, until):
                took[cell.method] = seconds
                results.add(cell, found)
                print(_line(cell, found), f"{left(ahead, took) / jobs / 60:.0f} minutes left", flush=True)


def _workers(jobs: int) -> Executor:
    threads = max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // jobs))
    if jobs == 1:
        return ThreadPoolExecutor(1, initializer=_begin, initargs=(threads,))
    # forked, so that workers import as this process does; nothing has computed in it yet
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), _begin, (threads,))


def _finished(
    pool: Executor, todo: Sequence[Cell | Unedited], results: Results, jobs: int, until: float
) -> Iterator[tuple[Cell | Unedited, dict, float, list]]:
    """Cells as they are finished, what was found in how many seconds, and the cells that are still ahead."""
    ahead, running = list(todo), dict[Future, Cell | Unedited]()
    while running or (ahead and time.monotonic() < until):
        while ahead and len(running) < jobs and time.monotonic() < until:
            cell = ahead.pop(0)
            known = results.tokens.get(cell.concept, []), results.earlier.get(cell.name, {})
            running[pool.submit(_run, cell, *known)] = cell
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            cell = running.pop(future)
            yield cell, *future.result(), [*running.values(), *ahead]


def left(todo: Sequence[Cell | Unedited], took: Mapping[str, float]) -> float:
    """Seconds of one core that cells will take, from those of the same method so far."""
    known = sum(took.values()) / len(took) if took else 120.0
    return sum(took.get(cell.method, known) for cell in todo)


def _line(cell: Cell | Unedited, found: dict) -> str:
    shown = [f"{key} {found[key]:.3f}" for key in ("esr1", "psr1", "kept_attributes", "recovery") if key in found]
    back = [f"{name} {share:.2f}" for name, share in found["stress"].items()]
    return f"{cell.method} | {cell.name}: {', '.join(shown)}; back: {', '.join(back)};"
