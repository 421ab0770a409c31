"""The README's first picture: drawings before and after "dog" is erased by typing it.

    python3 scripts/run.py benchmarks.drawn_figure

Into ``docs/drawn.png``. Every column has the same noise before and after.
"""

from __future__ import annotations

import io
from pathlib import Path

import comfy.sample
import torch
from PIL import Image

from concept_erasure.erasure import instant
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.instant import Instant
from scripts.sheet import grid

from .drawn_world import Drawn
from .toy import Shot

FILE = Path(__file__).resolve().parents[1] / "docs" / "drawn.png"
CONCEPT, SEED = "dog", 5
COLUMNS = {
    "a dog by nora": "a dog drawn by nora in a meadow",
    "a dog by oscar": "a dog drawn by oscar on a blue background",
    "barking, leash": "barking, leash",
    "a dog and an owl": "a dog left of an owl drawn by emil",
    "a wolf": "a wolf drawn by oscar in the snow",
    "a fox": "a fox drawn by flynn in a forest",
    "a guitar": "a guitar drawn by greta on a beach",
}


def as_file(picture: torch.Tensor) -> bytes:
    """A picture [3, h, w] in [0, 1] as a PNG."""
    out = io.BytesIO()
    Image.fromarray((picture.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()).save(out, "PNG")
    return out.getvalue()


def main() -> None:
    world = Drawn()
    wanted = [
        Shot(text, "", {}, comfy.sample.prepare_noise(torch.zeros(1, 8, 16, 16), SEED + i)[0])
        for i, text in enumerate(COLUMNS.values())
    ]
    with torch.inference_mode():
        erased = attach.erase(world.model, instant.erase_instantly(world.model, world.clip, CONCEPT, "", Instant()))
        rows = [[as_file(picture) for picture in world.draw(model, wanted)] for model in (world.model, erased)]
    grid(["before", f'"{CONCEPT}" erased'], list(COLUMNS), rows, 160).save(FILE, optimize=True)


if __name__ == "__main__":
    main()
