"""A card as one picture, about a page of A4.

A part of the page is a ``Sheet`` that is written on from top to bottom, cut off, and put onto a larger one.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from .card import CELL, COLUMNS, SECTIONS, Card, Pair
from .lettering import lettering

WIDTH, MARGIN = 1860, 84
INNER = WIDTH - 2 * MARGIN
ACROSS, GAP, SPLIT = 3, 36, 6
"""Pairs of pictures beside each other, pixels between them, and between the two of a pair."""
Colour = tuple[int, int, int]
INK, FAINT, LINE, PAPER = (27, 28, 32), (101, 103, 111), (220, 221, 226), (255, 255, 255)
TONES: dict[str, tuple[Colour, Colour]] = {
    "✓": ((31, 138, 76), (234, 246, 238)),
    "⚠": ((192, 122, 0), (253, 244, 226)),
    "✗": ((194, 52, 52), (251, 235, 235)),
    "": ((91, 107, 140), (241, 243, 247)),
}
"""Band and ground of the verdict, by its mark."""
TITLE, LARGE, MIDDLE, TEXT, SMALL = 58, 42, 36, 27, 24
"""Sizes of letters in pixels."""
SPACING = 1.35
"""From one line to the next, in letters' sizes."""
NOTES = 10
"""Lines of what people add."""
TALLEST = 4000
"""Pixels; each text has a bound of lines, so that a card stays well below."""


def picture(card: Card) -> Image.Image:
    """The card, ``WIDTH`` pixels wide."""
    page = Sheet(INNER)
    page.text(card.title, TITLE, most=2)
    page.text(card.about, MIDDLE, FAINT, 2)
    page.space(24)
    page.put(_verdict(card))
    for title, pairs in zip(SECTIONS, card.pairs, strict=True):
        _pairs(page, title, pairs)
    page.text(card.shown, SMALL, FAINT, 2)
    _numbers(page, card.numbers)
    page.space(40)
    page.put(_facts(card.facts), _untested(card.untested))
    if card.notes:
        page.title("Notes")
        page.text(card.notes, TEXT, most=NOTES)
    page.space(36)
    page.rule()
    page.text(card.footer, SMALL, FAINT, 2)
    inner = page.finished()
    whole = Image.new("RGB", (WIDTH, inner.height + 2 * MARGIN), PAPER)
    whole.paste(inner, (MARGIN, MARGIN))
    return whole


class Sheet:
    """Paper of a width that is written on from top to bottom; ``y`` is how far it is."""

    def __init__(self, width: int, paper: Colour = PAPER):
        self.width, self.y = width, 0
        self.image = Image.new("RGB", (width, TALLEST), paper)
        self.pen = ImageDraw.Draw(self.image)

    def text(self, text: str, size: int, colour: Colour = INK, most: int = 1, x: int = 0, width: int = 0) -> None:
        """A text as at most so many lines, from ``x`` on."""
        for paragraph in text.splitlines():
            letters = lettering(paragraph, size, width or self.width - x, most)
            for line in letters.lines:
                self.pen.text((x, self.y + size * SPACING / 2), line, colour, letters.font, anchor="lm")
                self.y += int(size * SPACING)
            most -= len(letters.lines)
            if most <= 0:
                break

    def title(self, text: str) -> None:
        """A section's title."""
        self.space(40)
        self.text(text.upper(), SMALL, FAINT)
        self.space(10)

    def space(self, pixels: int) -> None:
        """Leaves some room."""
        self.y += pixels

    def rule(self) -> None:
        """A line across."""
        self.pen.line((0, self.y, self.width, self.y), LINE, 2)
        self.y += 12

    def put(self, *images: Image.Image, gap: int = 2 * GAP) -> None:
        """Pictures beside each other."""
        x = 0
        for image in images:
            self.image.paste(image, (x, self.y))
            x += image.width + gap
        self.y += max(image.height for image in images)

    def finished(self) -> Image.Image:
        """What has been written on so far."""
        return self.image.crop((0, 0, self.width, self.y))


def _verdict(card: Card) -> Image.Image:
    """The sentence that counts, in the colour of its mark."""
    band, ground = TONES[card.mark]
    sheet = Sheet(INNER, ground)
    sheet.space(24)
    sheet.text(card.verdict, LARGE, INK, 3, 44, INNER - 80)
    for remark in card.remarks:
        sheet.space(4)
        sheet.text(remark, TEXT, FAINT, 3, 44, INNER - 80)
    sheet.space(24)
    sheet.pen.rectangle((0, 0, 13, sheet.y), band)
    return sheet.finished()


def _pairs(page: Sheet, title: str, pairs: Sequence[Pair]) -> None:
    """A section of pictures, ``ACROSS`` pairs in a row."""
    if not pairs:
        return
    page.title(title)
    for first in range(0, len(pairs), ACROSS):
        page.put(*map(_pair, pairs[first : first + ACROSS]), gap=GAP)
        page.space(16)


def _pair(pair: Pair) -> Image.Image:
    sheet = Sheet((INNER - (ACROSS - 1) * GAP) // ACROSS)
    cell = min(CELL, (sheet.width - SPLIT) // 2)
    sheet.text("before", SMALL, FAINT)
    sheet.y = 0
    sheet.text("after", SMALL, INK, x=cell + SPLIT)
    sheet.put(*(_fitted(image, cell) for image in (pair.before, pair.after)), gap=SPLIT)
    sheet.space(4)
    sheet.text(pair.caption, SMALL, INK, 2)
    return sheet.finished()


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """A picture of that width or, where it is upright, of that height, on paper as wide."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    cell = Image.new("RGB", (side, size[1]), PAPER)
    cell.paste(image.resize(size, Image.Resampling.LANCZOS), ((side - size[0]) // 2, 0))
    return cell


def _numbers(page: Sheet, rows: Sequence[tuple[str, str, str]]) -> None:
    if not rows:
        return
    page.title("In numbers")
    edges = (0, int(0.5 * page.width), int(0.75 * page.width), page.width)
    for row, colours in ((COLUMNS, (FAINT,) * 3), *((row, (INK, FAINT, INK)) for row in rows)):
        top = page.y
        heights = []
        for text, colour, left, right in zip(row, colours, edges, edges[1:], strict=False):
            page.y = top
            page.text(text, TEXT, colour, 2, left, right - left - 20)
            heights.append(page.y)
        page.y = max(heights) + 8
        page.rule()


def _facts(facts: Sequence[tuple[str, str]]) -> Image.Image:
    sheet = Sheet(INNER // 2 - GAP)
    sheet.title("What was measured")
    for what, value in facts:
        top = sheet.y
        sheet.text(what, TEXT, FAINT)
        sheet.y = top
        sheet.text(value, TEXT, INK, 5, 150)
        sheet.space(8)
    return sheet.finished()


def _untested(texts: Sequence[str]) -> Image.Image:
    sheet = Sheet(INNER // 2 - GAP)
    sheet.title("What this report did not test")
    for text in texts:
        top = sheet.y
        sheet.text("–", TEXT, FAINT)
        sheet.y = top
        sheet.text(text, TEXT, INK, 4, 34)
        sheet.space(8)
    return sheet.finished()
