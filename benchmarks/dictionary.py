"""One concept dictionary of the toy world, and what is erased with it: how well, how fast, and at what cost a step.

    python3 scripts/run.py benchmarks.dictionary              # goes on where it stopped
    python3 scripts/run.py benchmarks.dictionary --quick      # fewer concepts and pictures, into another file
    python3 scripts/run.py benchmarks.dictionary --again

Into ``benchmarks/results/dictionary.json``. ``toyworld/dictionary.safetensors`` is made once, by
``toyworld.dictionary``; nothing is trained here. All eighteen concepts are erased with it, in both modes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch

from concept_erasure.erasure.artifact import Erasure
from concept_erasure.erasure.dictionary.files import ConceptDictionary, load_dictionary
from concept_erasure.erasure.dictionary.picking import Picking
from concept_erasure.erasure.from_dictionary import Drawing, erase_with_dictionary
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.trajectories import Sampling
from concept_erasure.erasure.parts.steering import MODES
from toyworld.scoring import plan

from .tables import ALL
from .toy import Toy, shots

FILE = Path(__file__).with_name("results") / "dictionary.json"
REPEATS = 5
"""Drawings of which the fastest counts, for the cost of a step."""


dictionary: Callable[[Path], ConceptDictionary] = cache(load_dictionary)


@dataclass(frozen=True)
class FromDictionary:
    """An erasure by features of a world's dictionary."""

    picking: Picking = field(default_factory=Picking)
    drawing: Drawing = field(default_factory=lambda: Drawing(16, Sampling(steps=10)))

    def erasure(self, world: Toy, concepts: str, kept: str, seed: int) -> Erasure:
        drawing = replace(self.drawing, seed=seed, sampling=replace(self.drawing.sampling, shape=world.world.latent))
        known = dictionary(world.dictionary)
        with torch.inference_mode():
            return erase_with_dictionary(world.model, world.clip, known, concepts, kept, self.picking, drawing)[0]


def measure(toy: Toy, concept: str, mode: str, every: int) -> dict[str, float]:
    """A concept's scores, what picking its features took, and how large the erasure is."""
    kept = "\n".join(text for text in plan(concept)["preserve"] if text != concept)
    began = time.process_time()
    erasure = FromDictionary(Picking(mode=mode)).erasure(toy, concept, kept, 0)
    seconds = time.process_time() - began
    wanted = shots(concept)[::every]
    scores = toy.score(toy.draw(attach.erase(toy.model, erasure), wanted), wanted, concept)
    return {**scores, "seconds": round(seconds, 2), "bytes": erasure.bytes(), "contrast": erasure.parts[0].contrast}


def cost(toy: Toy, mode: str) -> float:
    """How many times as long drawing takes with an erasure on it."""
    erasure = FromDictionary(Picking(mode=mode)).erasure(toy, "circle", "square\nstar\nred", 0)
    steered, wanted = attach.erase(toy.model, erasure), shots("circle")[:8]
    fastest = {}
    for _ in range(REPEATS):
        for name, model in (("before", toy.model), ("after", steered)):
            began = time.process_time()
            toy.draw(model, wanted)
            fastest[name] = min(fastest.get(name, float("inf")), time.process_time() - began)
    return round(fastest["after"] / fastest["before"], 3)


def todo(concepts: list[str]) -> Iterator[tuple[str, str]]:
    yield from ((mode, concept) for mode in MODES for concept in concepts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two concepts, an eighth of the pictures")
    parser.add_argument("--again", action="store_true", help="measure all anew")
    parser.add_argument("--every", type=int, default=1, help="every so many pictures")
    options = parser.parse_args()
    file, concepts, every = FILE, list(ALL), options.every
    if options.quick:
        file, concepts, every = Path("output/benchmarks/dictionary_quick.json"), ["circle", "red"], 8
    known = json.loads(file.read_text()) if file.exists() and not options.again else {}
    toy = Toy()
    file.parent.mkdir(parents=True, exist_ok=True)
    for mode, concept in todo(concepts):
        name = f"{mode} | {concept} | {every}"
        if name not in known:
            known[name] = measure(toy, concept, mode, every)
            file.write_text(json.dumps(known, indent=1) + "\n")
            print(name, known[name], flush=True)
    for mode in MODES:
        if f"cost | {mode}" not in known:
            known[f"cost | {mode}"] = cost(toy, mode)
            file.write_text(json.dumps(known, indent=1) + "\n")
            print(f"{mode}: drawing takes {known[f'cost | {mode}']} times as long", flush=True)


if __name__ == "__main__":
    main()
