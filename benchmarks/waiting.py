"""How long one waits for Erase Concept: the first concept, the second, and another strength of it.

    python3 scripts/run.py benchmarks.waiting                    # the toy world, SD 1.5 and SDXL: some minutes
    python3 scripts/run.py benchmarks.waiting --families toy

Each family is run in two new processes: with nothing on disk, and with the lists that the first process has left there.
SD 1.5 and SDXL have their full size and random weights. Their text encoders are timed on one run of 64 texts; the other
texts are counted and not read, and their time is added, for reading all of them takes an hour on a CPU.

Writes ``benchmarks/results/waiting.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import torch

from concept_erasure.erasure import recall
from concept_erasure.erasure.concepts import BATCH, Encoder
from concept_erasure.nodes.instant import ErasureText

from .full_size import random_model
from .toy import CHECKPOINT

RESULTS = Path(__file__).with_name("results") / "waiting.json"
BOOTSTRAP = Path(__file__).parents[1] / "scripts" / "bootstrap.py"
FAMILIES = ("toy", "sd15", "sdxl")
STEPS = (("first concept", "circle", 1.0), ("second concept", "bread", 1.0), ("another strength", "bread", 0.5))
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
        return comfy.sd.load_checkpoint_guess_config(str(CHECKPOINT))[:2]
    encoder, tokenizer = ENCODERS[family]
    clip = comfy.sd.CLIP(SimpleNamespace(params={}, clip=encoder, tokenizer=tokenizer))
    generator = torch.Generator().manual_seed(0)
    for weight in clip.cond_stage_model.parameters():
        weight.data.normal_(std=0.02, generator=generator)
    return random_model(family, torch.bfloat16), clip


def wait(model, clip, counter: Counter) -> Iterator[dict]:
    """Erases as the node does, and says how long it took."""
    for step, concept, strength in STEPS:
        counter.texts, began = 0, time.perf_counter()
        ErasureText.execute(model=model, clip=clip, concept=concept, strength=strength)
        yield {"step": step, "seconds": round(time.perf_counter() - began, 3), "texts": counter.texts}


@torch.inference_mode()
def measure(family: str, folder: str) -> dict:
    """One process: the steps of a family, with what lies in a folder."""
    recall.keep_lists(folder)
    model, clip = load(family)
    counter = Counter()
    a_text = 0.0
    if family != "toy":
        began = time.perf_counter()
        [rows] = Encoder(clip).stream([f"a {i}" for i in range(BATCH)])
        a_text = (time.perf_counter() - began) / BATCH
        counter = Counter(rows.clone())
    Encoder._run = lambda encode, texts: counter(encode, texts)
    steps = list(wait(model, clip, counter))
    for step in steps:
        step["seconds"] = round(step["seconds"] + a_text * step["texts"], 3)
        step["of the first"] = round(step["seconds"] / steps[0]["seconds"], 4)
    return {step.pop("step"): step for step in steps}


def in_new_process(family: str, folder: str) -> dict:
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
            results[family] = {name: in_new_process(family, folder) for name in ("nothing on disk", "lists on disk")}
            results[family]["bytes on disk"] = sum(path.stat().st_size for path in Path(folder).iterdir())
        print(family, json.dumps(results[family], indent=1), flush=True)
    RESULTS.write_text(json.dumps({"threads": torch.get_num_threads(), "families": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
