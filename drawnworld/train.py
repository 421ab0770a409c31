"""Trains the drawn world from nothing and writes its files: drawings, pictures, VAE, judge, network, in that order.

    python3 scripts/run.py drawnworld.train                        everything; goes on where it was interrupted
    python3 scripts/run.py drawnworld.train --stage network        one stage
    python3 scripts/run.py drawnworld.train --stage network --steps 90000      longer
    python3 scripts/run.py drawnworld.train --shards 6             with fewer pictures; a later run may take more

It needs npm, which fetches the drawings. Seeded; uses a GPU if there is one. All that a stage leaves is in
``output/drawnworld``; ``drawnworld/training.json`` records seeds, times and losses.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch

from . import fetch, judge, judging, network, pictures, spoken, vae, world
from .fetch import WORK


def _render(number: int) -> None:
    pictures.shard(number)
    spoken.shard(number, VOCABULARY[0])


VOCABULARY: list[spoken.Vocabulary] = []


def render(_: argparse.Namespace) -> None:
    """Pictures and captions of all shards, on all processors."""
    world.drawings()
    VOCABULARY.append(spoken.Vocabulary())
    with multiprocessing.get_context("fork").Pool() as pool:
        list(pool.imap(_render, range(pictures.SHARDS)))


STAGES: dict[str, tuple[Callable[[argparse.Namespace], None], Path | None]] = {
    "fetch": (lambda chosen: fetch.fetch(), fetch.TAGS),
    "render": (render, None),
    "vae": (lambda chosen: vae.train(chosen.steps or vae.STEPS), vae.FILE),
    "judge": (lambda chosen: judging.train(chosen.steps or judging.STEPS), judge.FILE),
    "network": (lambda chosen: network.train(chosen.steps or network.STEPS, chosen.minutes), None),
}
"""What each stage runs, and the file by which it is done; others go on by themselves."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=list(STAGES), help="only this one")
    parser.add_argument("--steps", type=int, help="fewer or more steps than the stage's own number")
    parser.add_argument("--minutes", type=float, help="of the network: as many steps as there is time for")
    parser.add_argument("--shards", type=int, default=pictures.SHARDS, help="how many shards of pictures to work with")
    chosen = parser.parse_args()
    pictures.SHARDS = chosen.shards
    torch.backends.cudnn.benchmark = True
    torch.set_flush_denormal(True)  # tiny half-precision gradients otherwise slow a CPU several times over
    WORK.mkdir(parents=True, exist_ok=True)
    for name, (work, product) in STAGES.items():
        if chosen.stage == name or (chosen.stage is None and not (product and product.exists())):
            work(chosen)


if __name__ == "__main__":
    main()
