"""Filler to put in front of phrases: encodings depend on what stands before a word and on how far back it stands."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .concepts import ROOM, Encoder, others
from .vocabulary import WORDS

TAGS = (
    "hd", "4k", "good quality", "high resolution", "beautiful", "stunning", "detailed", "realistic", "official art",
    "soft lighting", "close up", "wallpaper", "very aesthetic", "elegant", "dramatic", "artstation", "sharp", "perfect",
    "uhd", "dslr", "35mm", "unreal engine", "best", "amazing", "clean lines", "simple", "from above", "outdoors",
)  # fmt: skip
"""Things that prompts begin with, whatever they are about."""
WAYS = (", ", " ", " and a ")
"""What filler is joined by: tags, loose words, a long sentence."""
SPREAD = 0.6180339887498949
"""The golden ratio's fractional part: its multiples fill (0, 1) evenly, however many there are."""


def behind(encode: Encoder, templates: Sequence[str], names: Sequence[str], room: int = ROOM) -> list[str]:
    """The templates, each behind another filler, from one that is short to one that fills what is read at once.

    ``names``: what no filler may say. ``room``: tokens to leave for the template and what is put into it.
    """
    words = others((*TAGS, *WORDS), names)
    blank = set(encode.tokens(""))
    most = len(encode.tokens("")) - 2 - room
    sizes = {word: sum(token not in blank for token in encode.tokens(word)) for word in words}
    return [_filled(template, i, words, sizes, most) for i, template in enumerate(templates)]


def _filled(template: str, number: int, words: Sequence[str], sizes: dict[str, int], most: int) -> str:
    rng, way = random.Random(number), WAYS[number % len(WAYS)]
    goal, left = 1 + (number + 1) * SPREAD % 1 * most, []
    count = len(way.split())
    for word in rng.sample(words, min(len(words), most)):
        if (goal := goal - sizes[word] - count) < 0:
            break
        left.append(word)
    return way.join([*left, template])
