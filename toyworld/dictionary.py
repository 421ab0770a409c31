"""Makes the toy world's concept dictionary, which tests and benchmarks erase with.

    python3 scripts/run.py toyworld.dictionary      some minutes on one core; goes on where it was stopped

Writes ``toyworld/dictionary.safetensors``: features of all blocks of the UNet that read the
text, learned from random captions.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

import comfy.sd
import torch

from concept_erasure.erasure.dictionaries import Plan, train_dictionary
from concept_erasure.erasure.dictionary.autoencoder import Fit
from concept_erasure.erasure.dictionary.files import save_dictionary
from concept_erasure.erasure.dictionary.store import Recording

from .train import HERE
from .world import FULL_CAPTIONS, PARTIAL_CAPTIONS, caption, random_scene
from .worlds import WORLDS
from .worlds.world import World

FILE = HERE / "dictionary.safetensors"
BLOCKS = ("input 1", "input 3", "middle", "output 0", "output 1", "output 2", "output 3")
PLAN = Plan(
    pictures=512, together=64, expansion=4, vectors=400_000, blocks=BLOCKS,
    fit=Fit(active=8, lr=2e-3, batch=2048, epochs=2, dead_after=100_000),
)  # fmt: skip
FULL = 0.7
"""Share of captions that say shape, colour and style; the others say one or two of these."""


def captions(count: int, seed: int = 0) -> list[str]:
    """Random captions; each name is its second one in three of ten."""
    draws = random.Random(seed)
    out = []
    for _ in range(count):
        templates = FULL_CAPTIONS if draws.random() < FULL else PARTIAL_CAPTIONS
        second = (draws.random() < 0.3, draws.random() < 0.3, draws.random() < 0.3)
        out.append(caption(random_scene(draws), draws.choice(templates), second))
    return out


def make(world: World, texts: Sequence[str], plan: Plan, file: Path) -> None:
    """Learns a dictionary of a world's checkpoint from texts, and writes it; says how far it is now and then."""
    folder = Path("output") / f"{file.parent.name}_dictionary"
    began, said = time.monotonic(), [0.0]

    def on_progress(text: str, done: int, total: int) -> None:
        if time.monotonic() - said[0] > 20:
            said[0] = time.monotonic()
            print(f"{time.monotonic() - began:.0f} s: {text}: {done} of {total}", flush=True)

    with torch.inference_mode():
        model, clip = comfy.sd.load_checkpoint_guess_config(str(world.checkpoint))[:2]
        dictionary = train_dictionary(model, clip, texts, plan, folder, on_progress)
    save_dictionary(dictionary, file)
    Recording.discard_at(folder)
    print("\n".join(dictionary.lines()), f"{time.process_time():.0f} s of one core", sep="\n")


if __name__ == "__main__":
    make(WORLDS["unet"], captions(PLAN.pictures), PLAN, FILE)
