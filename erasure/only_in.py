"""Erasing a concept only beside other texts: "hat" in pictures of cowboys, while every other hat stays.

Text encodings are contextual, so the tokens of "hat" behind "cowboy" are others than those of "hat" alone. What moves
are the encodings from where a phrase has said both; both by themselves, and the concept beside anything else, stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch

from .artifact import ErasureError
from .texts.encoder import Encoder
from .texts.phrases import IN_CONTEXT, PHRASINGS, GateTexts, say, spread
from .texts.pooled import Pooled

TOGETHER = (*IN_CONTEXT, "a photo of a {kept} {concept}", "a {kept} with a {concept}", "a {concept} on a {kept}")
"""How a concept is said beside the text that it is erased with."""
FARTHER = ("a {other} {concept} on a {kept}", "a {kept} and a {other} {concept}")
"""The same with another text between or before them."""

Aligned = Callable[[str, str, str], tuple[torch.Tensor, torch.Tensor]]


def patterns(others: Sequence[str]) -> list[str]:
    """Phrases with places for a concept and its context, some with one of the ``others`` between or before them."""
    return [*TOGETHER, *(pattern.replace("{other}", other) for other in others[:4] for pattern in FARTHER)]


def pairs(
    encode: Encoder | Pooled, aligned: Aligned, name: str, target: str, contexts: Sequence[str],
    others: Sequence[str] = (),
) -> list[tuple[torch.Tensor, torch.Tensor]]:  # fmt: skip
    """Encodings of phrases that say a concept and a context, from where both are said, and where they go, [n, d] each.

    ``aligned(template, name, target)`` gives them from the name on.
    """
    out = []
    for pattern, context in product(patterns(others), contexts):
        template = pattern.format(concept="{}", kept=context)
        if not encode.fitting([template], name, target):
            continue
        source, goal = aligned(template, name, target)
        there = encode.place(pattern.format(concept=name, kept="{}"), context).stop
        skipped = max(0, there - encode.place(template, name).stop)
        out.append((source[skipped:], goal[skipped:]))
    if not out:
        raise ErasureError("The text in 'only_in' is too long to be said beside the concept: say it in a few words.")
    return out


def staying(names: Sequence[str], contexts: Sequence[str], preserve: Sequence[str]) -> list[list[str]]:
    """For each concept and each context, phrases that say it without the other; they stay as they are."""
    plain = [[say(phrasing, text) for phrasing in PHRASINGS] for text in (*names, *contexts)]
    beside = [
        [pattern.format(concept=text, kept=other) for other, pattern in product(preserve, IN_CONTEXT)]
        for text in (*names, *contexts)
    ]
    return [alone + spread(others, 40) for alone, others in zip(plain, beside, strict=True)]


def gate_texts(names: Sequence[str], contexts: Sequence[str], preserve: Sequence[str]) -> GateTexts:
    """Texts that speak of a concept beside a context, and texts that say one of them without the other, or neither."""
    speaking = [
        pattern.format(concept=name, kept=context)
        for name, context, pattern in product(names, contexts, patterns(preserve))
    ]
    silent = [text for part in staying(names, contexts, preserve) for text in part]
    silent += [say(phrasing, text) for text, phrasing in product(preserve, PHRASINGS[:2])]
    return speaking, ["", *spread(silent, 400)]
