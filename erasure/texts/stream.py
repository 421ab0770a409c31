"""Which of a CLIP's tokenizers a network's text comes from, and how it frames what is written.

A CLIP of the host may hold several text encoders. Some frame a text in a template, and may strip a part of it again;
some pad it. So it is seen from the tokens of a few texts what is frame and what is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

CLIPS = ("l", "g", "h")
"""The host's names of OpenAI's and LAION's text encoders. A CLIP of these alone gives one row for each token."""
FIRST = ("t5xxl", "umt5xxl", "llama")
"""Names of text encoders whose rows are the context, whatever else is there; else it is the first one's."""
BATCHED = ({"t5xxl"}, {"l", "t5xxl"}, {"umt5xxl"})
"""Sets of text encoders that read several texts of one length in one run; those of ``CLIPS`` do so, too."""
WORDS = ("thing", "7", "red")
"""Texts that have nothing in common but the frame."""


def present(names: Sequence[str], encoder: object) -> list[str]:
    """Of the names of a CLIP's tokenizers, those for which it holds a text encoder; all, where none can be told."""
    parts = [getattr(encoder, name, getattr(encoder, f"clip_{name}", None)) for name in names]
    return [name for name, part in zip(names, parts, strict=True) if part is not None] or list(names)


def context_stream(names: Sequence[str]) -> str:
    """Of the names of a CLIP's text encoders, that of the one whose rows are the context."""
    return next((name for name in FIRST if name in names), names[0])


def reads_batches(names: Sequence[str]) -> bool:
    """Whether a CLIP with text encoders of these names reads several texts of one length in one run."""
    return set(names) <= set(CLIPS) or set(names) in BATCHED


@dataclass(frozen=True)
class Frame:
    """``start``: how many tokens stand in front of what is written; ``end``: the token behind it, None for none."""

    start: int
    end: int | None

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Frame:
        """Of the token numbers of texts that have nothing in common but the frame; padding is left out."""
        rows = [_without_padding(row) for row in rows]
        start = alike(rows)
        behind = alike([row[start:][::-1] for row in rows])
        return cls(start, rows[0][len(rows[0]) - behind] if behind else None)

    def content(self, row: Sequence[int]) -> list[int]:
        """What is written, of a text's token numbers."""
        return list(takewhile(lambda number: number != self.end, row[self.start :]))


def alike(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    count = 0
    for together in zip(*rows, strict=False):
        if len(set(together)) > 1:
            break
        count += 1
    return count


def _without_padding(row: Sequence[int]) -> Sequence[int]:
    """Without all but the first of the equal tokens that a row ends with: the end of a text can be what pads it."""
    count = alike([row[::-1], [row[-1]] * len(row)])
    return row[: len(row) - count + 1]
