"""Makes the drawn world's concept dictionary, which benchmarks erase with.

    python3 scripts/run.py drawnworld.dictionary      half an hour on one core, or a minute on a GPU

Writes ``drawnworld/dictionary.safetensors``: features of all blocks of the UNet that read the text, learned from random
captions, as ``toyworld.dictionary`` does. It goes on where it was stopped.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from concept_erasure.erasure.host.trajectories import Sampling
from toyworld.dictionary import PLAN as TOY
from toyworld.dictionary import make

from .captions import random_caption
from .report import CFG, world
from .world import random_scene

FILE = Path(__file__).with_name("dictionary.safetensors")
PLAN = replace(
    TOY, blocks=(), pictures=2048, vectors=1_000_000, sampling=Sampling(steps=12, cfg=CFG, shape=(8, 16, 16)),
    fit=replace(TOY.fit, active=16, epochs=3),
)  # fmt: skip


def captions(count: int, seed: int = 0) -> list[str]:
    """Random captions as the network was trained on, without empty ones."""
    rng = random.Random(seed)
    out: list[str] = []
    while len(out) < count:
        if text := random_caption(random_scene(rng), rng).text:
            out.append(text)
    return out


if __name__ == "__main__":
    make(world(), captions(PLAN.pictures), PLAN, FILE)
