"""Pictures laid out in a labelled grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

INK, PAPER = (24, 24, 28), (255, 255, 255)
GAP = 4
CELL = 256
"""Pictures are shown at most this large."""
WIDEST = 28
"""Characters in a line of a label."""


def grid(rows: Sequence[str], columns: Sequence[str], cells: Sequence[torch.Tensor]) -> torch.Tensor:
    """One picture [1, h, w, 3] in [0, 1]: a row of pictures for each of ``rows``, a block for each of ``columns``.

    ``cells``: for each column its pictures [rows * n, h, w, 3], n beside each other in every row.
    """
    each = len(cells[0]) // len(rows)
    height, width = cells[0].shape[1:3]
    scale = min(1.0, CELL / max(height, width))
    h, w = round(height * scale), round(width * scale)
    size = max(12, h // 14)
    font, line = ImageFont.load_default(size), int(size * 1.4)
    labels = [_lines(row, lambda text: len(text) < WIDEST) for row in rows]
    left = max(int(font.getlength(text)) for label in labels for text in label) + 4 * GAP
    across = pictured = each * (w + GAP) - GAP
    heads = [_lines(name, lambda text: font.getlength(text) <= across) for name in columns]
    across = max(across, *(int(font.getlength(text)) for head in heads for text in head))
    block, top = across + 4 * GAP, max(map(len, heads)) * line + 2 * GAP
    sheet = Image.new("RGB", (left + len(columns) * block, top + len(rows) * (h + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for c, (head, pictures) in enumerate(zip(heads, cells, strict=True)):
        x = left + c * block
        draw.multiline_text((x + across / 2, top / 2), "\n".join(head), INK, font, anchor="mm", align="center")
        for i, picture in enumerate(pictures):
            place = (x + (across - pictured) // 2 + i % each * (w + GAP), top + i // each * (h + GAP))
            sheet.paste(_image(picture).resize((w, h), Image.Resampling.LANCZOS), place)
    for r, label in enumerate(labels):
        y = top + r * (h + GAP) + h / 2
        draw.multiline_text((left - 2 * GAP, y), "\n".join(label), INK, font, anchor="rm", align="right")
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)[None]


def _image(picture: torch.Tensor) -> Image.Image:
    return Image.fromarray((picture[..., :3].float().clamp(0, 1) * 255).round().byte().cpu().numpy())


def _lines(text: str, fits: Callable[[str], bool]) -> list[str]:
    """A text broken between words into lines that fit; a word that is too long by itself stays whole."""
    lines = [""]
    for word in text.split():
        if lines[-1] and not fits(f"{lines[-1]} {word}"):
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
