"""Lay pictures out in a labelled grid. Runs where Pillow is: ``python3 scripts/run.py scripts.sheet SPECIFICATION``."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER = (24, 24, 28), (110, 110, 118), (255, 255, 255)
GAP = 4


def grid(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[bytes]],
    cell: int = 128,
    title: str = "",
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """Pictures (files' bytes) in rows and columns, ``cell`` pixels wide, labels left and above.

    A column with an empty label belongs to the label before it. ``size`` centres the sheet on a page of that size.
    """
    size_of_text = max(14, cell // 8)
    font = ImageFont.load_default(size_of_text)
    left = max(int(font.getlength(label)) for label in rows) + 4 * GAP
    line = int(size_of_text * 1.6)
    top = line * (2 if title else 1) + GAP
    width, height = left + len(columns) * (cell + GAP), top + len(rows) * (cell + GAP)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((width / 2, line / 2), title, INK, font, anchor="mm")
    for first, label, span in _spans(columns):
        x = left + first * (cell + GAP) + (span * (cell + GAP) - GAP) / 2
        draw.text((x, top - line / 2), label, FAINT if title else INK, font, anchor="mm")
    for r, label in enumerate(rows):
        y = top + r * (cell + GAP)
        draw.text((left - 2 * GAP, y + cell / 2), label, INK, font, anchor="rm")
        for c, data in enumerate(cells[r]):
            sheet.paste(_fitted(data, cell), (left + c * (cell + GAP), y))
    return sheet if size is None else _centred(sheet, size)


def square(columns: Sequence[str], cells: Sequence[Sequence[bytes]], caption: str, edge: int) -> Image.Image:
    """A square of ``edge`` pixels: rows of pictures (files' bytes) as large as fit, labels above, a caption below."""
    above, below = 40, 32
    page = Image.new("RGB", (edge, edge), PAPER)
    draw = ImageDraw.Draw(page)
    cell = min((edge - GAP) // len(columns), (edge - above - below) // len(cells)) - GAP
    left = (edge - len(columns) * (cell + GAP) + GAP) // 2
    top = above + (edge - above - below - len(cells) * (cell + GAP) + GAP) // 2
    for c, label in enumerate(columns):
        place = (left + c * (cell + GAP) + cell / 2, top - above / 2)
        draw.text(place, label, INK, ImageFont.load_default(26), anchor="mm")
        for r, row in enumerate(cells):
            page.paste(_fitted(row[c], cell), (left + c * (cell + GAP), top + r * (cell + GAP)))
    draw.text((edge / 2, edge - below / 2), caption, FAINT, ImageFont.load_default(18), anchor="mm")
    return page


def _spans(columns: Sequence[str]) -> list[tuple[int, str, int]]:
    """(first column, label, number of columns) of every label."""
    starts = [i for i, label in enumerate(columns) if label or i == 0]
    ends = [*starts[1:], len(columns)]
    return [(start, columns[start], end - start) for start, end in zip(starts, ends, strict=True)]


def _fitted(data: bytes, cell: int) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB").resize((cell, cell), Image.Resampling.LANCZOS)


def _centred(sheet: Image.Image, size: tuple[int, int]) -> Image.Image:
    scale = min(size[0] / sheet.width, size[1] / sheet.height, 1.0)
    fitted = sheet.resize((int(sheet.width * scale), int(sheet.height * scale)), Image.Resampling.LANCZOS)
    page = Image.new("RGB", size, PAPER)
    page.paste(fitted, ((size[0] - fitted.width) // 2, (size[1] - fitted.height) // 2))
    return page


def main() -> None:
    """The grid of a JSON file: rows, columns, cells (paths of pictures), cell, title, out."""
    specification = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    out = specification.pop("out")
    specification["cells"] = [[Path(path).read_bytes() for path in row] for row in specification["cells"]]
    grid(**specification).save(out)


if __name__ == "__main__":
    main()
