"""Probes of erasures on the toy world: drawing in other ways, a learned embedding, and how soon retraining undoes one.

    python3 scripts/run.py benchmarks.probes                    # 20 minutes on one core; goes on where it stopped
    python3 scripts/run.py benchmarks.probes --concepts circle --methods UCE

Into ``benchmarks/results/probes.json`` and the table of docs/measured.md. Probes are those that Stress Test has and
does not run by default, through the code behind the node, each beside its control. *Relearning* counts the steps of
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
from concept_erasure.erasure.evaluation.attacks import ATTACKS, USUAL, Concept
from concept_erasure.erasure.evaluation.attacks.attack import PLAIN
from concept_erasure.erasure.evaluation.attacks.lessons import lessons
from concept_erasure.erasure.evaluation.attacks.out_of_order import out_of_order
from concept_erasure.erasure.evaluation.attacks.relearning import relearned
from concept_erasure.erasure.evaluation.drawing import Drawing, draw
from concept_erasure.erasure.evaluation.metrics import preserving
from concept_erasure.erasure.evaluation.stress import StressReport, sampling_of, stress
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.texts.encoder import Encoder
from toyworld.report import CFG
from toyworld.world import KINDS, kind_of

from .cells import Cell, make
from .quality import METHODS
from .tables import put
from .toy import Toy

FILE = Path(__file__).with_name("results") / "probes.json"
CONCEPTS = ("circle", "red", "dotted")
MEASURED = ("UCE", "recommended")
DRAWING = Drawing(tuple(range(8)), 10, CFG, "euler", "normal", 64, 64)
PROBES = tuple(name for name in ATTACKS if name not in USUAL)
PAGE = Path(__file__).resolve().parents[1] / "docs" / "measured.md"
MARKS = ("<!-- table of benchmarks.probes -->", "<!-- end of the table of benchmarks.probes -->")
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


@torch.inference_mode()
def measure(toy: Toy, method: str, concept: str, known: Mapping) -> dict:
    """All probes of one erasure, and how soon retraining undoes it; what is ``known`` of it is not measured again."""
    missing = [name for name in PROBES if name not in known.get("probes", {})]
    erasure, seconds = make(toy, Cell(method, concept, 0, METHODS[method]))
    after, judge = attach.erase(toy.model, erasure), Seen(toy)
    asked = Concept([concept], among=list(KINDS[kind_of(concept)]))
    report = stress(toy.model, after, toy.clip, toy.vae, asked, DRAWING, missing, judge=judge)
    return {
        "seconds": round(seconds, 2),
        "probes": {**known.get("probes", {}), **figures(report)},
        "relearning": known.get("relearning") or relearning(toy, after, concept, judge),
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


def relearning(toy: Toy, after, concept: str, judge: Seen) -> dict[str, int | None]:
    """After how many steps of retraining the concept is back, by what it is retrained on."""
    encode, sampling = Encoder(toy.clip), sampling_of(toy.model, DRAWING)
    other = next(name for name in KINDS[kind_of(concept)] if name != concept)
    with learning.gradients():
        own, unrelated = (lessons(toy.model, encode, [name], sampling) for name in (concept, other))
    text = encode(PLAIN.format(concept)).cond

    def soonest(model, taught) -> int | None:
        def share(steps: int) -> float:
            with learning.gradients():
                again = relearned(model, encode, taught, steps)
            pictures = draw(again, toy.vae, text, encode("").cond, DRAWING)
            return preserving(judge.ranks(pictures, [concept] * len(pictures), [])).value

        return until_back(share)

    blank = out_of_order(toy.model, subject(toy.model).entry)
    return {"concept": soonest(after, own), "unrelated": soonest(after, unrelated), "control": soonest(blank, own)}


def until_back(share: Callable[[int], float], steps: Sequence[int] = STEPS) -> int | None:
    """The first of some numbers of steps after which the concept is back; None where it is after none."""
    return next((count for count in steps if share(count) >= BACK), None)


def table(cells: Mapping[str, dict]) -> list[str]:
    """A row for each erasure: shares of pictures that show the concept, beside those of the control."""
    head = ["", *PROBES, "retraining on it", "on another", "control"]
    lines = [head, ["---"] * len(head)]
    for name, cell in cells.items():
        found = [cell["probes"].get(probe) for probe in PROBES]
        shares = [f"{one['after']:.2f} / {one['control']:.2f}" if one else "–" for one in found]
        steps = [str(count) if count else f"> {STEPS[-1]}" for count in cell["relearning"].values()]
        lines.append([name.replace(" | ", ", "), *shares, *steps])
    return [f"| {' | '.join(line)} |" for line in lines]


def publish(cells: Mapping[str, dict]) -> None:
    """Writes the table into the page."""
    PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), MARKS, table(cells)), encoding="utf-8")


def main(concepts: Sequence[str], methods: Sequence[str]) -> None:
    """Measures what is missing, and writes each cell down as it comes."""
    toy = Toy()
    found = json.loads(FILE.read_text()) if FILE.exists() else {"cells": {}}
    for concept in concepts:
        for method in methods:
            name = f"{method} | {concept}"
            known = found["cells"].get(name, {})
            if known.get("probes", {}).keys() >= {*PROBES}:
                continue
            started = time.perf_counter()
            found["cells"][name] = measure(toy, method, concept, known)
            found |= {"pictures": len(DRAWING.seeds), "steps": DRAWING.steps, "relearned": list(STEPS)}
            FILE.write_text(json.dumps(found, indent=1) + "\n")
            publish(found["cells"])
            print(f"{name}: {time.perf_counter() - started:.0f} s {found['cells'][name]}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", nargs="+", default=CONCEPTS)
    parser.add_argument("--methods", nargs="+", default=MEASURED, choices=METHODS)
    arguments = parser.parse_args()
    main(arguments.concepts, arguments.methods)
