"""Asking for a concept without its name, with the text encoder alone. Black box: the attacker never
queries the model.

Ring-A-Bell (Tsai et al., arXiv 2310.10012)::

    v = mean over phrases of E(phrase of the concept) - E(phrase of something else)
    min over tokens  || E(tokens) - (E(p) + eta v) ||^2

E: encodings [n, d] of a whole text, p: a text that does not speak of the concept. ``direction`` gives v, whose sum with
E(p) can be drawn from directly; ``search`` looks for the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch

from ...texts.encoder import Encoder, Text
from ...texts.names import others
from ...texts.phrases import GENERIC, PHRASINGS

NEUTRAL = ("a picture", "a photo of a shape")
"""Texts that speak of nothing in particular, which the direction is added to."""
CROSSOVER, MUTATION = 0.5, 0.25
"""Of the genetic search, as published."""


@dataclass(frozen=True)
class Search:
    """How much a token search may try: ``tried`` tokens of the vocabulary one by one, then ``generations`` of
    ``population`` texts of ``tokens`` tokens, made of the ``pool`` best ones."""

    tokens: int = 8
    tried: int = 2000
    pool: int = 64
    population: int = 40
    generations: int = 25
    seed: int = 0

    @property
    def texts(self) -> int:
        """So many texts are encoded."""
        return self.tried + self.population * (self.generations + 1)


def direction(encode: Encoder, names: Sequence[str]) -> torch.Tensor:
    """What speaking of the concept adds to a text's encodings, [n, d]: to all of them, or with an encoder that does not
    pad to the last n, as many as the shortest text has."""
    parts = [[p.format(word) for word, p in product(words, PHRASINGS)] for words in (names, others(GENERIC, names))]
    rows = [encode.rows(part) for part in parts]
    shortest = min(len(row) for part in [*rows, encode.rows(NEUTRAL)] for row in part)
    speaking, silent = (torch.stack([row[-shortest:] for row in part]).mean(0) for part in rows)
    return speaking - silent


def added(encode: Encoder, names: Sequence[str], strength: float) -> list[tuple[str, list]]:
    """Neutral texts with the concept's direction added: (what it is, the host's conditioning)."""
    v = strength * direction(encode, names)
    rows = {}
    for text, row in zip(NEUTRAL, encode.rows(NEUTRAL), strict=True):
        rows[text] = torch.cat([row[: len(row) - len(v)], row[len(row) - len(v) :] + v])
    return [(f"{text} + {strength:g} × its meaning", encode(text).reading(rows[text])) for text in NEUTRAL]


def search(
    encode: Encoder, names: Sequence[str], strength: float, how: Search, check: Callable[[], None] = lambda: None
) -> Text:
    """The text without any of the names' tokens whose encodings come nearest to E(p) + eta v."""
    return encode.of_tokens(search_tokens(encode, names, strength, how, check))


def search_tokens(
    encode: Encoder, names: Sequence[str], strength: float, how: Search, check: Callable[[], None] = lambda: None
) -> list[int]:
    """Its token numbers. ``check`` is called between generations and may raise, to stop."""
    target = encode.chunks(NEUTRAL[:1])[0] + strength * direction(encode, names)
    generator = torch.Generator().manual_seed(how.seed)
    forbidden = {token for name in names for token in encode.name_tokens(name)}
    vocabulary = torch.tensor([token for token in encode.vocabulary() if token not in forbidden])
    some = vocabulary[torch.randperm(len(vocabulary), generator=generator)[: how.tried]]
    # a token alone, as often as the text is long, so that what follows it can be judged, too
    rows = some[:, None].expand(-1, how.tokens)
    pool = some[distances(encode, rows, target, check).argsort()[: how.pool]]
    texts = pool[torch.randint(len(pool), (how.population, how.tokens), generator=generator)]
    alone = pool[: how.population // 2]
    texts[: len(alone)] = alone[:, None]
    apart = distances(encode, texts, target, check)
    for _ in range(how.generations):
        children = bred(texts, apart, pool, generator)
        both, each = torch.cat([texts, children]), torch.cat([apart, distances(encode, children, target, check)])
        best = each.argsort()[: how.population]
        texts, apart = both[best], each[best]
    return texts[apart.argmin()].tolist()


def distances(
    encode: Encoder, rows: torch.Tensor, target: torch.Tensor, check: Callable[[], None] = lambda: None
) -> torch.Tensor:
    """Mean squared distance of each row of token numbers, [rows, k], to a target [n, d]: [rows]."""
    out = []
    for part in encode.stream_tokens(rows.tolist()):
        check()
        out.append((part - target).square().mean((1, 2)).cpu())
    return torch.cat(out)


def bred(texts: torch.Tensor, apart: torch.Tensor, pool: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """As many new texts as there are: two good parents each, one cut, and some tokens from the pool.

    ``apart`` [texts]: how far each is from what is searched for.
    """
    count, length = texts.shape
    order = apart.argsort()
    good = texts[order[: max(2, count // 2)]]
    a, b = (good[torch.randint(len(good), (count,), generator=generator)] for _ in range(2))
    cut = torch.randint(length, (count, 1), generator=generator)
    crossed = torch.rand(count, 1, generator=generator) < CROSSOVER
    children = torch.where(crossed & (torch.arange(length) >= cut), b, a)
    new = pool[torch.randint(len(pool), (count, length), generator=generator)]
    return torch.where(torch.rand(count, length, generator=generator) < MUTATION, new, children)
