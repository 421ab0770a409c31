"""Pictures laid out in a labelled grid."""

from __future__ import annotations

from collections.abc import Sequence

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
    labels = [_lines(row) for row in rows]
    left = max(int(font.getlength(text)) for label in labels for text in label) + 4 * GAP
    block = each * (w + GAP) + 3 * GAP
    sheet = Image.new("RGB", (left + len(columns) * block, line + 2 * GAP + len(rows) * (h + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for c, (name, pictures) in enumerate(zip(columns, cells, strict=True)):
        x = left + c * block
        draw.text((x + (block - 4 * GAP) / 2, line / 2 + GAP), name, INK, font, anchor="mm")
        for i, picture in enumerate(pictures):
            place = (x + i % each * (w + GAP), line + 2 * GAP + i // each * (h + GAP))
            sheet.paste(_image(picture).resize((w, h), Image.Resampling.LANCZOS), place)
    for r, label in enumerate(labels):
        y = line + 2 * GAP + r * (h + GAP) + h / 2
        draw.multiline_text((left - 2 * GAP, y), "\n".join(label), INK, font, anchor="rm", align="right")
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)[None]


def _image(picture: torch.Tensor) -> Image.Image:
    return Image.fromarray((picture[..., :3].float().clamp(0, 1) * 255).round().byte().cpu().numpy())


def _lines(text: str) -> list[str]:
    """A text broken between words into lines of about ``WIDEST`` characters."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= WIDEST:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
