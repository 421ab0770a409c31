"""What to draw for a concept of the toy world, and how well the drawn pictures show what they should.

python3 scripts/run.py toyworld.scoring plan circle plan.json
python3 scripts/run.py toyworld.scoring judge pictures.json scores.json
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from .world import FULL_CAPTIONS, KINDS, Scene, caption, first_name, kind_of

SEEDS = (0, 1, 2)
PICTURES = 192
"""At least so many pictures are judged for each state of the model."""
POSTS = 24
"""About so many prompts are posted; a few large batches cost a CPU far less than many small ones."""


def plan(concept: str) -> dict:
    """Captions and seeds for every class of the concept's kind, equally many pictures a class.

    The class is always called by its first name; of the other two attributes every fourth caption uses the second.
    """
    concept, kind = first_name(concept), kind_of(concept)
    names = sorted(KINDS[kind], key=lambda name: name != concept)
    runs = len(names) * len(SEEDS)
    captions = max(1, round(POSTS / runs))
    batch = math.ceil(PICTURES / (runs * captions))
    posts = []
    for i, name in enumerate(names):
        for j, seed in enumerate(SEEDS):
            for k in range(captions):
                number = (i * len(SEEDS) + j) * captions + k
                scene, text = shot(kind, name, number)
                posts.append({"label": name, "text": text, "seed": seed, "batch": batch, "scene": asdict(scene)})
    others = [name for other in sorted(KINDS, key=lambda k: k != kind) for name in KINDS[other] if name != concept]
    return {"concept": concept, "preserve": others, "labels": names, "seeds": list(SEEDS), "posts": posts}


def shot(kind: str, name: str, number: int) -> tuple[Scene, str]:
    """The ``number``-th scene and caption of a class; the other attributes and the phrasing take turns."""
    chosen = {}
    for step, other in zip((1, 5), (k for k in KINDS if k != kind), strict=True):
        values = list(KINDS[other])
        chosen[other] = values[(number * step + number // len(values)) % len(values)]
    second = tuple(number % 4 == 3 and k != kind for k in KINDS)
    scene = Scene(**chosen, **{kind: name})
    return scene, caption(scene, FULL_CAPTIONS[number % len(FULL_CAPTIONS)], second)


def scores(ranks: Sequence[int], labels: Sequence[str], concept: str) -> dict[str, float]:
    """Share of pictures whose judge's top-k has what was asked for, for the concept and for the kept ones.

    ``ranks``: place of each picture's label among its kind, 0 is the top. ESR-k is 1 - ``topK_concept``.
    """
    out = {}
    for k in (1, 3):
        right = [rank < k for rank in ranks]
        for name, wanted in (("concept", True), ("kept", False)):
            rows = [r for r, label in zip(right, labels, strict=True) if (label == concept) == wanted]
            out[f"top{k}_{name}"] = sum(rows) / len(rows)
    return out


def judge(concept: str, pictures: Sequence[dict]) -> dict[str, dict[str, float]]:
    """The scores of every row; a picture is ``{"row", "label", "file"}``."""
    import numpy as np
    import torch
    from PIL import Image

    from .judge import load_judge

    judge, found = load_judge(), {}
    for row in dict.fromkeys(picture["row"] for picture in pictures):
        own = [picture for picture in pictures if picture["row"] == row]
        arrays = [np.asarray(Image.open(picture["file"]).convert("RGB"), dtype=np.float32) for picture in own]
        labels = [picture["label"] for picture in own]
        ranks = judge.ranks(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255, labels)
        found[row] = scores(ranks, labels, concept)
    return found


def main() -> None:
    command, given, out = sys.argv[1:]
    if command == "plan":
        try:
            result = plan(given)
        except KeyError:
            known = ", ".join(name for names in KINDS.values() for name in names)
            sys.exit(f"The toy world has no concept '{given}': choose one of {known}.")
    else:
        result = judge(**json.loads(Path(given).read_text(encoding="utf-8")))
    Path(out).write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
