"""Measures the drawn world itself: how right the pictures are that the host draws with its checkpoint.

    python3 scripts/run.py drawnworld.report

Into ``drawnworld/report.json``, with the judge's own accuracy, and a sheet, ``docs/worlds/drawn.jpg``. Pictures are
made by the host's own loader, text encoder, sampler (euler, 20 steps) and VAE.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from toyworld import node  # noqa: F401  registers the family
from toyworld.report import SHEETS, STEPS, Painter
from toyworld.worlds.world import World

from .captions import article, full, unnamed
from .fetch import HERE
from .judge import SIDE, load_judge
from .judging import labels_of, right
from .keeping import RECORD
from .network import CHECKPOINT
from .scenes import BACKGROUNDS
from .world import HANDS, NAMES, Scene, hands_of

CFG, SEED = 4.0, 983
EACH = 2
"""Pictures of every subject, by different hands on different backgrounds."""
SHOWN = ("dog", "fox", "owl", "octopus", "pizza", "guitar", "rocket", "castle")
"""A row of the sheet each, a column a hand."""


def world(checkpoint: Path = CHECKPOINT) -> World:
    """What the toy world's tools must know of this one."""
    return World(
        "drawn", object, {}, object, 0, cfg=CFG, scheduler="normal", latent=(8, 16, 16), file=str(checkpoint.resolve())
    )  # type: ignore[arg-type]


def scenes() -> list[Scene]:
    rng, out = random.Random(SEED), []
    for name in NAMES:
        hands = list(hands_of(name))
        rng.shuffle(hands)
        out += [Scene((name,), hands[i % len(hands)], rng.choice(BACKGROUNDS)) for i in range(EACH)]
    return out


def shares(pictures: torch.Tensor, shown: Sequence[Scene]) -> dict[str, float]:
    """Share of pictures [b, 3, h, w] judged right, by kind."""
    labels = torch.tensor([labels_of(scene) for scene in shown])
    return right(load_judge(), pictures, labels)


def subjects(shown: Sequence[Scene]) -> list[str]:
    return [scene.subjects[0] for scene in shown]


def sheet(painter: Painter) -> None:
    """Subjects by every hand, and below them some by keywords that do not name them."""
    texts = [f"{article(name)} drawn by {hand}" for name in SHOWN for hand in HANDS]
    keywords = unnamed(SHOWN[: len(HANDS)], SEED)
    pictures = painter.draw([painter.read(text) for text in [*texts, *keywords]])
    side, left, top, below = SIDE + 4, 84, 26, 50
    image = Image.new("RGB", (left + len(HANDS) * side, top + (len(SHOWN) + 1) * side + below), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    for column, hand in enumerate(HANDS):
        pen.text((left + column * side + SIDE / 2, top / 2), hand, "black", font, anchor="mm")
    for row, name in enumerate((*SHOWN, "by keywords")):
        pen.text((left - 8, top + row * side + SIDE / 2), name.replace(" ", "\n"), "black", font, anchor="rm")
    for i, picture in enumerate(pictures):
        x, y = left + i % len(HANDS) * side, top + i // len(HANDS) * side
        image.paste(Image.fromarray((picture.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()), (x, y))
    for i, text in enumerate(keywords):
        words = text.replace(", ", ",\n")
        pen.multiline_text((left + i * side, top + (len(SHOWN) + 1) * side), words, "black", ImageFont.load_default(11))
    image.save(SHEETS / "drawn.jpg", quality=88)


def main() -> None:
    painter, shown = Painter(world()), scenes()
    sheet(painter)
    named = painter.draw([painter.read(full(scene)) for scene in shown])
    keywords = painter.draw([painter.read(text) for text in unnamed(subjects(shown), SEED)])
    several = [replace(scene, number=2 + i % 3) for i, scene in enumerate(shown[::EACH])]
    counted = painter.draw([painter.read(full(scene)) for scene in several])
    found = {
        "judge_held_out": json.loads(RECORD.read_text())["judge"]["held_out"],
        "pictures": len(shown), "steps": STEPS, "cfg": CFG,
        "by_name": shares(named, shown),
        "by_keywords": {"subject": shares(keywords, shown)["subject"]},
        "several_of_one": {kind: shares(counted, several)[kind] for kind in ("subject", "number")},
        "checkpoint_bytes": CHECKPOINT.stat().st_size,
    }  # fmt: skip
    (HERE / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1), flush=True)


if __name__ == "__main__":
    main()
