"""Erasing in every family: the toy world in each architecture with a trained checkpoint, by the code behind the nodes.

    python3 scripts/run.py benchmarks.families                     # all worlds that there are, some hours
    python3 scripts/run.py benchmarks.families --worlds flux sdxl  # these, beside what is measured of others
    python3 scripts/run.py benchmarks.families --worlds flux --parts instant pooled

Writes ``benchmarks/results/families.json``. Six concepts: three shapes, two colours, a style; 24 pictures a class, the
demo's prompts, noise and judge. Figures are means over concepts, seconds those of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import comfy.lora
import comfy.sd
import torch
from safetensors.torch import load_file

from concept_erasure.erasure import instant, learning, solved
from concept_erasure.erasure.artifact import Erasure
from concept_erasure.erasure.exchange import export_lora
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.host.weights import effective_weights
from concept_erasure.erasure.instant import Instant
from concept_erasure.erasure.methods import preset_for
from concept_erasure.erasure.texts import recall
from concept_erasure.erasure.texts.encoder import Encoder
from concept_erasure.erasure.training.pictures import with_pictures, with_sampling
from toyworld.scoring import plan
from toyworld.worlds import WORLDS

from .toy import Toy, shots

FILE = Path(__file__).with_name("results") / "families.json"
CONCEPTS = ("circle", "star", "heart", "red", "green", "striped")
EVERY = 1
"""One in so many of the demo's pictures is drawn."""
PARTS = ("instant", "pooled", "few texts", "recommended", "prompt only")
SIDE = 64
STEPS = 8
"""Sampling steps, which draw every class as well as 20 do."""


class Bench:
    """One world, its base pictures remembered."""

    def __init__(self, toy: Toy, every: int = EVERY):
        self.toy, self.every = toy, every
        self.here = subject(toy.model)

    def score(self, model, concept: str) -> dict[str, float]:
        """ESR-1 and PSR-1 of a model's pictures."""
        wanted = shots(concept)[:: self.every]
        scores = self.toy.score(self.toy.draw(model, wanted, STEPS), wanted, concept)
        return {name: scores[name] for name in ("esr1", "psr1")}

    def preserve(self, concept: str) -> str:
        return "\n".join(text for text in plan(concept)["preserve"] if text != concept)

    # -- what is measured

    def base(self, concept: str) -> dict:
        return self.score(self.toy.model, concept)

    def instant(self, concept: str, pooled: bool = True) -> dict:
        """The closed form at its defaults, with its LoRA."""
        with Counted(Encoder) as reads:
            began = time.perf_counter()
            erasure = instant.erase_instantly(
                self.toy.model, self.toy.clip, concept, self.preserve(concept), Instant(pooled=pooled)
            )
            seconds = time.perf_counter() - began
        scores = self.score(attach.erase(self.toy.model, erasure), concept)
        return {**scores, "seconds": seconds, "texts": reads.count, **self.lora(erasure)}

    def few_texts(self, concept: str, few: bool) -> dict:
        """The closed form with a preserve set that is found, read as by a large text encoder or a small one: the texts
        of the first use."""
        recall.ROWS.clear()
        solved.forget()
        with Counted(Encoder) as reads, patched(Encoder, "is_large", few):
            erasure = instant.erase_instantly(self.toy.model, self.toy.clip, concept, "", Instant())
        return {**self.score(attach.erase(self.toy.model, erasure), concept), "texts": reads.count}

    def lora(self, erasure: Erasure) -> dict:
        """The exported LoRA, as the stock loader reads it, against the change itself."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "lora.safetensors"
            export_lora(self.toy.model, erasure, path, torch.float32)
            file = load_file(path)
        known = comfy.lora.model_lora_keys_unet(self.toy.model.model, {})
        unmatched = {key.removesuffix(".alpha").rsplit(".lora_", 1)[0] for key in file} - set(known)
        stock = comfy.sd.load_lora_for_models(self.toy.model, None, file, 1.0, 0.0)[0]
        erased = attach.erase(self.toy.model, erasure)
        base, ours, theirs = (effective_weights(model, erasure.delta) for model in (self.toy.model, erased, stock))
        errors = [float((theirs[n] - ours[n]).norm() / (ours[n] - base[n]).norm()) for n in erasure.delta]
        return {"lora_error": max(errors), "unmatched_keys": len(unmatched)}

    def learned(self, concept: str, method: str | None) -> dict | None:
        """A training of the preset *recommended*, and what its key brings back; None where nothing can be learned."""
        if not self.here.family.learns:
            return None
        settings = with_pictures(self.toy.model, replace(preset_for("recommended", method), seed=0), SIDE, SIDE)
        settings = with_sampling(settings, scheduler=self.toy.world.scheduler)
        began = time.perf_counter()
        with torch.inference_mode(), learning.gradients():
            erasure = learning.learn(
                learning.prepare(self.toy.model, self.toy.clip, concept, self.preserve(concept), settings)
            )
        seconds = time.perf_counter() - began
        erased = attach.erase(self.toy.model, erasure)
        recovery = None
        if erasure.key:
            recovery = 1 - self.score(attach.recover(erased, erasure), concept)["esr1"]
        return {**self.score(erased, concept), "recovery": recovery, "seconds": seconds}

    def bit_identical(self) -> bool:
        """Whether the unedited model draws the same to the bit after, and beside, an erased one; and at strength 0."""
        wanted = shots("circle")[::24]
        before = self.toy.draw(self.toy.model, wanted, STEPS)
        erasure = instant.erase_instantly(self.toy.model, self.toy.clip, "circle", self.preserve("circle"), Instant())
        erased = attach.erase(self.toy.model, erasure)
        changed = not torch.equal(self.toy.draw(erased, wanted, STEPS), before)
        same = torch.equal(self.toy.draw(self.toy.model, wanted, STEPS), before)
        return changed and same and attach.erase(self.toy.model, erasure, 0.0) is self.toy.model


class Counted:
    """Counts the texts that encoders read in a block."""

    def __init__(self, kind: type[Encoder]):
        self.kind, self.count = kind, 0

    def __enter__(self) -> Counted:
        run, pooled = self.kind._run, self.kind._run_pooled
        self.before = run, pooled

        def counted(real: Callable) -> Callable:
            def read(encode: Encoder, texts: Sequence[str]):
                self.count += len(texts)
                return real(encode, texts)

            return read

        self.kind._run, self.kind._run_pooled = counted(run), counted(pooled)  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        self.kind._run, self.kind._run_pooled = self.before  # type: ignore[method-assign]


@contextmanager
def patched(kind: type, name: str, value: object) -> Iterator[None]:
    """A class with another value in the place of a property."""
    before = kind.__dict__[name]
    setattr(kind, name, value)
    try:
        yield
    finally:
        setattr(kind, name, before)


def mean(rows: Sequence[dict | None]) -> dict | None:
    """Means over concepts, with each concept's own figures beside them; None where nothing was measured."""
    known = [row for row in rows if row is not None]
    if not known:
        return None
    keys = [key for key in known[0] if isinstance(known[0][key], (int, float))]
    return {key: round(sum(row[key] for row in known) / len(known), 8) for key in keys}


def measure(bench: Bench, concepts: Sequence[str], parts: Sequence[str], report: Callable[[dict], None]) -> None:
    """Works out a world's row, and reports it part by part."""
    row: dict = {"world": "trained", "steps": STEPS, "family": bench.here.family.name, "concepts": list(concepts)}

    def each(name: str, one: Callable[[str], dict | None]) -> dict | None:
        rows = []
        for concept in concepts:
            rows.append(one(concept))
            print(bench.toy.world.name, name, concept, rows[-1], flush=True)
        row.setdefault("each", {})[name] = dict(zip(concepts, rows, strict=True))
        return mean(rows)

    row["base"] = each("base", bench.base)
    row["bit_identical"] = bench.bit_identical()
    if "instant" in parts:
        row["instant"] = each("instant", bench.instant)
    if "pooled" in parts:
        row["pooled"] = None
        if bench.here.family.pooled_entry(bench.toy.model.model):
            off = each("pooled off", lambda concept: bench.instant(concept, pooled=False))
            row["pooled"] = {"on": row.get("instant") or each("instant", bench.instant), "off": off}
    if "few texts" in parts:
        row["few_texts"] = {
            name: each(f"{name} texts", lambda concept, few=few: bench.few_texts(concept, few))
            for name, few in (("full", False), ("few", True))
        }
    report(row)
    for name, method in (("recommended", None), ("prompt only", "prompt only")):
        if name in parts:
            row[name.replace(" ", "_")] = each(name, lambda concept, m=method: bench.learned(concept, m))
            report(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    there = [name for name, world in WORLDS.items() if world.checkpoint.exists()]
    parser.add_argument("--worlds", nargs="*", choices=there, default=there)
    parser.add_argument("--concepts", nargs="*", default=CONCEPTS)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--every", type=int, default=EVERY, help="one in so many pictures")
    parser.add_argument("--file", type=Path, default=FILE)
    options = parser.parse_args()
    known = json.loads(options.file.read_text()) if options.file.exists() else {"families": {}}
    for name in options.worlds:

        def report(row: dict, name: str = name) -> None:
            known["families"][name] = {**known["families"].get(name, {}), **row}
            options.file.write_text(json.dumps(known, indent=1) + "\n")

        measure(Bench(Toy(WORLDS[name]), options.every), options.concepts, options.parts, report)


if __name__ == "__main__":
    main()
