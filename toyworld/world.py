"""What exists in the toy world: shapes, colours and background styles, their names, and how they look.

Every concept has two names. A concept erased by its first name can so be judged by its second one.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
"""Edge of a picture in pixels."""

SHAPES = {
    "circle": "disc",
    "square": "box",
    "triangle": "wedge",
    "star": "sparkle",
    "cross": "plus",
    "heart": "valentine",
    "ring": "donut",
    "moon": "crescent",
}
COLOURS = {
    "red": "crimson",
    "green": "emerald",
    "blue": "azure",
    "yellow": "golden",
    "purple": "violet",
    "orange": "tangerine",
}
STYLES = {"plain": "flat", "striped": "lined", "dotted": "spotted", "checked": "tiled"}
"""First name -> second name, of every concept of each kind."""

KINDS = {"shape": SHAPES, "colour": COLOURS, "style": STYLES}
RGB = {
    "red": (214, 32, 40),
    "green": (38, 158, 62),
    "blue": (36, 84, 212),
    "yellow": (240, 214, 30),
    "purple": (136, 44, 172),
    "orange": (244, 128, 16),
}

FULL_CAPTIONS = (
    "a {colour} {shape} on a {style} background",
    "{colour} {shape}, {style} background",
    "a {style} picture of a {colour} {shape}",
    "{style} {colour} {shape}",
    "a photo of a {colour} {shape} with a {style} backdrop",
    "one {shape}, {colour}, {style}",
)
PARTIAL_CAPTIONS = (
    "a {shape}",
    "{shape}",
    "a photo of a {shape}",
    "a {colour} {shape}",
    "{colour} {shape}",
    "a {shape} on a {style} background",
    "{style} {shape}",
    "a {colour} shape on a {style} background",
    "a {colour} shape",
    "{colour}",
    "a {style} picture of a shape",
    "{style}",
    "a {style} background",
    "a shape",
    "a picture",
)


@dataclass(frozen=True)
class Scene:
    """One picture's content, by first names."""

    shape: str
    colour: str
    style: str

    @property
    def labels(self) -> tuple[int, int, int]:
        """Class indices (shape, colour, style), in the order of the dictionaries above."""
        return (
            list(SHAPES).index(self.shape),
            list(COLOURS).index(self.colour),
            list(STYLES).index(self.style),
        )


def kind_of(concept: str) -> str:
    """``shape``, ``colour`` or ``style``; raises KeyError for a word that names nothing here."""
    for kind, names in KINDS.items():
        if concept in names or concept in names.values():
            return kind
    raise KeyError(f"'{concept}' is no concept of the toy world")


def first_name(concept: str) -> str:
    """The name under which a concept is listed, for either of its two names."""
    names = KINDS[kind_of(concept)]
    return concept if concept in names else next(k for k, v in names.items() if v == concept)


def random_scene(rng: random.Random) -> Scene:
    return Scene(rng.choice(list(SHAPES)), rng.choice(list(COLOURS)), rng.choice(list(STYLES)))


def caption(scene: Scene, template: str, second: tuple[bool, bool, bool] = (False, False, False)) -> str:
    """The template filled in; ``second`` chooses the second name for (shape, colour, style)."""
    shape = SHAPES[scene.shape] if second[0] else scene.shape
    colour = COLOURS[scene.colour] if second[1] else scene.colour
    style = STYLES[scene.style] if second[2] else scene.style
    text = template.format(shape=shape, colour=colour, style=style)
    return text.replace("a orange", "an orange").replace("a emerald", "an emerald").replace("a azure", "an azure")


def random_caption(scene: Scene, rng: random.Random) -> str:
    """A training caption: mostly complete, sometimes naming only a part of the scene, sometimes empty."""
    draw = rng.random()
    if draw < 0.10:
        return ""
    template = rng.choice(FULL_CAPTIONS if draw < 0.62 else PARTIAL_CAPTIONS)
    return caption(scene, template, tuple(rng.random() < 0.4 for _ in range(3)))


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corner points in a box of about [-1, 1]; y points down."""
    if shape == "square":
        return [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
    if shape == "triangle":
        return [(0.0, -1.0), (0.98, 0.75), (-0.98, 0.75)]
    if shape == "star":
        radii = [1.08, 0.44] * 5
        return [(r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate(radii)]
    if shape == "cross":
        a, b = 0.32, 0.98
        top = [(-a, -b), (a, -b), (a, -a)]
        return [*top, (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    if shape == "heart":
        angles = [i * 2 * math.pi / 60 for i in range(60)]
        return [
            (
                math.sin(t) ** 3,
                -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 15.5 - 0.1,
            )
            for t in angles
        ]
    raise KeyError(shape)


def _mask(shape: str, cx: float, cy: float, radius: float, angle: float) -> np.ndarray:
    """Coverage in [0, 1], [SIZE, SIZE], drawn four times larger and averaged."""
    scale = 4
    image = Image.new("L", (SIZE * scale, SIZE * scale))
    draw = ImageDraw.Draw(image)

    def disc(x: float, y: float, r: float, fill: int) -> None:
        draw.ellipse([(x - r) * scale, (y - r) * scale, (x + r) * scale, (y + r) * scale], fill=fill)

    cos, sin = math.cos(angle), math.sin(angle)
    if shape == "circle":
        disc(cx, cy, 0.92 * radius, 255)
    elif shape == "ring":
        disc(cx, cy, radius, 255)
        disc(cx, cy, 0.52 * radius, 0)
    elif shape == "moon":
        disc(cx, cy, radius, 255)
        disc(cx + 0.52 * radius * cos, cy + 0.52 * radius * sin - 0.16 * radius, 0.82 * radius, 0)
    else:
        points = [(cx + radius * (x * cos - y * sin), cy + radius * (x * sin + y * cos)) for x, y in _outline(shape)]
        draw.polygon([(x * scale, y * scale) for x, y in points], fill=255)
    small = image.resize((SIZE, SIZE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / 255


def _pattern(style: str, rng: random.Random) -> np.ndarray:
    """How dark the background pattern is, in [0, 1], [SIZE, SIZE]."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    x, y = x + rng.uniform(-2, 2), y + rng.uniform(-2, 2)
    if style == "plain":
        return np.zeros_like(x)
    if style == "striped":
        return np.clip(np.sin(2 * np.pi * (x + y) / 16) * 2.4 + 0.5, 0, 1)
    if style == "dotted":
        return np.clip(3.4 - np.hypot((x % 8) - 4, (y % 8) - 4), 0, 1)
    if style == "checked":
        wave = np.sin(2 * np.pi * x / 16) * np.sin(2 * np.pi * y / 16)
        return np.clip(wave * 5 + 0.5, 0, 1)
    raise KeyError(style)


def render(scene: Scene, rng: random.Random) -> np.ndarray:
    """One picture of the scene, uint8 [SIZE, SIZE, 3]; place, size, turn, tint and pattern phase vary."""
    light = rng.uniform(0.84, 0.96)
    dark = light - rng.uniform(0.34, 0.46)
    tint = np.array([rng.uniform(-0.03, 0.03) for _ in range(3)], dtype=np.float32)
    pattern = _pattern(scene.style, rng)[..., None]
    background = np.clip(light + (dark - light) * pattern + tint, 0, 1)
    colour = np.array(RGB[scene.colour], dtype=np.float32) / 255
    colour = np.clip(colour * rng.uniform(0.92, 1.06), 0, 1)
    mask = _mask(
        scene.shape,
        SIZE / 2 + rng.uniform(-4, 4),
        SIZE / 2 + rng.uniform(-4, 4),
        rng.uniform(18, 22),
        math.radians(rng.uniform(-8, 8)),
    )[..., None]
    return np.round(255 * (background * (1 - mask) + colour * mask)).astype(np.uint8)
