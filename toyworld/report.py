"""Measures the toy world itself: the judge on held-out renders, and the unedited model's pictures.

    python3 scripts/run.py toyworld.report

Writes ``toyworld/report.json`` and the contact sheet ``docs/toyworld.jpg``. Pictures are made by the host's own
loader, text encoder, sampler (euler, 20 steps) and VAE.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import comfy.sample
import comfy.sd
import numpy as np
import torch
from PIL import Image, ImageDraw

from . import node  # noqa: F401  registers the family
from .judge import Judge, load_judge
from .train import CHECKPOINT, HERE
from .world import FULL_CAPTIONS, KINDS, SHAPES, Scene, caption, random_scene, render

CFG = 4.5
STEPS = 20
PICTURES_A_SHAPE = 24
HELD_OUT = 2000
SHEET = HERE.parent / "docs" / "toyworld.jpg"


def accuracy(judge: Judge, pictures: torch.Tensor, scenes: list[Scene]) -> dict[str, float]:
    """Share of pictures [b, 3, h, w] judged right, by kind."""
    labels = torch.tensor([scene.labels for scene in scenes])
    with torch.no_grad():
        logits = judge(pictures)
    return {
        kind: round(float((row.argmax(1) == labels[:, i]).float().mean()), 4)
        for i, (kind, row) in enumerate(logits.items())
    }


def held_out(judge: Judge) -> dict[str, float]:
    """The judge on renders that no training saw (another seed)."""
    rng = random.Random(977)
    scenes = [random_scene(rng) for _ in range(HELD_OUT)]
    pictures = torch.from_numpy(np.stack([render(scene, rng) for scene in scenes])).permute(0, 3, 1, 2) / 255
    return accuracy(judge, pictures, scenes)


def captions() -> tuple[list[Scene], list[str]]:
    """The scenes to draw and their captions: every phrasing, first and second names mixed."""
    rng = random.Random(978)
    scenes = [
        Scene(shape, *(rng.choice(list(KINDS[kind])) for kind in ("colour", "style")))
        for shape in SHAPES
        for _ in range(PICTURES_A_SHAPE)
    ]
    texts = [
        caption(scene, FULL_CAPTIONS[i % len(FULL_CAPTIONS)], tuple(rng.random() < 0.4 for _ in range(3)))
        for i, scene in enumerate(scenes)
    ]
    return scenes, texts


@torch.inference_mode()
def draw(texts: list[str], seed: int = 979) -> torch.Tensor:
    """One picture for each text, [b, 3, 64, 64] in [0, 1]."""
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(CHECKPOINT))
    encode = {text: clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in {"", *texts}}
    positive = [[torch.cat([encode[text][0][0] for text in texts]), {}]]
    noise = torch.randn(len(texts), 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    latents = comfy.sample.sample(
        model, noise, STEPS, CFG, "euler", "normal", positive, encode[""], torch.zeros_like(noise), seed=seed
    )
    return vae.decode(latents).permute(0, 3, 1, 2).clone()


def contact_sheet(pictures: torch.Tensor, texts: list[str], path: Path) -> None:
    """Six pictures of every shape with their captions."""
    chosen = [s * PICTURES_A_SHAPE + i for s in range(len(SHAPES)) for i in range(6)]
    cell_w, cell_h = 190, 150
    sheet = Image.new("RGB", (6 * cell_w, len(SHAPES) * cell_h), "white")
    pen = ImageDraw.Draw(sheet)
    for place, i in enumerate(chosen):
        x, y = place % 6 * cell_w, place // 6 * cell_h
        picture = Image.fromarray((pictures[i].clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy())
        sheet.paste(picture.resize((112, 112), Image.Resampling.LANCZOS), (x + 39, y + 4))
        words, line = texts[i].split(), ""
        lines = []
        for word in words:
            if len(line) + len(word) > 28:
                lines, line = [*lines, line], ""
            line = f"{line} {word}".strip()
        for row, text in enumerate([*lines, line]):
            pen.text((x + 8, y + 118 + 13 * row), text, fill="black")
    path.parent.mkdir(exist_ok=True)
    sheet.save(path, quality=88)


def main() -> None:
    judge = load_judge()
    scenes, texts = captions()
    pictures = draw(texts)
    found = {
        "judge_held_out": {"renders": HELD_OUT, **held_out(judge)},
        "unedited_model": {
            "pictures": len(texts), "steps": STEPS, "cfg": CFG, **accuracy(judge, pictures, scenes)
        },
        "checkpoint_bytes": CHECKPOINT.stat().st_size,
    }  # fmt: skip
    (HERE / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    contact_sheet(pictures, texts, SHEET)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
