"""Filler to put in front of texts: encodings depend on what stands before a word and on how far back it stands."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from .vocabulary import WORDS

TAGS = (
    "hd", "4k", "good quality", "high resolution", "beautiful", "stunning", "detailed", "realistic", "official art",
    "soft lighting", "close up", "wallpaper", "very aesthetic", "elegant", "dramatic", "artstation", "sharp", "perfect",
    "uhd", "dslr", "35mm", "unreal engine", "best", "amazing", "clean lines", "simple", "from above", "outdoors",
)  # fmt: skip
"""Things that prompts begin with, whatever they are about; none of those that an attack or a benchmark asks behind."""
FILLER = (*TAGS, *WORDS)
WAYS = (", ", " ", " and a ")
"""What filler is joined by: tags, loose words, a long sentence."""
SPREAD = 0.6180339887498949
"""The golden ratio's fractional part: its multiples fill (0, 1) evenly, however many there are."""


def behind(texts: Sequence[str], sizes: Mapping[str, int], most: int) -> list[str]:
    """The texts, each behind another filler, from one that is short to one of ``most`` tokens.

    ``sizes``: the words of filler, and how many tokens each has. The same place in a list gets the same words, so that
    two lists differ in what they say and not in their filler.
    """
    return [_behind(text, i, sizes, most) for i, text in enumerate(texts)]


def _behind(text: str, number: int, sizes: Mapping[str, int], most: int) -> str:
    way, left = WAYS[number % len(WAYS)], []
    room = 1 + (number + 1) * SPREAD % 1 * most
    for word in random.Random(number).sample(list(sizes), len(sizes)):
        room -= sizes[word] + len(way.split())
        if room < 0:
            break
        left.append(word)
    return way.join([*left, text])
