"""What is said of a picture: names, other names, keywords that do not name it, descriptions, the hand, the place."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import combinations

from toyworld.worlds.words import TAGS as PRAISE
from toyworld.worlds.words import WORDS as ALL_WORDS

from . import fetch
from .hands import HANDS
from .scenes import BACKGROUNDS, PHRASES, PLAIN
from .subjects import BY_NAME, KINDS, SUBJECTS, Subject
from .world import NUMBERS, Scene

DIGITS = ("1", "2", "3", "4")
PAIRS = (
    "{a} and {b}", "{a} next to {b}", "{a} left of {b}", "{b} right of {a}", "{a} on the left and {b} on the right",
    "{a} to the left of {b}", "{b} to the right of {a}",
)  # fmt: skip
BY = ("drawn by {}", "by {}", "in the style of {}", "{} style")
MEDIA = ("a drawing of {}", "a picture of {}", "an image of {}")
ALONE = ("a drawing {by}", "a picture {by}", "{by}")
"""Where only the hand is said."""


@dataclass(frozen=True)
class Caption:
    """A text, and what it says; whatever it leaves open is None."""

    text: str
    subjects: tuple[str, ...] = ()
    kind: str | None = None
    hand: str | None = None
    background: str | None = None
    number: int | None = None
    word: str | None = None
    """A common word that the picture does not show."""

    @property
    def labels(self) -> tuple[int, ...]:
        """An index for each of ``HEADS``, its size where nothing is said."""
        first, second = (*self.subjects, None, None)[:2]
        said = (first, second, self.kind, self.hand, self.background, self.number, self.word)
        return tuple(
            len(names) if value is None else names.index(value)
            for value, names in zip(said, HEADS.values(), strict=True)
        )


@cache
def tags() -> dict[str, list[str]]:
    """Subject -> what people file it under, as ``fetch`` wrote it down."""
    return json.loads(fetch.TAGS.read_text())


@cache
def _taken() -> frozenset[str]:
    return frozenset(name for subject in SUBJECTS for name in (subject.name, subject.plural, *subject.others))


@cache
def _keywords(name: str) -> tuple[str, ...]:
    """All keywords of a subject that name nothing that is drawn here."""
    subject = BY_NAME[name]
    words = dict.fromkeys([*subject.keywords, *tags()[name]])
    return tuple(word for word in words if word not in _taken() and not fetch.names(subject, word))


@cache
def implicit(name: str) -> tuple[tuple[str, ...], ...]:
    """Pairs and triples of keywords that mean this subject and no other, though none of them names it."""
    own = _keywords(name)
    others = [set(_keywords(subject.name)) for subject in SUBJECTS if subject.name != name]
    sets = [pair for size in (2, 3) for pair in combinations(own, size)]
    return tuple(pair for pair in sets if not any(set(pair) <= other for other in others))


SINGULAR = ("cactus", "octopus", "bus", "lupus", "omnibus", "ananas", "helianthus", "fungus", "compass")


def article(noun: str) -> str:
    """With "a" or "an", where the noun is not a plural."""
    if noun in _taken() and noun.endswith("s") and noun not in SINGULAR:
        return noun
    return f"{'an' if noun[0] in 'aeiou' and not noun.startswith('uni') else 'a'} {noun}"


def hand_names(name: str) -> tuple[str, ...]:
    """What a hand is called: by name, by surname, by both."""
    hand = next(hand for hand in HANDS if hand.name == name)
    return hand.name, hand.surname, f"{hand.name} {hand.surname}"


def _called(subject: Subject, rng: random.Random) -> str:
    return subject.name if rng.random() < 0.7 else rng.choice(subject.others)


def _one(subject: Subject, rng: random.Random) -> tuple[str, bool]:
    """How one subject is put, and whether the words mean the subject and not only its kind."""
    draw = rng.random()
    if draw < 0.46:
        return rng.choice((article(subject.name), article(subject.name), subject.name, _single(subject))), True
    if draw < 0.66:
        other = rng.choice(subject.others)
        return rng.choice((article(other), other)), True
    if draw < 0.84:
        words = list(rng.choice(implicit(subject.name)))
        rng.shuffle(words)
        return rng.choice((", ", " ")).join(words), True
    if draw < 0.92:
        return subject.description, True
    return article(subject.kind) if subject.kind != "food" else "food", False


def _single(subject: Subject) -> str:
    return subject.name if subject.plural == subject.name else f"one {subject.name}"


def content(scene: Scene, rng: random.Random) -> Caption:
    """What is said of the subjects alone."""
    subjects = [BY_NAME[name] for name in scene.subjects]
    first = subjects[0]
    if len(subjects) == 2:
        form, said = rng.choice(PAIRS), [article(_called(subject, rng)) for subject in subjects]
        return Caption(form.format(a=said[0], b=said[1]), scene.subjects)
    if scene.number > 1:
        number = rng.choice((NUMBERS[scene.number - 1],) * 3 + (DIGITS[scene.number - 1],))
        return Caption(f"{number} {first.plural}", scene.subjects, first.kind, number=scene.number)
    text, exact = _one(first, rng)
    return Caption(text, scene.subjects if exact else (), first.kind)


def hand_phrase(hand: str, rng: random.Random) -> str:
    name = rng.choice(hand_names(hand)[:1] * 3 + hand_names(hand)[1:])
    return rng.choice(BY).format(name)


def background_phrase(background: str, rng: random.Random) -> str:
    if background in PLAIN:
        return rng.choice((f"on a {background} background", f"{background} background"))
    return rng.choice(PHRASES[background])


def place(background: str) -> str:
    """The plain words for a background."""
    return f"on a {background} background" if background in PLAIN else PHRASES[background][0]


def full(scene: Scene) -> str:
    """A caption that says all of a scene of one subject."""
    first = BY_NAME[scene.subjects[0]]
    what = f"{NUMBERS[scene.number - 1]} {first.plural}" if scene.number > 1 else article(first.name)
    return f"{what} drawn by {scene.hand} {place(scene.background)}"


def unnamed(names: Iterable[str], seed: int) -> list[str]:
    """Subjects by keywords alone."""
    rng = random.Random(seed)
    return [", ".join(rng.choice(implicit(name))) for name in names]


def random_caption(scene: Scene, rng: random.Random) -> Caption:
    """A training caption: some are empty, some leave out the hand, the place or the subject."""
    draw = rng.random()
    if draw < 0.1:
        return Caption("")
    hand = scene.hand if rng.random() < 0.65 else None
    background = scene.background if rng.random() < 0.45 else None
    if draw < 0.13:
        by = hand_phrase(scene.hand, rng)
        return Caption(rng.choice(ALONE).format(by=by), hand=scene.hand)
    said = content(scene, rng)
    text = said.text if rng.random() < 0.8 else rng.choice(MEDIA).format(said.text)
    rest = [hand_phrase(hand, rng)] if hand else []
    rest += [background_phrase(background, rng)] if background else []
    rng.shuffle(rest)
    text = rng.choice((", ", " ")).join([text, *rest])
    word = None
    if rng.random() < 0.12:
        text, word = _around(text, rng)
    return Caption(text, said.subjects, said.kind, hand, background, said.number, word)


def _around(text: str, rng: random.Random) -> tuple[str, str | None]:
    """Words around a caption that change nothing."""
    if rng.random() < 0.5:
        return ", ".join([text, *rng.sample(PRAISE, rng.randrange(1, 3))]), None
    word = rng.choice(WORDS)
    return rng.choice((f"{text}, {word}", f"{word}, {text}")), word


def pieces() -> list[str]:
    """Phrases that together have every word of every caption."""
    out = [form.format(a="", b="", by="") for form in (*PAIRS, *ALONE)]
    out += [form.format("") for form in (*BY, *MEDIA)] + ["one an a food background on", *NUMBERS, *DIGITS, *KINDS]
    for subject in SUBJECTS:
        out += [subject.name, subject.plural, *subject.others, *_keywords(subject.name), subject.description]
    out += [" ".join((hand.name, hand.surname)) for hand in HANDS]
    out += [*BACKGROUNDS, *(phrase for phrases in PHRASES.values() for phrase in phrases), ", ", *PRAISE, *WORDS]
    return out


def _common() -> tuple[str, ...]:
    """Common words that no picture shows and no caption needs."""
    drawn = " ".join(
        text for s in SUBJECTS for text in (s.name, s.plural, *s.others, *s.keywords, s.description, *tags()[s.name])
    )
    used = {*drawn.split(), *drawn.replace(",", " ").split(), *BACKGROUNDS, *KINDS, "sand", "street", "woods"}
    return tuple(word for word in ALL_WORDS if word not in used and word.isascii())


WORDS = _common()
HEADS: dict[str, tuple] = {
    "subject": tuple(BY_NAME),
    "beside": tuple(BY_NAME),
    "kind": KINDS,
    "hand": tuple(hand.name for hand in HANDS),
    "background": BACKGROUNDS,
    "number": (1, 2, 3, 4),
    "word": WORDS,
}
"""What a caption can say, and its values."""
