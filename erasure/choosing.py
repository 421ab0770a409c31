"""Which texts a closed-form erasure is about: what takes a concept's place, and what stays beside what is typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from .artifact import ErasureError
from .history import Erased, leading_to
from .host.subject import subject
from .host.weights import Weights
from .phrased import Texts, everyday_texts, plain_texts
from .protocols import Model
from .request import Request
from .targets import anchors_for, check_target
from .texts.encoder import Encoder
from .texts.names import EMBEDDING, is_said, listing, others
from .texts.neighbours import common_words, compared, fullest, nearness, of_their_kinds, unknown
from .texts.vocabulary import EVERYDAY

if TYPE_CHECKING:
    from .instant import Instant

TARGETS = ("nearest neighbour", "empty prompt", "anchor")
NEIGHBOURS = 8
"""How many of the nearest common words to preserve, besides the everyday ones, when the user names none."""
CHOICES = 5
"""How many other words to offer as a target, besides the one in use."""
MANY = 5
"""From so many erased names on, words are found to preserve beside those that were typed."""
LISTED = 400
"""The most preserved texts that are remembered on disk."""
READ = 4
"""By at most so many weights is seen how much a network reads of a word."""


def choose_texts(
    encode: Encoder, request: Request, settings: Instant, erased: Sequence[Erased] = (),
    reading: Sequence[torch.Tensor] = (),
) -> Texts:  # fmt: skip
    """What is erased, to what, and what stays; what the user leaves open is looked for in the text encoder.

    ``reading``: some of the weights that read the text, by which a target is chosen among the nearest common words.
    ``erased``: what was erased from the model before. It is neither aimed at nor preserved, and what has become a
    concept that is erased now moves on with it.
    """
    chained = leading_to(erased, request.texts)
    names = [*request.texts, *chained]
    before = [move.name for move in erased]
    taken = [*names, *before, *request.contexts]
    written = [text for text in encode.beside(names, request.preserve) if not text.startswith(EMBEDDING)]
    own = others(written, taken)
    nearest = nearness(encode, names, own or others(common_words(encode, names), taken)).apart(names)
    near = nearest.rows()
    aimed = _aimed(encode, near)
    # what is nearest to a name of which the encoder knows a part are words it does not know, which hold nothing
    near = [row if row[:1] == known[:1] else known for row, known in zip(near, aimed, strict=True)]
    preserve = list(request.preserve)
    if not preserve:
        alike = of_their_kinds(encode, names) if encode.is_large else []  # most of them have been read
        alike = [word for word in nearest.words if word in alike]  # without those that are one with a name
        preserve = others([*(word for row in near for word in row[:NEIGHBOURS]), *alike, *EVERYDAY], taken)
    if reading:
        aimed = fullest(encode, names, nearest, aimed, reading)
    targets = _targets(encode, request, aimed, settings)
    places = {name: targets[request.texts.index(root)] for name, root in chained.items()}
    rows = dict(zip(names, aimed, strict=True))
    targets += [_not_back(name, target, rows[name]) for name, target in places.items()]
    strengths = [name.strength for name in request.names] + [1.0] * (len(names) - len(request.names))
    held = list({move.name: move for move in erased if move.name not in names}.values())
    some = [row[: siblings_for(names)] for row in near]
    choices = [row[:CHOICES] for row in aimed]
    also: list[str] = []
    if request.preserve and len(names) + len(held) >= MANY:
        gone = [*names, *(move.name for move in held)]
        closest = nearness(encode, gone, others(common_words(encode, gone), taken)).apart(gone).rows()
        also = others([*(word for row in closest for word in row[:NEIGHBOURS]), *EVERYDAY], [*taken, *preserve])
    texts = Texts(
        names, targets, preserve, some, strengths, request.contexts, held, also, choices, bool(request.preserve)
    )
    if len(common := plain_texts(texts) if texts.given else everyday_texts(encode.is_large)) <= LISTED:
        encode.read_list(common)
    return texts


def beside_those_in_front(texts: Texts, preserved: Sequence[str]) -> Texts:
    """The texts with what erasures in front preserve, which this one preserves, too."""
    taken = [*texts.names, *(move.name for move in texts.held), *texts.contexts, *texts.kept, *texts.also]
    return replace(texts, also=[*texts.also, *others(preserved, taken)])


def reading(model: Model) -> list[torch.Tensor]:
    """Some of the weights [out, d] of a MODEL that read the text, as they were before anything was erased. On the CPU,
    as the encodings are: the host keeps a MODEL that has drawn on the GPU."""
    names, weights = subject(model).entry, Weights(model)
    return [weights[name].detach().float().cpu() for name in names[:: -(-len(names) // READ)]]


def _aimed(encode: Encoder, near: Sequence[Sequence[str]]) -> list[list[str]]:
    """The nearest texts of each concept, without those in front that the text encoder does not know."""
    strange: set[str] = set()
    for start in range(0, max(map(len, near), default=0), NEIGHBOURS):
        lost = [row for row in near if strange.issuperset(row[:start])]
        if not lost:
            break
        words = dict.fromkeys(word for row in lost for word in row[start : start + NEIGHBOURS])
        strange |= set(unknown(encode, list(words), compared(encode)))
    return [[word for word in row if word not in strange] or list(row) for row in near]


def _targets(encode: Encoder, request: Request, near: Sequence[Sequence[str]], settings: Instant) -> list[str]:
    """What takes the place of each name of a request: what its line says, or what the settings say of all."""
    if settings.target == "anchor":
        targets = anchors_for(settings.anchor, request.texts)
    else:
        targets = [row[0] if settings.target == TARGETS[0] and row else "" for row in near[: len(request.names)]]
        pairs = zip(request.names, targets, strict=True)
        if settings.target == TARGETS[0] and (lost := [n.text for n, t in pairs if n.target is None and not t]):
            raise ErasureError(
                f"No common word is left to take the place of {listing(lost, 'concept', 'concepts')}: erase fewer at "
                "once, or say in each line what takes its place, 'name -> target'."
            )
    targets = [t if name.target is None else name.target for name, t in zip(request.names, targets, strict=True)]
    for name, target in zip(request.names, targets, strict=True):
        if name.target:
            check_target(target, [name.text])
        if target:
            encode.name_tokens(target)  # refuses what the encoder cannot read, as a missing embedding
    return targets


def _not_back(name: str, target: str, near: Sequence[str]) -> str:
    """What takes the place of a name that moves on with what it became: the same as of that, or the nearest text where
    that says the name, which would be back; nothing where there is none."""
    return next(iter(near), "") if is_said(name, target) else target


def siblings_for(names: Sequence[str]) -> int:
    """So many of its neighbours are preserved in a concept's own phrases: fewer of them with many concepts."""
    return min(NEIGHBOURS - 2, 12 // len(names))
