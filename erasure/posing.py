"""From texts to the problem that a closed form solves: encodings that move, with where they go, and those that stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING

import torch

from . import only_in
from .closed_form.problem import Problem, together
from .closed_form.textmap import moment
from .phrased import MOVED, Texts, everyday_texts, found_texts, phrases, plain_texts, siblings
from .texts.encoder import Encoder, paired
from .texts.names import others
from .texts.phrases import say
from .texts.pooled import Pooled
from .texts.vocabulary import EVERYDAY, WORDS

if TYPE_CHECKING:
    from .instant import Instant

TOKENS = ("all in context", "last of the name")
HELD, FEW_HELD = 24, 8
"""In how many phrases a name is held that was erased before; few with a slow text encoder."""
MANY_BESIDE, FEW_BESIDE = 24, 4
"""How many common words a concept is said beside in the pooled text; few with a slow text encoder."""
SAMPLE = 20_000
"""About how many preserved encodings a method looks at one by one, where it does."""


def pose(
    encode: Encoder | Pooled, texts: Texts, weights: Mapping[str, torch.Tensor], settings: Instant,
    more: Sequence[str] = (),
) -> Problem:  # fmt: skip
    """The encodings that are to move, with where they go, and those that are to stay; ``more``: templates that move."""
    short = replace(texts, kept=encode.beside(texts.names, texts.kept))
    templates = ["{}"] if settings.tokens == TOKENS[1] else phrases(short)
    moved = list(zip(texts.names, texts.targets, strict=True))
    plain = [plain_texts(texts)] if texts.given else []
    found = texts.also if texts.given else [*texts.kept, *texts.also]
    if found or not texts.given:
        plain += [part for part in found_texts(replace(texts, kept=found), encode.is_large) if part]
    parts = [*plain, *siblings(texts, templates)]
    templates = [*templates, *more]
    if texts.contexts:
        parts += only_in.staying(texts.names, texts.contexts, short.kept)
    parts = [encode.some(part) for part in parts]
    count = sum(map(len, parts))
    strengths = texts.strengths or [1.0] * len(moved)
    some = templates[: held_in(len(moved) + len(texts.held), encode)]
    pairs = [*((pair, templates) for pair in moved), *(((move.name, move.target), some) for move in texts.held)]
    moving = [say(t, word) for pair, said in pairs for t in encode.fitting(said, *pair) for word in pair]
    with encode.telling([*moving, *(text for part in parts for text in part)]):
        encode.read(moving)
        moves = together(
            [
                _pairs(encode, templates, *pair, settings.tokens, s, texts.contexts)
                for pair, s in zip(moved, strengths, strict=True)
            ]
        )
        sums, kept = zip(*(preserved(encode, part, count) for part in parts), strict=True)
        held = {m: _pairs(encode, some, m.name, m.target, settings.tokens, m.strength or 0.0) for m in texts.held}
    near, empty = sums[len(plain) :], encode.rows([""])[0]
    front = [pair for move, pair in held.items() if move.strength is not None]
    still = [moment(source, 1 / len(source)) for move, (source, _) in held.items() if move.strength is None]
    return Problem(
        moves, len(moved), sum(sums), near, torch.cat(kept), empty, lambda: gram(weights),
        together(front) if front else None, len(front), torch.stack(still).sum(0) if still else None, len(still),
    )  # fmt: skip


def beside_common(texts: Texts, settings: Instant, few: bool) -> list[str]:
    """Templates that say a concept beside common words of all kinds, which the pooled text takes in with it; none where
    less than all that is said of it moves."""
    if texts.contexts or settings.tokens == TOKENS[1]:
        return []
    count = max(1, (FEW_BESIDE if few else MANY_BESIDE) // len(texts.names))
    words = others(WORDS[:: -(-len(WORDS) // count)], [*texts.names, *texts.targets])
    return [phrase.format(word) for phrase, word in zip(cycle(("{{}} {}", "{}, {{}}")), words, strict=False)]


def held_in(names: int, encode: Encoder | Pooled) -> int:
    """In how many templates each of the names that were erased before is held; fewer where reading is slow."""
    few = encode.is_large or isinstance(encode, Pooled)
    return max(1, min(FEW_HELD if few else HELD, MOVED // names))


def preserved(encode: Encoder | Pooled, texts: Sequence[str], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What texts add to the mean of p p^T over the encodings of ``count`` texts, [d, d], and some of their encodings:
    about ``SAMPLE`` of all ``count``.
    """
    total, some = torch.tensor(0.0), []
    longest = len(encode.rows([""])[0])
    known = None
    if texts == everyday_texts(encode.is_large):
        known = encode.sum_of_list("moment", texts, partial(moments, longest=longest))
    for rows in encode.stream(texts):
        for length, tokens in by_length(rows).items():
            if known is None:
                total = total + moment(tokens, 1 / (count * length))
            some.append(tokens[:: 1 + count * length // SAMPLE])
    return total if known is None else known / (count * longest), torch.cat(some)


def by_length(rows: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
    """Encodings [n, d] of texts as one tensor [texts * n, d] for each n."""
    groups: dict[int, list[torch.Tensor]] = {}
    for row in rows:
        groups.setdefault(len(row), []).append(row)
    return {length: torch.cat(group) for length, group in groups.items()}


def moments(rows: Sequence[torch.Tensor], longest: int) -> torch.Tensor:
    """The sum of x x^T over the encodings [n, d] of texts, as if each text had ``longest`` of them: [d, d]."""
    return sum((moment(tokens, longest / length) for length, tokens in by_length(rows).items()), torch.tensor(0.0))


def _pairs(
    encode: Encoder | Pooled,
    templates: Sequence[str],
    name: str,
    target: str,
    tokens: str,
    strength: float = 1.0,
    contexts: Sequence[str] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodings of one concept, or of it beside ``contexts``, and where they go, [n, d] each: so much of the way."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for part in encode.parts:
        if contexts:
            found += only_in.pairs(part, partial(aligned, part), name, target, contexts, EVERYDAY)
        else:
            found += [aligned(part, template, name, target) for template in part.fitting(templates, name, target)]
    if tokens == TOKENS[1]:
        found = [(source[:1], goal[:1]) for source, goal in found]
    source, goal = (torch.cat([pair[side] for pair in found]) for side in (0, 1))
    return source, goal if strength == 1 else torch.lerp(source, goal, strength)


def aligned(encode: Encoder | Pooled, template: str, name: str, replacement: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodings of a phrase from the name's last token on, beside those of the same phrase with the name replaced.

    Everything after the name is paired token by token, because contextual encodings spread a concept over what follows
    it, the end and the padding included.
    """
    source, goal = encode.rows([say(template, name), say(template, replacement)])
    last, there = paired(encode, template, name, replacement)
    count = min(len(source) - last, len(goal) - there)
    return source[last : last + count], goal[there : there + count]


def gram(weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The sum of W^T W over projections [out, d]: [d, d], float64."""
    total = torch.tensor(0.0)
    for weight in weights.values():
        total = total + moment(weight).cpu()
    return total
