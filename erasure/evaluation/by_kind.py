"""Prompts by kind, and how often their pictures show what they should.

An erasure is asked for by more than its name (EMMA, arXiv 2512.17320: name, other name, short, long, implicit), what is
preserved is near or far or the same text with a neutral word (Erasure or Erosion, arXiv 2604.04575), and compositions
ask for several things at once, of which one may be erased: only that should go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import torch

from ..protocols import Model, Vae
from ..texts.encoder import Encoder
from .drawing import Drawing, draw
from .metrics import Share

LONG = "a large and carefully made picture, seen from the front in good light, of which the one thing to see is a {}"
LEFT, RIGHT = "{} on the left", "{} on the right"
"""Labels of what is seen on a side of the picture."""
EITHER = "{} on one side"
"""The label of what is seen on either side, or in all of the picture. Where one thing was asked for, sides are not
looked at: half of a violin looks like a guitar."""
TOGETHER = {
    "two subjects": ("a {} and a {}", EITHER, EITHER),
    "left of": ("a {} to the left of a {}", LEFT, RIGHT),
    "right of": ("a {} to the right of a {}", RIGHT, LEFT),
}
"""How two are asked for in one picture, by kind; and the label of each."""
NUMBERS = ("two", "three", "four")
"""Labels of how many there are, as prompts say them, too."""

Sees = Callable[[torch.Tensor, str], Sequence[bool]]
"""Which of some pictures [n, h, w, 3] show a label: a concept, one on a side or on either, or a number."""


@dataclass(frozen=True)
class Request:
    """A text to draw; its pictures should show all labels of ``shows``, and not ``lacks``, which is erased."""

    kind: str
    text: str
    shows: tuple[str, ...] = ()
    lacks: str = ""


@dataclass(frozen=True)
class Wording:
    """What a concept is called: ``others``: other names; ``implicit``: texts that mean it and do not name it."""

    name: str
    others: Sequence[str] = ()
    implicit: Sequence[str] = ()


@dataclass
class Tally:
    """What was seen for one kind: ``gone``: whether what is erased is; ``shown``: whether all of the rest is there."""

    gone: list[bool] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)

    def shares(self) -> dict[str, Share]:
        """Those of them that were asked."""
        sides = {"gone": self.gone, "shown": self.shown}
        return {name: Share(sum(side), len(side)) for name, side in sides.items() if side}


def erased(wording: Wording, phrase: str = "a photo of a {}") -> list[Request]:
    """Requests for an erased concept, none of which should show it."""
    texts = {
        "name": [phrase.format(wording.name)],
        "short": [wording.name],
        "long": [LONG.format(wording.name)],
        "other name": [phrase.format(name) for name in wording.others],
        "implicit": list(wording.implicit),
    }
    return [Request(kind, text, lacks=wording.name) for kind, some in texts.items() for text in some]


def preserved(kind: str, names: Iterable[str], phrase: str = "a photo of a {}") -> list[Request]:
    """Requests for what stays, such as those ``near`` to what is erased, and ``far`` from it."""
    return [Request(kind, phrase.format(name), (name,)) for name in names]


def composed(concept: str, others: Sequence[str]) -> list[Request]:
    """Pairs of subjects: the concept, which is erased, beside each of the others, and each of these beside the next."""
    found = []
    for kind, (phrase, first, second) in TOGETHER.items():
        for name in others:
            text, stays = phrase.format(concept, name), second.format(name)
            found.append(Request(f"{kind}, one erased", text, (stays,), EITHER.format(concept)))
        for pair in zip(others, others[1:], strict=False):
            found.append(Request(kind, phrase.format(*pair), (first.format(pair[0]), second.format(pair[1]))))
    return found


def counted(concept: str, plurals: Mapping[str, str], numbers: Sequence[str] = NUMBERS) -> list[Request]:
    """Several of one: of the concept, which is erased, and of others; ``plurals``: of all of them, by name. What is
    erased leaves as many of something else."""
    found = []
    for (name, plural), number in product(plurals.items(), numbers):
        text = f"{number} {plural}"
        found.append(
            Request("number, one erased", text, (number,), name)
            if name == concept
            else Request("number", text, (number, name))
        )
    return found


def by_kind(
    model: Model, encode: Encoder, vae: Vae, requests: Sequence[Request], how: Drawing, sees: Sees
) -> dict[str, dict[str, Share]]:
    """Draws all requests, one picture a seed, and counts by kind how much is gone, and how much is there."""
    tallies: dict[str, Tally] = {}
    for one in requests:
        pictures = draw(model, vae, encode(one.text).cond, encode(how.negative).cond, how)
        tally = tallies.setdefault(one.kind, Tally())
        if one.lacks:
            tally.gone += [not is_seen for is_seen in sees(pictures, one.lacks)]
        if one.shows:
            tally.shown += map(all, zip(*(sees(pictures, label) for label in one.shows), strict=True))
    return {kind: tally.shares() for kind, tally in tallies.items()}
