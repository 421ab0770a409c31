"""What a picture shows, and how it is put together from drawings and a background."""

from __future__ import annotations

import hashlib
import io
import json
import random
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from . import fetch, scenes
from .hands import HANDS as SETS
from .hands import NAMES as HANDS
from .scenes import BACKGROUNDS, PLAIN, SIZE
from .subjects import SUBJECTS

NAMES = tuple(subject.name for subject in SUBJECTS)
RASTER = 288
"""Edge of a drawing before it is cut out and shrunk into a picture."""
NUMBERS = ("one", "two", "three", "four")


@dataclass(frozen=True)
class Scene:
    """One picture's content. Two different subjects stand beside each other, the first on the left."""

    subjects: tuple[str, ...]
    hand: str
    background: str
    number: int = 1
    """How many of one subject."""

    @property
    def labels(self) -> tuple[int, int, int, int]:
        """Class indices of the first subject, the hand, the background and the number."""
        return (
            NAMES.index(self.subjects[0]),
            HANDS.index(self.hand),
            BACKGROUNDS.index(self.background),
            self.number - 1,
        )


Drawings = Mapping[tuple[str, str], Image.Image]


def raster(svg: str) -> Image.Image:
    """A drawing, RGBA, cut to what is not transparent."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=RASTER, height=RASTER)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    return image.crop(image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox())


def _file() -> Path:
    """Where drawings are remembered: another name for other sets, subjects or sizes."""
    meant = [RASTER, [hand.package.sha512 for hand in SETS], [subject.icon for subject in SUBJECTS]]
    return fetch.WORK / f"drawings_{hashlib.sha256(repr(meant).encode()).hexdigest()[:8]}.zip"


@cache
def drawings() -> Drawings:
    """(subject, hand) -> RGBA image; remembered on disk, because a thousand of them take a minute."""
    path = _file()
    if not path.exists():
        partial = path.with_suffix(".part")
        with zipfile.ZipFile(partial, "w") as file:
            for (subject, hand), svg in fetch.drawings().items():
                data = io.BytesIO()
                raster(svg).save(data, "PNG")
                file.writestr(f"{subject}/{hand}.png", data.getvalue())
        partial.replace(path)
    with zipfile.ZipFile(path) as file:
        images = {name: Image.open(io.BytesIO(file.read(name))).convert("RGBA") for name in file.namelist()}
    return {tuple(name.removesuffix(".png").split("/")): image for name, image in images.items()}


@cache
def _drawn_by() -> Mapping[str, list[str]]:
    return json.loads(fetch.DRAWN_BY.read_text())


def hands_of(subject: str) -> tuple[str, ...]:
    """Who draws a subject, as ``fetch`` wrote it down."""
    return tuple(_drawn_by()[subject])


def random_background(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.25:
        return "white"
    return rng.choice(list(PLAIN) if draw < 0.55 else list(scenes.PLACES))


def random_scene(rng: random.Random) -> Scene:
    """Mostly one subject; some pictures with two subjects, and some with several of one."""
    subject = rng.choice(NAMES)
    hand = rng.choice(hands_of(subject))
    draw, background = rng.random(), random_background(rng)
    if draw < 0.72:
        return Scene((subject,), hand, background)
    if draw < 0.84:
        return Scene((subject,), hand, background, rng.choice((2, 3, 4)))
    other = rng.choice([name for name in NAMES if name != subject and hand in hands_of(name)])
    return Scene((subject, other), hand, background)


Place = tuple[float, float, float]
"""Middle and longer side of a drawing, in shares of the picture's edge."""
_PLACES: dict[int, tuple[tuple[Place, ...], ...]] = {
    1: (((0.5, 0.5, 0.76),),),
    2: (((0.27, 0.5, 0.44), (0.73, 0.5, 0.44)),),
    3: (
        ((0.5, 0.27, 0.40), (0.27, 0.73, 0.40), (0.73, 0.73, 0.40)),
        ((0.18, 0.5, 0.3), (0.5, 0.5, 0.3), (0.82, 0.5, 0.3)),
    ),
    4: (((0.27, 0.27, 0.40), (0.73, 0.27, 0.40), (0.27, 0.73, 0.40), (0.73, 0.73, 0.40)),),
}


def _put(picture: Image.Image, drawing: Image.Image, place: Place, rng: random.Random) -> None:
    """Pastes a drawing about where it belongs."""
    x, y, side = place
    room = 0.5 if side > 0.5 else 0.15
    side *= rng.uniform(0.85, 1.12 if side > 0.5 else 1.0)
    scale = side * SIZE / max(drawing.size)
    size = tuple(max(8, round(edge * scale)) for edge in drawing.size)
    small = drawing.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    free = room * max(0.04, 1 - side) * SIZE / 2
    left = x * SIZE - size[0] / 2 + rng.uniform(-free, free)
    top = y * SIZE - size[1] / 2 + rng.uniform(-free, free)
    picture.paste(small, (round(left), round(top)), small)


def render(scene: Scene, rng: random.Random) -> np.ndarray:
    """One picture of the scene, uint8 [SIZE, SIZE, 3]; places and sizes vary."""
    picture = scenes.background(scene.background, rng)
    count = max(scene.number, len(scene.subjects))
    places = rng.choice(_PLACES[count])
    for i, place in enumerate(places):
        drawing = drawings()[scene.subjects[i % len(scene.subjects)], scene.hand]
        _put(picture, drawing, place, rng)
    return np.asarray(picture)
