"""The texts that a training learns on: those that say the concept, those that stay, and those it chooses among."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import torch

from .. import only_in
from ..history import erased_from, leading_to
from ..protocols import Model
from ..request import Request
from ..targets import anchors_for
from ..texts.encoder import Encoder
from ..texts.names import Name
from ..texts.phrases import IN_CONTEXT, PHRASINGS, say
from .pool import Phrase
from .settings import Settings


def with_names_in_front(request: Request, model: Model) -> Request:
    """The request with names that were erased from the model before and became one of its names: they go with it."""
    chained = leading_to(erased_from(model), request.texts)
    targets = {name.text: name.target for name in request.names}
    return replace(request, names=[*request.names, *(Name(text, targets[root]) for text, root in chained.items())])


def anchors_of(request: Request, near: Sequence[Sequence[str]], settings: Settings) -> dict[str, str | None]:
    """The text that takes each name's place, if any: what its line says, the user's anchor, or the nearest of all."""
    texts: list[str | None] = [row[0] if settings.target == "nearest neighbour" else None for row in near]
    if settings.target == "anchor":
        texts = list(anchors_for(settings.anchor, request.texts))
    if any(name.target is not None for name in request.names):
        texts = [row[0] if text is None else text for text, row in zip(texts, near, strict=True)]
    pairs = zip(request.names, texts, strict=True)
    return {name.text: text if name.target is None else name.target for name, text in pairs}


def phrases_of(
    encode: Encoder, anchors: Mapping[str, str | None], kept: Sequence[str], settings: Settings,
    contexts: Sequence[str] = (),
) -> list[Phrase]:  # fmt: skip
    """The texts that losses speak of: bare names as in the paper, or also in phrasings and beside kept texts; with
    ``contexts``, names beside one of these alone."""
    names = list(anchors)

    def phrase(template: str, neutral: str, name: str) -> Phrase:
        anchor = anchors[name]
        replaced = None if anchor is None else encode(say(template, anchor))
        return Phrase(encode(say(template, name)), encode(neutral), replaced, name, template)

    if contexts:
        patterns = product(only_in.patterns(kept), contexts, names)
        return [phrase(p.format(concept="{}", kept=context), context, name) for p, context, name in patterns]
    if not settings.in_context:
        return [phrase("{}", "", name) for name in names]
    plain = [phrase(p, "", name) for name, p in product(names, PHRASINGS)]
    beside = [
        phrase(template.format(concept="{}", kept=text), text, name)
        for name, text, template in product(names, kept, IN_CONTEXT)
    ]
    return plain * max(1, len(beside) // len(plain)) + beside


def preserved_texts(encode: Encoder, kept: Sequence[str], more: Sequence[Sequence[str]] = ()) -> list:
    """The empty prompt, and the preserve set in phrasings and in pairs; ``more`` lists of texts, too."""
    texts = [p.format(text) for text, p in product(kept, PHRASINGS[:4])]
    texts += [f"{a} {b}" for a, b in product(kept, kept) if a != b][:400]
    texts += [text for part in more for text in part]
    return [encode("")] * max(1, len(texts) // 10) + [encode(text) for text in texts]


def from_the_name_on(encode: Encoder, names: Sequence[str], count: int) -> torch.Tensor:
    """The encodings [count, d] of the names and of what follows them, which carries the concept, too."""
    each = -(-count // len(names))
    rows = [encode(name).context[0, encode.place("{}", name).start :][:each] for name in names]
    return torch.cat(rows)[:count]
