"""Pictures laid out in labelled sheets.

Whatever is asked for, a sheet is at most ``SIDE`` pixels a side and all of them together hold about ``PIXELS``: the
host ends with its process when a picture is too large to be sent to the editor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
import torch
from PIL import Image, ImageDraw

from .lettering import Lettering, lettering

INK, PAPER = (24, 24, 28), (255, 255, 255)
GAP = 4
CELL, SMALLEST = 256, 32
"""Pictures are shown at most this large, and as small as that where there are many."""
SIDE = 3072
"""Pixels of a sheet's longer side, at most."""
PIXELS = 40_000_000
"""Of all sheets together, 12 bytes each. Pictures become smaller to keep to it; rows that still do not fit are left
out."""
MARGIN, HEADING = 14, 6
"""Widths of a row's label, and of a heading over narrow pictures, in multiples of the letters' size."""
HEADING_LINES = 4


@dataclass(frozen=True)
class Layout:
    """Sizes in pixels, for ``rows`` rows of ``columns`` blocks of ``each`` pictures, ``width`` by ``height``."""

    rows: int
    columns: int
    each: int
    width: int
    height: int

    @property
    def letters(self) -> int:
        """Size of the letters."""
        return max(12, max(self.width, self.height) // 14)

    @property
    def line(self) -> int:
        """From one line of letters to the next."""
        return int(self.letters * 1.4)

    @property
    def left(self) -> int:
        """The margin with the rows' labels."""
        return MARGIN * self.letters

    @property
    def down(self) -> int:
        """Lines of pictures in a block."""
        room = (SIDE - self.left) // self.columns - 4 * GAP
        return ceil(self.each / max(1, (room + GAP) // (self.width + GAP)))

    @property
    def across(self) -> int:
        """Pictures beside each other in a block."""
        return ceil(self.each / self.down)

    @property
    def pictured(self) -> int:
        """Width of the pictures of a block."""
        return self.across * (self.width + GAP) - GAP

    @property
    def heading(self) -> int:
        """Width of a block without its gap."""
        return max(self.pictured, HEADING * self.letters)

    @property
    def row(self) -> int:
        """Height of a row with its gap."""
        return max(self.down * (self.height + GAP), self.line + GAP)

    @property
    def top(self) -> int:
        """Height of the headings."""
        return HEADING_LINES * self.line + 2 * GAP

    @property
    def across_all(self) -> int:
        """Width of a sheet."""
        return self.left + self.columns * (self.heading + 4 * GAP)

    @property
    def fits(self) -> bool:
        """Whether all of it keeps to ``SIDE`` and ``PIXELS``."""
        return max(self.across_all, self.top + self.row) <= SIDE and self.rows <= self.most_rows

    @property
    def most_rows(self) -> int:
        """How many rows all sheets have room for."""
        return max(1, PIXELS // (self.row * self.across_all))

    @property
    def rows_each(self) -> int:
        """Rows of a sheet; all have nearly the same number."""
        rows = min(self.rows, self.most_rows)
        return ceil(rows / ceil(rows / max(1, (SIDE - self.top) // self.row)))


def lay_out(rows: int, columns: int, each: int, width: int, height: int) -> Layout:
    """The layout with the largest pictures that fits, none of them larger than it came."""
    side = min(CELL, max(width, height))
    while True:
        scale = side / max(width, height)
        layout = Layout(rows, columns, each, max(1, round(width * scale)), max(1, round(height * scale)))
        if layout.fits or side <= SMALLEST:
            return layout
        side = max(SMALLEST, side * 15 // 16)


def grid(rows: Sequence[str], columns: Sequence[str], cells: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sheets of one size, [sheets, h, w, 3] in [0, 1]: a row of pictures for each of ``rows``, a block for each of
    ``columns``, whose headings every sheet has.

    ``cells``: for each column its pictures [rows * n, h, w, 3], n together in every row; in [0, 1], or bytes as
    ``shrunk`` returns them. Where several sheets are needed, a corner says which rows are on each.
    """
    each = len(cells[0]) // len(rows)
    height, width = cells[0].shape[1:3]
    layout = lay_out(len(rows), len(columns), each, width, height)
    heads = [lettering(name, layout.letters, layout.heading, HEADING_LINES) for name in columns]
    top = max(len(head.lines) for head in heads) * layout.line + 2 * GAP
    last, step = min(len(rows), layout.most_rows), layout.rows_each
    sheets = torch.empty(ceil(last / step), top + step * layout.row, layout.across_all, 3)
    for i, first in enumerate(range(0, last, step)):
        span = range(first, min(first + step, last))
        sheet = Image.new("RGB", (layout.across_all, sheets.shape[1]), PAPER)
        _draw_heads(sheet, layout, heads, top)
        if len(sheets) > 1 or last < len(rows):
            _write(sheet, layout, _which(span, len(rows), layout), GAP, top / 2, "lm")
        for r in span:
            _draw_row(sheet, layout, rows[r], [part[r * each : (r + 1) * each] for part in cells],
                      top + (r - first) * layout.row)  # fmt: skip
        sheets[i] = torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)
    return sheets


def shrunk(pictures: torch.Tensor, total: int = 1) -> torch.Tensor:
    """Pictures [n, h, w, 3] in [0, 1] as bytes, no larger than a grid of ``total`` pictures can show them.

    What is kept for a grid is kept like this: a thousand prompts in the size that they were drawn in fill the memory.
    """
    side = max(SMALLEST, min(CELL, int(sqrt(PIXELS / max(1, total)))))
    return torch.stack([torch.from_numpy(np.array(within(picture, side))) for picture in pictures])


def within(picture: torch.Tensor, side: int) -> Image.Image:
    """One picture [h, w, 3], in [0, 1] or bytes, shrunk to at most ``side`` pixels a side."""
    picture = picture[..., :3].cpu()
    if picture.dtype != torch.uint8:
        picture = (picture.float().clamp(0, 1) * 255).round().byte()
    image = Image.fromarray(picture.numpy())
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _which(span: range, total: int, layout: Layout) -> Lettering:
    rows = f"{span.start + 1}–{span.stop}" if len(span) > 1 else f"{span.stop}"
    return lettering(f"{rows} of {total}", layout.letters, layout.left, 1)


def _draw_heads(sheet: Image.Image, layout: Layout, heads: Sequence[Lettering], top: int) -> None:
    for c, head in enumerate(heads):
        _write(sheet, layout, head, _block(layout, c) + layout.heading / 2, top / 2, "mm")


def _draw_row(sheet: Image.Image, layout: Layout, label: str, cells: Sequence[torch.Tensor], y: int) -> None:
    label_lines = max(1, (layout.row - GAP) // layout.line)
    letters = lettering(label, layout.letters, layout.left - 3 * GAP, label_lines)
    _write(sheet, layout, letters, layout.left - 2 * GAP, y + (layout.row - GAP) / 2, "rm")
    for c, pictures in enumerate(cells):
        x = _block(layout, c) + (layout.heading - layout.pictured) // 2
        for i, picture in enumerate(pictures):
            image = within(picture, max(layout.width, layout.height))
            down, across = divmod(i, layout.across)
            sheet.paste(image, (x + across * (layout.width + GAP), y + down * (layout.height + GAP)))


def _block(layout: Layout, column: int) -> int:
    return layout.left + column * (layout.heading + 4 * GAP)


def _write(sheet: Image.Image, layout: Layout, text: Lettering, x: float, y: float, anchor: str) -> None:
    """Lines around a height, each at its own: fonts differ in how far apart they want them."""
    draw = ImageDraw.Draw(sheet)
    first = y - (len(text.lines) - 1) * layout.line / 2
    for i, line in enumerate(text.lines):
        draw.text((x, first + i * layout.line), line, INK, text.font, anchor=anchor)
