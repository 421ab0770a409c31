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
    rooms = [1 + (i + 1) * SPREAD % 1 * most for i in range(len(texts))]
    return [
        WAYS[i % len(WAYS)].join([*_filler(i, sizes, room), text])
        for i, (text, room) in enumerate(zip(texts, rooms, strict=True))
    ]


def alone(count: int, sizes: Mapping[str, int], most: int) -> list[str]:
    """So many fillers of ``most`` tokens with nothing behind them; every second one of tags alone, said again and
    again, as what fills a chunk of a long prompt."""
    tags = {word: size for word, size in sizes.items() if word in TAGS}
    return [
        WAYS[i % len(WAYS)].join(_filler(i, sizes if i % 2 else tags, most, turns=1 if i % 2 else 3))
        for i in range(count)
    ]


def _filler(number: int, sizes: Mapping[str, int], room: float, turns: int = 1) -> list[str]:
    """The filler of a number: words drawn by lot, as many as there is room for."""
    words = []
    drawn = list(sizes) * turns
    for word in random.Random(number).sample(drawn, len(drawn)):
        room -= sizes[word] + len(WAYS[number % len(WAYS)].split())
        if room < 0:
            break
        words.append(word)
    return words
