"""Erasing in every family: the toy world in each architecture with a trained checkpoint, by the code behind the nodes.

    python3 scripts/run.py benchmarks.families                     # all worlds that there are, some hours
    python3 scripts/run.py benchmarks.families --worlds flux sdxl  # these, beside what is measured of others
    python3 scripts/run.py benchmarks.families --worlds flux --parts base instant

Writes ``benchmarks/results/families.json`` after each figure, and the table of docs/measured.md; a later run goes on
with what is missing, and adds its commit to the file's. Six concepts: three shapes, two colours, a style; 24 pictures
a class, the demo's prompts, noise and judge. Figures are means over concepts, seconds those of one thread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory

import comfy.lora
import comfy.sd
import torch
from safetensors.torch import load_file

from concept_erasure.erasure import instant, jointly, learning, solved
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

from .tables import put
from .toy import Toy, shots

FILE = Path(__file__).with_name("results") / "families.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "measured.md"
MARKS = ("<!-- table of benchmarks.families -->", "<!-- end of the table of benchmarks.families -->")
CONCEPTS = ("circle", "star", "heart", "red", "green", "striped")
TOGETHER = ("circle", "star", "red", "striped")
"""Trained one by one, and then on one model."""
TOGETHER_MARKS = ("<!-- four trained files, by family -->", "<!-- end of four trained files -->")
EVERY = 1
"""One in so many of the demo's pictures is drawn."""
PARTS = ("base", "instant", "pooled off", "recommended", "few texts", "full texts", "prompt only", "together")
"""In the order in which they are measured: each in all worlds, then the next."""
SIDE = 64
STEPS = 8
"""Sampling steps, which draw every class as well as 20 do."""


class Bench:
    """One world, its base pictures remembered."""

    def __init__(self, toy: Toy, every: int = EVERY):
        self.toy, self.every = toy, every
        self.here = subject(toy.model)
        self.trained: dict[str, Erasure] = {}

    def score(self, model, concept: str, beside: Collection[str] = ()) -> dict[str, float]:
        """ESR-1 and PSR-1 of a model's pictures; of those that are to show none of what is erased ``beside``."""
        wanted = [shot for shot in shots(concept)[:: self.every] if not {*shot.scene.values()} & {*beside} - {concept}]
        scores = self.toy.score(self.toy.draw(model, wanted, STEPS), wanted, concept)
        return {name: scores[name] for name in ("esr1", "psr1")}

    def preserve(self, concept: str) -> str:
        return "\n".join(text for text in plan(concept)["preserve"] if text != concept)

    def cell(self, part: str, concept: str) -> dict | None:
        """What is measured of a concept in a part; None where the model has nothing that the part needs."""
        if part == "pooled off":
            has = self.here.family.pooled_entry(self.toy.model.model)
            return self.instant(concept, pooled=False) if has else None
        if part in ("few texts", "full texts"):
            return self.few_texts(concept, part == "few texts")
        if part == "together":
            return self.together(concept) if concept in TOGETHER and self.here.family.learns else None
        if part in ("recommended", "prompt only"):
            return self.learned(concept, None if part == "recommended" else part)
        return self.base(concept) if part == "base" else self.instant(concept)

    # -- what is measured

    def base(self, concept: str) -> dict:
        return self.score(self.toy.model, concept)

    def instant(self, concept: str, pooled: bool = True) -> dict:
        """The closed form at its defaults, at its first use, with its LoRA."""
        recall.ROWS.clear()
        solved.forget()
        with Counted(Encoder) as reads:
            began = time.perf_counter()
            erasure = instant.erase_instantly(
                self.toy.model, self.toy.clip, concept, self.preserve(concept), Instant(pooled=pooled)
            )
            seconds = time.perf_counter() - began
        scores = self.score(attach.erase(self.toy.model, erasure), concept)
        return {**scores, "seconds": seconds, "texts": reads.count, **lora(self.toy.model, erasure)}

    def few_texts(self, concept: str, few: bool) -> dict:
        """The closed form with a preserve set that is found, read as by a large text encoder or a small one: the texts
        of the first use."""
        recall.ROWS.clear()
        solved.forget()
        with Counted(Encoder) as reads, patched(Encoder, "is_large", few):
            erasure = instant.erase_instantly(self.toy.model, self.toy.clip, concept, "", Instant())
        return {**self.score(attach.erase(self.toy.model, erasure), concept), "texts": reads.count}

    def learned(self, concept: str, method: str | None) -> dict | None:
        """A training of the preset *recommended*, and what its key brings back; None where nothing can be learned."""
        if not self.here.family.learns:
            return None
        began = time.perf_counter()
        erasure = self.train(concept, method)
        seconds = time.perf_counter() - began
        erased = attach.erase(self.toy.model, erasure)
        recovery = None
        if erasure.key:
            recovery = 1 - self.score(attach.recover(erased, erasure), concept)["esr1"]
        return {**self.score(erased, concept), "recovery": recovery, "seconds": seconds}

    def train(self, concept: str, method: str | None = None) -> Erasure:
        settings = with_pictures(self.toy.model, replace(preset_for("recommended", method), seed=0), SIDE, SIDE)
        settings = with_sampling(settings, scheduler=self.toy.world.scheduler)
        with torch.inference_mode(), learning.gradients():
            return learning.learn(
                learning.prepare(self.toy.model, self.toy.clip, concept, self.preserve(concept), settings)
            )

    def together(self, concept: str) -> dict:
        """One of four trained files on a model that has all of them, from nodes in a row and solved jointly; and what
        its key brings back there."""
        for name in TOGETHER:
            if name not in self.trained:
                self.trained[name] = self.train(name)
        model, files = self.toy.model, list(self.trained.values())
        joint = jointly.solve_jointly(model, self.toy.clip, files)
        found = {}
        for way, erased in (("row", reduce(attach.erase, files, model)), ("joint", attach.erase(model, joint))):
            recovered = attach.recover(erased, self.trained[concept])
            scores = self.score(erased, concept, TOGETHER)
            back = 1 - self.score(recovered, concept, TOGETHER)["esr1"]
            found |= {f"{way}_esr1": scores["esr1"], f"{way}_psr1": scores["psr1"], f"{way}_recovery": back}
        return found

    def bit_identical(self) -> bool:
        """Whether the unedited model draws the same to the bit after, and beside, an erased one; and at strength 0."""
        wanted = shots("circle")[::24]
        before = self.toy.draw(self.toy.model, wanted, STEPS)
        erasure = instant.erase_instantly(self.toy.model, self.toy.clip, "circle", self.preserve("circle"), Instant())
        erased = attach.erase(self.toy.model, erasure)
        changed = not torch.equal(self.toy.draw(erased, wanted, STEPS), before)
        same = torch.equal(self.toy.draw(self.toy.model, wanted, STEPS), before)
        return changed and same and attach.erase(self.toy.model, erasure, 0.0) is self.toy.model


def lora(model, erasure: Erasure) -> dict[str, float]:
    """The exported LoRA, as the stock loader reads it, against the change itself."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "lora.safetensors"
        export_lora(model, erasure, path, torch.float32)
        file = load_file(path)
    known = comfy.lora.model_lora_keys_unet(model.model, {})
    unmatched = {key.removesuffix(".alpha").rsplit(".lora_", 1)[0] for key in file} - set(known)
    stock = comfy.sd.load_lora_for_models(model, None, file, 1.0, 0.0)[0]
    erased = attach.erase(model, erasure)
    base, ours, theirs = (effective_weights(one, erasure.delta) for one in (model, erased, stock))
    errors = [float((theirs[n] - ours[n]).norm() / (ours[n] - base[n]).norm()) for n in erasure.delta]
    return {"lora_error": max(errors), "unmatched_keys": len(unmatched)}


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


def commit() -> str:
    """Of the code that is measured."""
    line = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()


def summary(cells: dict[str, dict]) -> dict:
    """A world's row, of what was measured so far: means over concepts, with each concept's own figures beside them."""
    means = {part: mean(list(rows.values())) for part, rows in cells.items()}
    row = {part: means[part] for part in ("base", "instant") if part in means}
    if "pooled off" in means:
        off = means["pooled off"]
        row["pooled"] = off and {"on": means.get("instant"), "off": off}
    if "few texts" in means:
        row["few_texts"] = {"full": means.get("full texts"), "few": means["few texts"]}
    row |= {part.replace(" ", "_"): means[part] for part in ("recommended", "prompt only", "together") if part in means}
    return {**row, "each": cells}


def measure(
    bench: Bench, part: str, concepts: Sequence[str], row: dict, report: Callable[[], None], again: bool = False
) -> None:
    """Measures what a world's row lacks of a part, or all of it ``again``, and reports after each concept."""
    row |= {"world": "trained", "steps": STEPS, "family": bench.here.family.name}
    if "bit_identical" not in row:
        row["bit_identical"] = bench.bit_identical()
    cells = row.setdefault("each", {}).setdefault(part, {})
    for concept in concepts:
        if again or concept not in cells:
            cells[concept] = bench.cell(part, concept)
            row |= summary(row["each"])
            print(bench.toy.world.name, part, concept, cells[concept], flush=True)
            report()


HEAD = (
    "", "unedited", "Erase Concept", "without pooled text", "nothing typed", "few texts", "recommended", "with its key",
    "prompt only",
)  # fmt: skip


def table(families: dict[str, dict]) -> list[str]:
    """A row for each trained world: ESR-1 / PSR-1, of the unedited model PSR-1; and the share a key brings back."""

    def pair(part: str, cells: dict) -> str:
        row = mean(list(cells.get(part, {}).values()))
        return f"{row['esr1']:.3f} / {row['psr1']:.3f}" if row else "–"

    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    for name, facts in families.items():
        if facts["world"] == "trained":
            cells, back = facts["each"], (facts.get("recommended") or {}).get("recovery")
            parts = ("instant", "pooled off", "full texts", "few texts", "recommended")
            shown = [name, f"{facts['base']['psr1']:.3f}", *(pair(part, cells) for part in parts)]
            shown += ["–" if back is None else f"{back:.3f}", pair("prompt only", cells)]
            lines.append("| " + " | ".join(shown) + " |")
    return lines


def together_table(families: dict[str, dict]) -> list[str]:
    """A row for each world in which four files were trained."""
    head = ("", "in a row", "keys bring back", "solved jointly", "keys bring back")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, facts in families.items():
        if row := facts.get("together"):
            shown = (
                f"{row[f'{way}_esr1']:.2f} / {row[f'{way}_psr1']:.2f} | {row[f'{way}_recovery']:.2f}"
                for way in ("row", "joint")
            )
            lines.append(f"| {name} | {' | '.join(shown)} |")
    return lines


def publish(families: dict[str, dict]) -> None:
    """Writes the tables into the page."""
    page = put(PAGE.read_text(encoding="utf-8"), MARKS, table(families))
    PAGE.write_text(put(page, TOGETHER_MARKS, together_table(families)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    there = [name for name, world in WORLDS.items() if world.checkpoint.exists()]
    parser.add_argument("--worlds", nargs="*", choices=there, default=there)
    parser.add_argument("--concepts", nargs="*", default=CONCEPTS)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--every", type=int, default=EVERY, help="one in so many pictures")
    parser.add_argument("--again", action="store_true", help="measure these anew, and keep all others")
    parser.add_argument("--file", type=Path, default=FILE)
    options = parser.parse_args()
    known = json.loads(options.file.read_text()) if options.file.exists() else {"families": {}}
    known["commits"] = sorted({*known.get("commits", ()), commit()})

    def report() -> None:
        options.file.write_text(json.dumps(known, indent=1) + "\n")
        if options.file == FILE:
            publish(known["families"])

    benches: dict[str, Bench] = {}
    for part in options.parts:
        for name in options.worlds:
            if name not in benches:
                benches[name] = Bench(Toy(WORLDS[name]), options.every)
            row = known["families"].setdefault(name, {})
            measure(benches[name], part, options.concepts, row, report, options.again)
    report()


if __name__ == "__main__":
    main()
