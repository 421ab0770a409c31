"""A look at what the network draws while it is trained: a sheet, and the judge's share of right pictures."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw

from toyworld.train import half_precision

from . import vae
from .captions import full, unnamed
from .fetch import WORK
from .judge import FILE, load_judge
from .judging import right
from .scenes import BACKGROUNDS
from .world import NAMES, Scene, hands_of

if TYPE_CHECKING:
    from .network import Trainer

SHOWN, STEPS, CFG = 48, 20, 4.0
SEED = 979


def asked() -> list[Scene]:
    """Every subject once, by a hand in turn, on some background."""
    rng = random.Random(SEED)
    hands = [hands_of(name) for name in NAMES]
    return [Scene((name,), own[i % len(own)], rng.choice(BACKGROUNDS)) for i, (name, own) in
            enumerate(zip(NAMES, hands, strict=True))]  # fmt: skip


@torch.no_grad()
def draw(trainer: Trainer, texts: list[str], cfg: float = CFG) -> torch.Tensor:
    """Pictures [b, 3, 128, 128] in [0, 1], by Euler's method."""
    noise = torch.randn(len(texts), *trainer.latents.shape[1:], generator=torch.Generator().manual_seed(SEED))
    with half_precision():
        parts = [_draw(trainer, texts[i : i + 48], noise[i : i + 48], cfg) for i in range(0, len(texts), 48)]
        _, dec = vae.load()
        return torch.cat([dec(part).float() for part in parts]).clamp(0, 1).cpu()


def _draw(trainer: Trainer, texts: list[str], noise: torch.Tensor, cfg: float) -> torch.Tensor:
    sigmas = trainer.sigmas
    levels = torch.linspace(999, 0, STEPS).round().long().to(sigmas.device)
    context = trainer.encode([*texts, *[""] * len(texts)])
    x = noise.to(sigmas.device) * (1 + sigmas[-1] ** 2).sqrt()
    for i, level in enumerate(levels):
        sigma, after = sigmas[level], sigmas[levels[i + 1]] if i + 1 < STEPS else 0.0
        v = trainer.predict(torch.cat([x, x]), level.repeat(2 * len(x)), context)
        clean = torch.cat([x, x]) / (sigma**2 + 1) - v * sigma / (sigma**2 + 1).sqrt()
        named, empty = clean.chunk(2)
        clean = empty + cfg * (named - empty)
        x = clean + (x - clean) / sigma * after
    return x


def sheet(pictures: torch.Tensor, texts: list[str]) -> Image.Image:
    """Pictures with their captions, eight in a row."""
    side, line = pictures.shape[-1], 26
    image = Image.new("RGB", (8 * (side + 6), -(-len(pictures) // 8) * (side + line)), "white")
    pen = ImageDraw.Draw(image)
    for i, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        x, y = i % 8 * (side + 6), i // 8 * (side + line)
        image.paste(Image.fromarray((picture * 255).byte().permute(1, 2, 0).numpy()), (x, y))
        words = text.split()
        pen.text((x + 1, y + side), " ".join(words[:4])[:24], fill="black")
        pen.text((x + 1, y + side + 11), " ".join(words[4:])[:24], fill="black")
    return image


def watch(trainer: Trainer) -> dict:
    """Draws, judges, and writes a sheet and a line down."""
    scenes = asked()
    texts = [full(scene) for scene in scenes]
    pictures = draw(trainer, texts)
    step = trainer.state.step
    sheet(pictures[:SHOWN], texts[:SHOWN]).save(WORK / f"watch_{step:06}.jpg", quality=88)
    found: dict = {"step": step, "loss": round(trainer.state.mean, 4), "naming": round(trainer.spoken, 4)}
    if FILE.exists():
        judge = load_judge()
        labels = torch.tensor([scene.labels for scene in scenes])
        found |= right(judge, pictures, labels)
        found["unnamed_subject"] = right(judge, draw(trainer, unnamed(NAMES, SEED)), labels)["subject"]
    with (WORK / "watch.jsonl").open("a") as file:
        file.write(json.dumps(found) + "\n")
    print(f"  {found}", flush=True)
    return found
