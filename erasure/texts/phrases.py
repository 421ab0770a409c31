"""Phrases: how a concept, and what is preserved, are said to a text encoder."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import cycle, islice, product

from .names import is_said, others
from .vocabulary import WORDS

GateTexts = tuple[list[str], list[str]]
"""Texts that speak of a concept, and texts that do not."""
PHRASINGS = (
    "{}",
    "a {}",
    "a photo of a {}",
    "a picture of a {}",
    "a painting in the style of {}",
    "an image of {}, detailed",
    "one {}",
)
"""Ways to speak of a concept, which the gate and the recommended training see; any concept must fit most of them."""
IN_CONTEXT = ("{kept} {concept}", "{concept}, {kept}", "a {kept} {concept}", "a {concept} and {kept}")
"""How the concept is put beside a preserved text; the neutral phrase is the kept text alone."""
OF_TWO = (
    "a {} by {}", "{}, {}", "a photo of a {} and a {}", "a {} with {}", "{} {}",
    "a picture of a {} in the style of {}", "a {} drawn by {} on a sunny day", "{} and {}, detailed",
)  # fmt: skip
"""Ways to say two common words in one prompt."""
GENERIC = ("person", "dog", "house", "tree", "car", "picture", "shape", "landscape")
"""What a gate takes for other things in any case, so that it can be fitted without a preserve set."""


def say(template: str, word: str) -> str:
    """The phrase with a word, or with nothing, in the place of its ``{}``."""
    return " ".join(template.replace("{}", word).split())


def gate_texts(names: Sequence[str], preserve: Sequence[str]) -> tuple[list[str], list[str]]:
    """Texts that speak of the concept, and texts that do not."""
    kept = [*preserve, *others(GENERIC, names)]
    speaking = [p.format(name) for name, p in product(names, PHRASINGS)]
    speaking += [p.format(kept=text, concept=name) for name, text, p in product(names, kept, IN_CONTEXT)]
    silent = [""] + [p.format(text) for text, p in product(kept, PHRASINGS[:5])]
    pairs = [f"{a} {b}" for a, b in product(kept, kept) if a != b]
    return spread(speaking, 240), silent + spread(pairs, 400)


def of_common_words(names: Sequence[str], count: int = 200) -> list[str]:
    """About so many texts of two common words each, in phrases that prompts are made of; the same ones every time for
    the same names, and none that says one of these."""
    draw, words = random.Random(0), others(WORDS, names)
    pairs = (phrase.format(draw.choice(words), draw.choice(words)) for phrase in islice(cycle(OF_TWO), count))
    return [text for text in pairs if not any(is_said(name, text) for name in names)]


def spread(texts: list[str], count: int) -> list[str]:
    """At most about ``count`` of the texts, evenly taken."""
    return texts[:: max(1, len(texts) // count)]
