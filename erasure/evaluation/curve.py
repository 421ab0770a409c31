"""Shares over a number, drawn as lines with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw

from .grid import INK, PAPER
from .lettering import lettering

WIDTH, HEIGHT = 960, 600
LEFT, RIGHT, TOP, BOTTOM = 84, 28, 92, 76
"""Margins of the field that lines are drawn in."""
LETTERS = 20
COLOURS = ((200, 50, 40), (30, 100, 190), (120, 90, 160), (60, 140, 80))
FAINT = (214, 214, 218)
MOST_LABELS = 9
"""Numbers below the field, at most."""


@dataclass(frozen=True)
class Value:
    """One point of a line: ``x``, its share ``y`` in [0, 1], and the interval of that."""

    x: float
    y: float
    low: float
    high: float


def curve(title: str, below: str, lines: Mapping[str, Sequence[Value]], mark: float | None = None) -> torch.Tensor:
    """A picture [1, h, w, 3] in [0, 1] of lines by name; ``below``: what the numbers are; ``mark``: one of them to be
    marked."""
    sheet = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(sheet)
    field = Field(max([*(value.x for values in lines.values() for value in values), mark or 0.0]) or 1.0)
    _write(draw, title, WIDTH / 2, 26, WIDTH - 2 * RIGHT, "mm")
    _draw_axes(draw, field, below, lines, mark)
    for number, (name, values) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        # two lines at the same height are both to be seen
        _draw_line(draw, [(field.x(v.x), field.y(v.y) + 3 * number, field.y(v.low), field.y(v.high)) for v in values],
                   colour, 5 * number)  # fmt: skip
        across = LEFT + number * (WIDTH - LEFT - RIGHT) / len(lines)
        draw.line([(across, 64), (across + 34, 64)], colour, 4)
        _write(draw, name, across + 44, 64, int((WIDTH - LEFT - RIGHT) / len(lines)) - 50, "lm")
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)[None]


@dataclass(frozen=True)
class Field:
    """Where numbers from 0 to ``most`` and shares lie, in pixels."""

    most: float

    def x(self, number: float) -> float:
        return LEFT + number / self.most * (WIDTH - LEFT - RIGHT)

    def y(self, share: float) -> float:
        return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)


def _draw_axes(
    draw: ImageDraw.ImageDraw, field: Field, below: str, lines: Mapping[str, Sequence[Value]], mark: float | None
) -> None:
    for share in (0, 0.25, 0.5, 0.75, 1):
        draw.line([(LEFT, field.y(share)), (WIDTH - RIGHT, field.y(share))], FAINT, 1)
        _write(draw, f"{100 * share:.0f} %", LEFT - 10, field.y(share), LEFT - 12, "rm")
    if mark is not None:
        draw.line([(field.x(mark), TOP), (field.x(mark), field.y(0) + 6)], INK, 2)
    for number in _labelled(sorted({value.x for values in lines.values() for value in values}), field, mark):
        _write(draw, f"{number:g}", field.x(number), HEIGHT - BOTTOM + 18, LEFT, "mm")
    _write(draw, below, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 22, WIDTH - LEFT - RIGHT, "mm")


def _labelled(numbers: Sequence[float], field: Field, mark: float | None) -> list[float]:
    """Those of the numbers that have room below the field, the marked one before all others."""
    room, shown = (WIDTH - LEFT - RIGHT) / MOST_LABELS * 0.6, [] if mark is None else [mark]
    for number in numbers:
        if all(abs(field.x(number) - field.x(other)) >= room for other in shown):
            shown.append(number)
    return shown


def _draw_line(draw: ImageDraw.ImageDraw, points: Sequence[tuple], colour: tuple, aside: int) -> None:
    draw.line([(x, y) for x, y, _, _ in points], colour, 3)
    for x, y, low, high in points:
        draw.line([(x + aside, low), (x + aside, high)], colour, 1)
        for end in (low, high):
            draw.line([(x + aside - 4, end), (x + aside + 4, end)], colour, 1)
        draw.ellipse([x - 5, y - 5, x + 5, y + 5], colour)


def _write(draw: ImageDraw.ImageDraw, text: str, x: float, y: float, width: int, anchor: str) -> None:
    """One line, shortened to a width."""
    letters = lettering(text, LETTERS, width, 1)
    if letters.lines:
        draw.text((x, y), letters.lines[0], INK, letters.font, anchor=anchor)
