"""Measures the toy world itself: the judge on held-out renders, and the unedited models' pictures.

    python3 scripts/run.py toyworld.report              every architecture that has a checkpoint
    python3 scripts/run.py toyworld.report flux sdxl    these alone

Writes ``toyworld/report.json`` and a contact sheet of each, ``docs/toyworld.jpg`` and ``docs/worlds/NAME.jpg``.
Pictures are made by the host's own loader, text encoder, sampler (euler, 20 steps) and VAE.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import comfy.sample
import comfy.sd
import numpy as np
import torch
from PIL import Image, ImageDraw

from . import node  # noqa: F401  registers the family
from .judge import Judge, load_judge
from .train import HERE
from .world import FULL_CAPTIONS, KINDS, SHAPES, Scene, caption, random_scene, render
from .worlds import WORLDS
from .worlds.world import World

CFG = WORLDS["unet"].cfg
STEPS = 20
PICTURES_A_SHAPE = 24
HELD_OUT = 2000
SHEET = HERE.parent / "docs" / "toyworld.jpg"
SHEETS = HERE.parent / "docs" / "worlds"


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


Reading = tuple[torch.Tensor, Mapping[str, torch.Tensor]]
"""A text as the host's text encoder gives it: the encoding [1, n, d], and what lies beside it."""


class Painter:
    """Draws with a world's checkpoint as the host's nodes do."""

    @torch.inference_mode()
    def __init__(self, world: World):
        self.world = world
        self.model, self.clip, self.vae, _ = comfy.sd.load_checkpoint_guess_config(str(world.checkpoint))

    @torch.inference_mode()
    def read(self, text: str) -> Reading:
        return tuple(self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))[0])

    @torch.inference_mode()
    def draw(self, readings: Sequence[Reading], seed: int = 979, cfg: float | None = None) -> torch.Tensor:
        """One picture for each text, [b, 3, 64, 64] in [0, 1]."""
        noise = torch.randn(len(readings), *self.world.latent, generator=torch.Generator().manual_seed(seed))
        latents = torch.zeros_like(noise)
        for rows in alike(readings):
            reading = together([readings[i] for i in rows])
            latents[rows] = self.sample(noise[rows], reading, seed, self.world.cfg if cfg is None else cfg)
        return self.vae.decode(latents).permute(0, 3, 1, 2).clone()

    def sample(self, noise: torch.Tensor, reading: Reading, seed: int, cfg: float) -> torch.Tensor:
        return comfy.sample.sample(
            self.model, noise, STEPS, cfg, "euler", self.world.scheduler, [list(reading)], [list(self.read(""))],
            torch.zeros_like(noise), seed=seed, disable_pbar=True,
        )  # fmt: skip


def alike(readings: Sequence[Reading]) -> list[list[int]]:
    """Which texts can be drawn in one run: those of one length, where nothing but the pooled text lies beside them."""
    groups: dict[object, list[int]] = defaultdict(list)
    for i, (context, beside) in enumerate(readings):
        alone = [i] if "t5xxl_ids" in beside else []
        groups[(*context.shape, *alone)].append(i)
    return list(groups.values())


def together(readings: Sequence[Reading]) -> Reading:
    """Several texts as one conditioning."""
    beside = {key: value for key, value in readings[0][1].items() if torch.is_tensor(value)}
    for key in ("pooled_output", "attention_mask"):
        if key in beside:
            beside[key] = torch.cat([other[key] for _, other in readings])
    return torch.cat([context for context, _ in readings]), beside


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


def measured(world: World, judge: Judge) -> dict[str, object]:
    """How right a world's pictures are; where a network reads two things of a text, also from one of them alone."""
    painter, (scenes, texts) = Painter(world), captions()
    readings, empty = [painter.read(text) for text in texts], painter.read("")
    pictures = painter.draw(readings)
    path = SHEET if world.name == "unet" else SHEETS / f"{world.name}.jpg"
    contact_sheet(pictures, texts, path)
    out: dict[str, object] = {
        "pictures": len(texts), "steps": STEPS, "cfg": world.cfg, **accuracy(judge, pictures, scenes)
    }  # fmt: skip
    if world.name == "unet":
        return out
    out["cfg_1"] = accuracy(judge, painter.draw(readings, cfg=1.0), scenes)
    ways: dict[str, Callable[[Reading], Reading]] = {
        "tokens_alone": lambda reading: (reading[0], empty[1]),
        "pooled_alone": lambda reading: (empty[0], reading[1]),
    }
    if torch.is_tensor(empty[1].get("pooled_output")):
        out |= {name: accuracy(judge, painter.draw([way(r) for r in readings]), scenes) for name, way in ways.items()}
    return {**out, "checkpoint_bytes": world.checkpoint.stat().st_size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", nargs="*", choices=[[], *WORLDS], help="when none is named, all with a checkpoint")
    names = parser.parse_args().worlds or [name for name, world in WORLDS.items() if world.checkpoint.exists()]
    judge, path = load_judge(), HERE / "report.json"
    found = json.loads(path.read_text())
    for name in names:
        row = measured(WORLDS[name], judge)
        if name == "unet":
            found |= {"judge_held_out": {"renders": HELD_OUT, **held_out(judge)}, "unedited_model": row}
            found["checkpoint_bytes"] = WORLDS[name].checkpoint.stat().st_size
        else:
            found["worlds"] = {**found.get("worlds", {}), name: row}
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(name, json.dumps(row, indent=1), flush=True)


if __name__ == "__main__":
    main()
