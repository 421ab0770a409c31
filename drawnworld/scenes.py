"""Backgrounds: plain colours, and a few places, drawn with some chance in them."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 128
"""Edge of a picture in pixels."""
_SCALE = 2

Colour = tuple[int, int, int]
PLAIN: dict[str, Colour] = {
    "white": (255, 255, 255),
    "yellow": (250, 222, 120),
    "pink": (246, 178, 200),
    "blue": (150, 196, 240),
    "green": (168, 216, 160),
    "grey": (190, 190, 194),
    "black": (28, 28, 34),
}


def _vary(colour: Colour, rng: random.Random, by: int = 8) -> Colour:
    shift = rng.randint(-by, by)
    red, green, blue = (min(255, max(0, c + shift + rng.randint(-3, 3))) for c in colour)
    return red, green, blue


def _canvas(top: Colour, bottom: Colour) -> Image.Image:
    """A sky that changes from top to bottom."""
    size = SIZE * _SCALE
    ramp = np.linspace(0, 1, size)[:, None, None]
    rows = np.array(top)[None, None] * (1 - ramp) + np.array(bottom)[None, None] * ramp
    return Image.fromarray(np.broadcast_to(rows, (size, size, 3)).astype(np.uint8).copy())


def _ground(image: Image.Image, colour: Colour, height: float, rng: random.Random, waves: float = 0.03) -> None:
    """Everything below a softly waved line, in one colour; ``height`` in [0, 1] from the top."""
    size = image.width
    phase, turns = rng.uniform(0, 6.3), rng.uniform(0.6, 1.6)
    xs = np.arange(0, size + 8, 8)
    ys = size * (height + waves * np.sin(phase + turns * 2 * np.pi * xs / size))
    ImageDraw.Draw(image).polygon([(0, size), *zip(xs.tolist(), ys.tolist(), strict=True), (size, size)], fill=colour)


def _meadow(rng: random.Random) -> Image.Image:
    image = _canvas(_vary((150, 205, 245), rng), _vary((222, 240, 250), rng))
    _ground(image, _vary((120, 190, 90), rng), rng.uniform(0.5, 0.62), rng, 0.04)
    _ground(image, _vary((98, 170, 70), rng), rng.uniform(0.66, 0.78), rng, 0.03)
    return image


def _beach(rng: random.Random) -> Image.Image:
    image = _canvas(_vary((120, 200, 240), rng), _vary((205, 238, 250), rng))
    _ground(image, _vary((50, 150, 205), rng), rng.uniform(0.42, 0.5), rng, 0.0)
    _ground(image, _vary((240, 220, 165), rng), rng.uniform(0.64, 0.72), rng, 0.02)
    return image


def _snow(rng: random.Random) -> Image.Image:
    image = _canvas(_vary((165, 190, 215), rng), _vary((205, 220, 235), rng))
    _ground(image, _vary((244, 248, 252), rng, 3), rng.uniform(0.58, 0.7), rng, 0.03)
    pen = ImageDraw.Draw(image)
    for _ in range(45):
        x, y, r = rng.uniform(0, image.width), rng.uniform(0, image.width), rng.uniform(1.5, 3.5)
        pen.ellipse([x - r, y - r, x + r, y + r], fill=(255, 255, 255))
    return image


def _desert(rng: random.Random) -> Image.Image:
    image = _canvas(_vary((250, 214, 150), rng), _vary((252, 236, 200), rng))
    _ground(image, _vary((226, 168, 96), rng), rng.uniform(0.5, 0.6), rng, 0.05)
    _ground(image, _vary((206, 142, 76), rng), rng.uniform(0.68, 0.8), rng, 0.05)
    return image


def _night(rng: random.Random) -> Image.Image:
    image = _canvas(_vary((14, 18, 54), rng), _vary((52, 58, 112), rng))
    pen = ImageDraw.Draw(image)
    for _ in range(40):
        x, y, r = rng.uniform(0, image.width), rng.uniform(0, image.width * 0.8), rng.uniform(0.8, 2.4)
        pen.ellipse([x - r, y - r, x + r, y + r], fill=(250, 245, 200))
    _ground(image, _vary((22, 30, 40), rng), rng.uniform(0.8, 0.9), rng, 0.02)
    return image


def _city(rng: random.Random) -> Image.Image:
    image = _canvas(_vary((196, 206, 220), rng), _vary((232, 226, 222), rng))
    pen, x, size = ImageDraw.Draw(image), 0.0, image.width
    while x < size:
        width, top = rng.uniform(0.1, 0.2) * size, rng.uniform(0.2, 0.55) * size
        pen.rectangle([x, top, x + width, size], fill=_vary((138, 146, 164), rng, 18))
        x += width
    pen.rectangle([0, size * 0.84, size, size], fill=_vary((92, 94, 102), rng))
    return image


def _forest(rng: random.Random) -> Image.Image:
    image = _canvas(_vary((46, 92, 60), rng), _vary((84, 130, 80), rng))
    pen, size = ImageDraw.Draw(image), image.width
    for _ in range(9):
        x, width = rng.uniform(0, size), rng.uniform(0.03, 0.07) * size
        pen.rectangle([x, 0, x + width, size * 0.85], fill=_vary((74, 56, 40), rng, 12))
    _ground(image, _vary((52, 82, 40), rng), rng.uniform(0.78, 0.86), rng, 0.02)
    return image


def _sea(rng: random.Random) -> Image.Image:
    image = _canvas(_vary((170, 215, 245), rng), _vary((225, 242, 250), rng))
    for i, colour in enumerate(((60, 140, 200), (44, 120, 184), (30, 98, 164))):
        _ground(image, _vary(colour, rng), 0.45 + 0.17 * i + rng.uniform(-0.03, 0.03), rng, 0.015)
    return image


PLACES: dict[str, Callable[[random.Random], Image.Image]] = {
    "meadow": _meadow,
    "beach": _beach,
    "snow": _snow,
    "desert": _desert,
    "night": _night,
    "city": _city,
    "forest": _forest,
    "sea": _sea,
}
PHRASES = {
    "meadow": ("in a meadow", "on the grass"),
    "beach": ("on a beach", "at the beach"),
    "snow": ("in the snow", "in winter"),
    "desert": ("in a desert", "in the desert"),
    "night": ("at night", "under the stars"),
    "city": ("in a city", "in the street"),
    "forest": ("in a forest", "in the woods"),
    "sea": ("on the sea", "on the water"),
}
BACKGROUNDS = (*PLAIN, *PLACES)


def background(name: str, rng: random.Random) -> Image.Image:
    """A background, RGB, [SIZE, SIZE]."""
    if name in PLAIN:
        return Image.new("RGB", (SIZE, SIZE), _vary(PLAIN[name], rng, 0 if name == "white" else 6))
    image = PLACES[name](rng).filter(ImageFilter.GaussianBlur(0.8))
    return image.resize((SIZE, SIZE), Image.Resampling.BOX)
