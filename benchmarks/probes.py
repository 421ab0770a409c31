"""Probes of erasures: drawing in other ways, a learned embedding, and how soon retraining undoes one.

    python3 scripts/run.py benchmarks.probes                    # 20 minutes on one core; goes on where it stopped
    python3 scripts/run.py benchmarks.probes --concepts circle --methods UCE
    python3 scripts/run.py benchmarks.probes --world drawn

Into ``benchmarks/results/probes.json``, or ``drawn_probes.json`` there, and the tables of docs/measured.md. Probes are
those that Stress Test has and does not run by default, through the code behind the node, each beside its control; of
the drawn world those that ``benchmarks.drawn`` leaves out. *Relearning* counts the steps of
retraining, of 1, 2, 4, …, after which the concept is back in half of the pictures: retraining on the concept, on
another one of its kind, and, as the control, on the concept with an unedited model whose text weights are out of
order. None: not after the most steps.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from concept_erasure.erasure import learning
from concept_erasure.erasure.artifact import Erasure
from concept_erasure.erasure.evaluation.attacks import ATTACKS, USUAL, Concept
from concept_erasure.erasure.evaluation.attacks.attack import PLAIN
from concept_erasure.erasure.evaluation.attacks.lessons import lessons
from concept_erasure.erasure.evaluation.attacks.out_of_order import out_of_order
from concept_erasure.erasure.evaluation.attacks.relearning import relearned
from concept_erasure.erasure.evaluation.drawing import Drawing, draw
from concept_erasure.erasure.evaluation.judges import Judge
from concept_erasure.erasure.evaluation.metrics import preserving
from concept_erasure.erasure.evaluation.stress import StressReport, sampling_of, stress
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.texts.encoder import Encoder
from toyworld.report import CFG
from toyworld.world import KINDS, kind_of

from . import drawn
from .cells import Cell, make
from .quality import METHODS
from .tables import put
from .toy import Toy

FILE = Path(__file__).with_name("results") / "probes.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "measured.md"
STEPS = (1, 2, 4, 8, 16, 32)
BACK = 0.5
"""Share of the pictures from which on the concept counts as back."""


class Seen:
    """The toy world's judge, for pictures [n, h, w, 3]."""

    def __init__(self, toy: Toy):
        self.judge = toy.judge

    def ranks(self, pictures: torch.Tensor, labels: Sequence[str], among: Sequence[str]) -> list[int]:
        ranks: list[int] = self.judge.ranks(pictures.permute(0, 3, 1, 2), labels)
        return ranks


class OnToy:
    """What is probed on the toy world."""

    file, marks = FILE, ("<!-- table of benchmarks.probes -->", "<!-- end of the table of benchmarks.probes -->")
    probes = tuple(name for name in ATTACKS if name not in USUAL)
    drawing = Drawing(tuple(range(8)), 10, CFG, "euler", "normal", 64, 64)
    concepts, methods = ("circle", "red", "dotted"), ("UCE", "recommended")

    def __init__(self) -> None:
        self.world = Toy()
        self.judge: Judge = Seen(self.world)

    def made(self, method: str, concept: str) -> tuple[Erasure, float]:
        return make(self.world, Cell(method, concept, 0, METHODS[method]))

    def among(self, concept: str) -> list[str]:
        """What the judge places the concept among."""
        return list(KINDS[kind_of(concept)])


class OnDrawn:
    """The same on the drawn world."""

    file, marks = FILE.with_name("drawn_probes.json"), ("<!-- probes, drawn world -->", "<!-- end of probes, drawn -->")
    probes = tuple(name for name in OnToy.probes if name not in drawn.PROBES)
    drawing = drawn.PROBING
    concepts, methods = ("dog", "guitar"), ("UCE", "UCE, gated", "recommended")

    def __init__(self) -> None:
        self.world = drawn.Drawn()
        self.judge: Judge = self.world

    def made(self, method: str, concept: str) -> tuple[Erasure, float]:
        return drawn.make(self.world, method, [concept], drawn.erased(concept).typed, 0)

    def among(self, concept: str) -> list[str]:
        return [concept, *drawn.erased(concept).near]


Place = OnToy | OnDrawn
PLACES: dict[str, type[Place]] = {"toy": OnToy, "drawn": OnDrawn}


@torch.inference_mode()
def measure(place: Place, method: str, concept: str, known: Mapping) -> dict:
    """All probes of one erasure, and how soon retraining undoes it; what is ``known`` of it is not measured again."""
    missing = [name for name in place.probes if name not in known.get("probes", {})]
    erasure, seconds = place.made(method, concept)
    world = place.world
    after = attach.erase(world.model, erasure)
    asked = Concept([concept], among=place.among(concept))
    report = stress(world.model, after, world.clip, world.vae, asked, place.drawing, missing, judge=place.judge)
    return {
        "seconds": round(seconds, 2),
        "probes": {**known.get("probes", {}), **figures(report)},
        "relearning": known.get("relearning") or relearning(place, after, concept),
    }


def figures(report: StressReport) -> dict[str, dict]:
    """Each probe's shares, with its curve where there is one."""
    found = {}
    for trial in report.trials:
        sides = {"before": trial.before, "after": trial.after, "control": trial.control}
        found[trial.attack] = {name: share and share.value for name, share in sides.items()}
        if len(trial.each) > 1:
            points = [[share and share.value for share in three[1:]] for three in trial.each]
            found[trial.attack]["curve"] = dict(zip(trial.prompts, points, strict=True))
    return found


def relearning(place: Place, after, concept: str) -> dict[str, int | None]:
    """After how many steps of retraining the concept is back, by what it is retrained on."""
    world = place.world
    encode, sampling = Encoder(world.clip), sampling_of(world.model, place.drawing)
    other = next(name for name in place.among(concept) if name != concept)
    with learning.gradients():
        own, unrelated = (lessons(world.model, encode, [name], sampling) for name in (concept, other))
    text = encode(PLAIN.format(concept)).cond

    def soonest(model, taught) -> int | None:
        def share(steps: int) -> float:
            with learning.gradients():
                again = relearned(model, encode, taught, steps)
            pictures = draw(again, world.vae, text, encode("").cond, place.drawing)
            return preserving(place.judge.ranks(pictures, [concept] * len(pictures), [])).value

        return until_back(share)

    blank = out_of_order(world.model, subject(world.model).entry)
    return {"concept": soonest(after, own), "unrelated": soonest(after, unrelated), "control": soonest(blank, own)}


def until_back(share: Callable[[int], float], steps: Sequence[int] = STEPS) -> int | None:
    """The first of some numbers of steps after which the concept is back; None where it is after none."""
    return next((count for count in steps if share(count) >= BACK), None)


def table(cells: Mapping[str, dict], probes: Sequence[str] = OnToy.probes) -> list[str]:
    """A row for each erasure: shares of pictures that show the concept, beside those of the control."""
    head = ["", *probes, "retraining on it", "on another", "control"]
    lines = [head, ["---"] * len(head)]
    for name, cell in cells.items():
        found = [cell["probes"].get(probe) for probe in probes]
        shares = [f"{one['after']:.2f} / {one['control']:.2f}" if one else "–" for one in found]
        steps = [str(count) if count else f"> {STEPS[-1]}" for count in cell["relearning"].values()]
        lines.append([name.replace(" | ", ", "), *shares, *steps])
    return [f"| {' | '.join(line)} |" for line in lines]


def publish(cells: Mapping[str, dict], kind: type[Place]) -> None:
    """Writes the table into the page."""
    text = put(PAGE.read_text(encoding="utf-8"), kind.marks, table(cells, kind.probes))
    PAGE.write_text(text, encoding="utf-8")


def main(kind: type[Place], concepts: Sequence[str], methods: Sequence[str], again: bool = False) -> None:
    """Measures what is missing, or all of it ``again``, and writes each cell down as it comes."""
    place = kind()
    found = json.loads(kind.file.read_text()) if kind.file.exists() else {"cells": {}}
    for concept in concepts:
        for method in methods:
            name = f"{method} | {concept}"
            known = {} if again else found["cells"].get(name, {})
            if known.get("probes", {}).keys() >= {*place.probes}:
                continue
            started = time.perf_counter()
            found["cells"][name] = measure(place, method, concept, known)
            drawing = place.drawing
            found |= {"pictures": len(drawing.seeds), "steps": drawing.steps, "relearned": list(STEPS)}
            kind.file.write_text(json.dumps(found, indent=1) + "\n")
            publish(found["cells"], kind)
            print(f"{name}: {time.perf_counter() - started:.0f} s {found['cells'][name]}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=PLACES, default="toy")
    parser.add_argument("--concepts", nargs="+")
    parser.add_argument("--methods", nargs="+", choices=drawn.METHODS)
    parser.add_argument("--again", action="store_true", help="measure these anew, and keep all others")
    arguments = parser.parse_args()
    where = PLACES[arguments.world]
    main(where, arguments.concepts or where.concepts, arguments.methods or where.methods, arguments.again)
