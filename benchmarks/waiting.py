"""How long one waits for Erase Concept: the first concept, the second, another strength of it, and 'gated' on.

    python3 scripts/run.py benchmarks.waiting                    # the toy world, SD 1.5 and SDXL: some minutes
    python3 scripts/run.py benchmarks.waiting --families toy

Each family is run with nothing on disk, and then with the lists that the first run has left there: the toy world in a
new process, the others with an empty memory. SD 1.5 and SDXL have their full size and random weights. Their text
encoders are timed on one run of 64 texts; the other texts are counted and not read, and their time is added, for
reading all of them takes an hour on a CPU.

Writes ``benchmarks/results/waiting.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import torch

from concept_erasure.erasure import solved
from concept_erasure.erasure.texts import recall
from concept_erasure.erasure.texts.encoder import BATCH, Encoder
from concept_erasure.nodes.instant import ErasureText
from toyworld.worlds import WORLDS

from .full_size import random_model

RESULTS = Path(__file__).with_name("results") / "waiting.json"
BOOTSTRAP = Path(__file__).parents[1] / "scripts" / "bootstrap.py"
FAMILIES = ("toy", "sd15", "sdxl")
STEPS: tuple[tuple[str, str, dict], ...] = (
    ("first concept", "circle", {}), ("second concept", "bread", {}), ("another strength", "bread", {"strength": 0.5}),
    ("gated", "bread", {"gated": True}),
)  # fmt: skip
ENCODERS = {
    "sd15": (comfy.sd1_clip.SD1ClipModel, comfy.sd1_clip.SD1Tokenizer),
    "sdxl": (comfy.sdxl_clip.SDXLClipModel, comfy.sdxl_clip.SDXLTokenizer),
}


class Counter:
    """Counts the texts that are read; ``table``: they are not read, but taken from random rows."""

    def __init__(self, table: torch.Tensor | None = None):
        self.texts, self.table, self.run = 0, table, Encoder._run

    def __call__(self, encode: Encoder, texts: Sequence[str]) -> Sequence[torch.Tensor]:
        self.texts += len(texts)
        if self.table is None:
            return self.run(encode, texts)
        return [self.table[crc32(text.encode()) % len(self.table)] for text in texts]


def load(family: str):
    """(MODEL, CLIP)."""
    if family == "toy":
        return comfy.sd.load_checkpoint_guess_config(str(WORLDS["unet"].checkpoint))[:2]
    encoder, tokenizer = ENCODERS[family]
    clip = comfy.sd.CLIP(SimpleNamespace(params={}, clip=encoder, tokenizer=tokenizer))
    generator = torch.Generator().manual_seed(0)
    for weight in clip.cond_stage_model.parameters():
        weight.data.normal_(std=0.02, generator=generator)
    return random_model(family, torch.bfloat16), clip


def wait(model, clip, counter: Counter) -> Iterator[dict]:
    """Erases as the node does, and says how long it took."""
    for step, concept, inputs in STEPS:
        counter.texts, began = 0, time.perf_counter()
        ErasureText.execute(model=model, clip=clip, concept=concept, **inputs)
        yield {"step": step, "seconds": round(time.perf_counter() - began, 3), "texts": counter.texts}


@torch.inference_mode()
def measure(family: str, folder: str) -> list[dict]:
    """One process: the steps of a family, with what lies in a folder, and once more where a new process costs much."""
    recall.keep_lists(folder)
    model, clip = load(family)
    counter = Counter()
    a_text = 0.0
    if family != "toy":
        began = time.perf_counter()
        [rows] = Encoder(clip).stream([f"a {i}" for i in range(BATCH)])
        a_text = (time.perf_counter() - began) / BATCH
        counter = Counter(torch.stack(rows))
    Encoder._run = lambda encode, texts: counter(encode, texts)
    runs = [told(wait(model, clip, counter), a_text)]
    if family != "toy":
        recall.ROWS.clear()
        solved.forget()
        runs.append(told(wait(model, clip, counter), a_text))
    return runs


def told(steps: Iterable[dict], a_text: float) -> dict:
    """What the steps of a run took, with the seconds of texts that were counted only."""
    out = {step.pop("step"): step for step in steps}
    for step in out.values():
        step["seconds"] = round(step["seconds"] + a_text * step["texts"], 3)
        step["of the first"] = round(step["seconds"] / out["first concept"]["seconds"], 4)
    return out


def in_new_process(family: str, folder: str) -> list[dict]:
    command = [sys.executable, str(BOOTSTRAP), "benchmarks.waiting", "--one", family, folder]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    results = {}
    for family in options.families:
        with tempfile.TemporaryDirectory() as folder:
            runs = in_new_process(family, folder)
            runs += in_new_process(family, folder) if family == "toy" else []
            results[family] = dict(zip(("nothing on disk", "lists on disk"), runs, strict=True))
            results[family]["bytes on disk"] = sum(path.stat().st_size for path in Path(folder).iterdir())
        print(family, json.dumps(results[family], indent=1), flush=True)
    RESULTS.write_text(json.dumps({"threads": torch.get_num_threads(), "families": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
