"""Erasing by text in families without a trained world: tiny random networks and text encoders of the host's classes.

    python3 scripts/run.py benchmarks.random_families

Adds a row for each to ``benchmarks/results/families.json``. Pictures of random weights show nothing, so ESR-1 and PSR-1
stay empty; measured are the exported LoRA against the change itself, its keys, the texts that are read, and whether the
unedited model draws the same to the bit.
"""

from __future__ import annotations

import json
import time

import torch

from concept_erasure.erasure import instant, solved
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.instant import Instant
from concept_erasure.erasure.texts import recall
from concept_erasure.erasure.texts.encoder import Encoder
from tests import families, text_encoders

from .families import FILE, Counted, commit, lora

CONCEPT, KEPT = "cat", "dog\nred\ntree"
TRAINED = ("SD 1.x", "SDXL", "Anima", "Z-Image", "Flux.1", "Qwen-Image")
"""Have worlds of their own."""


def row(tiny: families.Tiny, encoder: str) -> dict:
    """What is measured of one pair."""
    model, clip = families.load(tiny), text_encoders.load(text_encoders.TINY[encoder])

    def drawn(of) -> torch.Tensor:
        with torch.inference_mode():
            cond = clip.encode_from_tokens_scheduled(clip.tokenize(f"a photo of a {CONCEPT}"))
        return families.draw(of, tiny, cond)

    recall.ROWS.clear()
    solved.forget()
    with torch.inference_mode(), Counted(Encoder) as reads:
        began = time.perf_counter()
        erasure = instant.erase_instantly(model, clip, CONCEPT, KEPT, Instant())
        seconds = time.perf_counter() - began
    before, erased = drawn(model), attach.erase(model, erasure)
    identical = not torch.equal(drawn(erased), before) and torch.equal(drawn(model), before)
    figures = {"esr1": None, "psr1": None, "seconds": seconds, "texts": reads.count, **lora(model, erasure)}
    return {
        "world": "random", "family": subject(model).family.name, "base": None, "instant": figures, "pooled": None,
        "recommended": None, "prompt_only": None,
        "bit_identical": identical and attach.erase(model, erasure, 0.0) is model,
    }  # fmt: skip


def main() -> None:
    known = json.loads(FILE.read_text()) if FILE.exists() else {"families": {}}
    known["commits"] = sorted({*known.get("commits", ()), commit()})
    for name, (tiny, encoder) in text_encoders.PAIRS.items():
        if name not in TRAINED:
            known["families"][name] = row(tiny, encoder)
            print(name, known["families"][name], flush=True)
    FILE.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
