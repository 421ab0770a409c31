"""The unedited model as judge, held against the toy world's trained judge, picture by picture.

    python3 scripts/run.py benchmarks.judge             # 500 pictures, about a quarter of an hour on one core
    python3 scripts/run.py benchmarks.judge --pictures 60

Writes ``benchmarks/results/judge.json`` after every cell, and goes on from it. A cell is one concept: half of its
pictures are the unedited model's, half come after erasing it with **Erase Concept**; a third of each half was asked for
the concept, the rest for others of its kind. The two judges agree on a picture when the label that the trained judge
sees is the first of the diffusion classifier among all of the kind.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from concept_erasure.erasure.evaluation.diffusion_judge import DiffusionJudge
from concept_erasure.erasure.evaluation.metrics import Share
from concept_erasure.erasure.evaluation.report import shares
from concept_erasure.nodes.instant import ErasureText
from toyworld.world import KINDS, kind_of

from .toy import Shot, Toy, shots

RESULT = Path(__file__).with_name("results") / "judge.json"
CONCEPTS = ("circle", "red", "striped", "heart", "green", "dotted", "ring", "purple", "plain", "star")
PICTURES = 500
TOLD, ALONE = "told the prompts", "labels alone"
"""What the judge is given: the prompt with each label in the asked one's place, or a short phrase of each label."""


def chosen(concept: str, count: int) -> list[Shot]:
    """Pictures to draw: a third for the concept, the rest for others of its kind, taken at random."""
    rng, wanted = random.Random(concept), shots(concept)
    own, other = ([shot for shot in wanted if (shot.label == concept) == is_own] for is_own in (True, False))
    return [*rng.sample(own, count // 3), *rng.sample(other, count - count // 3)]


@torch.inference_mode()
def cell(toy: Toy, concept: str, count: int) -> dict:
    """Agreement on ``count`` pictures before and as many after erasing a concept."""
    wanted, names = chosen(concept, count), list(KINDS[kind_of(concept)])
    erased = ErasureText.execute(toy.model, toy.clip, concept).args[0]
    out: dict = {"concept": concept, "kind": kind_of(concept)}
    for when, model in (("before", toy.model), ("after", erased)):
        pictures = toy.draw(model, wanted)
        shown = [names[i] for i in toy.judge(pictures)[kind_of(concept)].argmax(1).tolist()]
        out[when] = {"shows what was asked": sum(a == s.label for a, s in zip(shown, wanted, strict=True))}
        for way in (TOLD, ALONE):
            began = time.process_time()
            seen = labels_seen(toy, pictures, wanted, names, way)
            out[when][way] = {
                "agree": sum(a == b for a, b in zip(seen, shown, strict=True)), "count": len(shown),
                "seconds": time.process_time() - began,
                "apart": [[s.text, a, b] for s, a, b in zip(wanted, shown, seen, strict=True) if a != b],
            }  # fmt: skip
    return out


def labels_seen(toy: Toy, pictures: torch.Tensor, wanted: Sequence[Shot], names: Sequence[str], way: str) -> list[str]:
    """What the diffusion classifier sees in each picture [n, 3, h, w]."""
    judge, groups = DiffusionJudge(toy.model, toy.clip, toy.vae), defaultdict(list)
    for i, shot in enumerate(wanted):
        groups[(shot.label, shot.text) if way == TOLD else (names[0], "")].append(i)
    seen = [""] * len(wanted)
    for (label, text), rows in groups.items():
        for i, name in zip(rows, judge.best(pictures[rows].permute(0, 2, 3, 1), label, names, text), strict=True):
            seen[i] = name
    return seen


def summary(cells: Sequence[dict]) -> dict:
    """Counts over all cells, by what the judge is given, by kind and by state of the model."""
    out: dict = {}
    for way in (TOLD, ALONE):
        rows = [(c["kind"], when, c[when][way]) for c in cells for when in ("before", "after")]
        out[way] = {}
        for part in ("all", "before", "after", *KINDS):
            found = [row for kind, when, row in rows if part in ("all", kind, when)]
            share = Share(sum(f["agree"] for f in found), sum(f["count"] for f in found))
            out[way] |= shares({part: share})
        out[way]["seconds a picture"] = sum(row["seconds"] for *_, row in rows) / out[way]["all"]["count"]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=PICTURES, help=f"of all cells together (default: {PICTURES})")
    count = parser.parse_args().pictures // (2 * len(CONCEPTS))
    cells = json.loads(RESULT.read_text(encoding="utf-8"))["cells"] if RESULT.is_file() else []
    cells = [one for one in cells if one["before"][TOLD]["count"] == count]
    toy = Toy()
    for concept in CONCEPTS:
        if concept not in [one["concept"] for one in cells]:
            cells.append(cell(toy, concept, count))
            text = json.dumps({"summary": summary(cells), "cells": cells}, indent=1, ensure_ascii=False)
            RESULT.write_text(text + "\n", encoding="utf-8")
            print(concept, json.dumps(summary(cells)[TOLD]["all"]), flush=True)
    print(json.dumps(summary(cells), indent=1))


if __name__ == "__main__":
    main()
