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

import torch

from . import fetch, pictures
from .fetch import WORK


def _vae(steps: int | None) -> None:
    from . import vae

    vae.train(steps or vae.STEPS)


def _decoder(steps: int | None) -> None:
    from . import vae

    vae.train_decoder(steps or vae.DECODER_STEPS)


def _judge(steps: int | None) -> None:
    from . import judging

    judging.train(steps or judging.STEPS)


def _network(steps: int | None) -> None:
    from . import network

    network.train(steps or network.STEPS)


STAGES = {
    "fetch": (lambda steps: fetch.fetch(), fetch.TAGS),
    "render": (lambda steps: pictures.render_all(), None),
    "vae": (_vae, WORK / "vae.safetensors"),
    "decoder": (_decoder, None),
    "judge": (_judge, fetch.HERE / "judge.safetensors"),
    "network": (_network, None),
}
"""What each stage runs, and the file by which it is done; others go on by themselves."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=list(STAGES), help="only this one")
    parser.add_argument("--steps", type=int, help="fewer or more steps than the stage's own number")
    parser.add_argument("--shards", type=int, default=pictures.SHARDS, help="how many shards of pictures to work with")
    chosen = parser.parse_args()
    pictures.SHARDS = chosen.shards
    torch.set_flush_denormal(True)  # tiny half-precision gradients otherwise slow a CPU several times over
    WORK.mkdir(parents=True, exist_ok=True)
    for name, (work, product) in STAGES.items():
        if chosen.stage == name or (chosen.stage is None and not (product and product.exists())):
            work(chosen.steps)


if __name__ == "__main__":
    main()
