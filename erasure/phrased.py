"""What is said of the concepts of a closed-form erasure and of what stays: phrases for a text encoder to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, product

from .history import Erased
from .texts.names import is_said, others
from .texts.phrases import GENERIC, IN_CONTEXT, PHRASINGS, say, spread
from .texts.vocabulary import EVERYDAY

MOVED = 400
"""The most phrases that are moved, whatever the number of concepts (but at least one for each)."""
BESIDE = 12
"""How many everyday texts a concept is said beside, when the user names nothing to preserve."""
APART = 8
"""How many of the texts behind it in the list each everyday text is paired with."""
IN_TURN = 3
"""Each phrase is used with one in ``IN_TURN`` of the concepts' neighbours."""


@dataclass(frozen=True)
class Texts:
    """The concepts' names, the text that takes the place of each (empty: nothing), and what is preserved.

    ``near``: preserved texts that are nearest to each concept and most easily pulled along. ``strengths``: how much of
    its way each concept is moved; none for all of it. ``contexts``: texts beside which alone names are moved; none for
    everywhere. ``held``: what was erased before, which stays so. ``also``: texts that are preserved beside ``kept``:
    what erasures in front preserve, and words that are found, where so many names are erased that the given texts are
    too few. ``choices``: what each concept could become, the nearest word first. ``given``: whether it was said what is
    preserved; else these are words close to the concepts, and everyday ones. ``restoring``: whether what erasures in
    front have moved besides their concepts is put back.
    """

    names: Sequence[str]
    targets: Sequence[str]
    kept: Sequence[str]
    near: Sequence[Sequence[str]]
    strengths: Sequence[float] = ()
    contexts: Sequence[str] = ()
    held: Sequence[Erased] = ()
    also: Sequence[str] = ()
    choices: Sequence[Sequence[str]] = ()
    given: bool = True
    restoring: bool = True


def phrases(texts: Texts) -> list[str]:
    """Templates that speak of a concept alone and beside preserved texts; fewer of them for many concepts."""
    beside = [p.format(concept="{}", kept=text) for text, p in product(texts.kept, IN_CONTEXT)]
    if not texts.given:
        everyday = [text for text in texts.kept if text in EVERYDAY] or texts.kept
        some = [everyday[i * len(everyday) // BESIDE] for i in range(BESIDE if everyday else 0)]
        beside = [p.format(concept="{}", kept=text) for text, p in zip(some, cycle(IN_CONTEXT), strict=False)]
    return [*PHRASINGS, *spread(beside, 64)][: max(1, MOVED // len(texts.names))]


def plain_texts(texts: Texts, pairs: int = 150, phrased: int = 5) -> list[str]:
    """The empty prompt, and preserved and generic texts in phrasings and in pairs.

    Preserved texts that say a concept themselves are said but for a little: more would keep the concept.
    """
    saying = [text for text in texts.kept if any(is_said(name, text) for name in texts.names)]
    kept = [*(text for text in texts.kept if text not in saying), *others(GENERIC, texts.names)]
    phrasings = PHRASINGS[: min(phrased, max(1, 500 // len(kept)))]
    apart = min(pairs // len(kept), len(kept) - 1)
    beside = [f"{a} {kept[(i + step) % len(kept)]}" for step in range(1, apart + 1) for i, a in enumerate(kept)]
    plain = [p.format(text) for text, p in product(kept, phrasings)]
    return ["", *plain, *beside, *(p.format(text) for text, p in product(saying, PHRASINGS[:1]))]


def found_texts(texts: Texts, few: bool) -> list[list[str]]:
    """What is said of preserved texts that were not given: everyday texts, the same for nearly every concept, and the
    words close to the concepts."""
    apart = [*texts.names, *(move.name for move in texts.held), *texts.contexts]
    everyday = [text for text in everyday_texts(few) if not any(is_said(name, text) for name in apart)]
    return [everyday, [say("a {}", text) for text in texts.kept if text not in EVERYDAY]]


@cache
def everyday_texts(few: bool = False) -> list[str]:
    """Everyday and generic texts in phrasings and in pairs, and the empty prompt; ``few`` of them in each."""
    count = len(EVERYDAY) + len(others(GENERIC, EVERYDAY))
    return plain_texts(Texts((), (), EVERYDAY, ()), (1 if few else APART) * count, 2 if few else 5)


def siblings(texts: Texts, templates: Sequence[str]) -> list[list[str]]:
    """For each preserved text nearest to the concepts, the concepts' own phrases said of it; some of them, in turn."""
    words = list(dict.fromkeys(word for row in texts.near for word in row))
    some = -(-len(words) // IN_TURN)
    said: dict[str, list[str]] = {}
    for i, template in enumerate(templates):
        for k in range(i * some, (i + 1) * some):
            word = words[k % len(words)]
            said.setdefault(word, []).append(say(template, word))
    return list(said.values())
