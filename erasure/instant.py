"""From a MODEL, a CLIP and a few texts to an ``Erasure`` without any training: closed-form edits of the text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from json import dumps

import torch

from . import attach
from .artifact import Erasure, Metadata
from .concepts import GENERIC, IN_CONTEXT, PHRASINGS, Encoder, check_anchor, others, read_texts, say, spread
from .deltas import effective_weights, weight_names
from .fingerprint import context_dim, fingerprint
from .methods import CLOSED_FORM
from .methods.balance import balance
from .methods.closed_form import Problem, Scales, together
from .neighbours import neighbours
from .textmap import TextMap, moment
from .version import host_version, pack_version
from .vocabulary import EVERYDAY, WORDS

TARGETS = ("nearest neighbour", "empty prompt", "anchor")
TOKENS = ("all in context", "last of the name")
NEIGHBOURS = 8
"""So many common words nearest to each concept are preserved when nothing else is named, with everyday ones."""
MOVED = 400
"""At most so many phrases are moved, whatever the number of concepts (but one for each)."""
IN_TURN = 3
"""Each phrase is said of one in so many of the concepts' neighbours."""
SAMPLE = 20_000
"""About so many preserved encodings are looked at one by one, where a method does."""
TOTAL_RANK = 64
"""No change has a higher rank than this, unless more concepts than this are erased."""


@dataclass(frozen=True)
class Instant:
    """What a closed-form erasure can be told.

    ``target``: what takes a concept's place: its nearest neighbour in the preserve set, nothing (what the phrase says
    without it), or the text ``anchor``. ``tokens``: which encodings are moved, those of phrases from the name's last
    token on, or the last one of the bare name, as the papers have it. ``rank``: of the change, for each concept; 0 for
    the exact one.
    """

    method: str = "uce"
    target: str = TARGETS[0]
    anchor: str = ""
    tokens: str = TOKENS[0]
    weights: str = "keys+values"
    rank: int = 8
    scales: Scales = field(default_factory=Scales)


@dataclass(frozen=True)
class Texts:
    """The concepts' names, the text that takes the place of each (empty: nothing), and what is preserved.

    ``near``: preserved texts that are nearest to each concept and most easily pulled along.
    """

    names: Sequence[str]
    targets: Sequence[str]
    kept: Sequence[str]
    near: Sequence[Sequence[str]]


def erase_instantly(
    model, clip, concepts: str, preserve: str, settings: Instant,
    on_read: Callable[[int, int], None] = lambda done, total: None,
) -> Erasure:  # fmt: skip
    """Solves for all concepts (one a line) at once, preserving texts (one a line). Raises ErasureError.

    ``on_read(done, total)``: how far the text encoder is.
    """
    attach.require_unet(model)
    encode = Encoder(clip, on_read)
    with torch.inference_mode(False), torch.no_grad():
        names, kept = read_texts(model, encode, concepts, preserve)
        return solve_texts(model, encode, choose_texts(encode, names, kept, settings), settings)


# ---------------------------------------------------------------- which texts


def choose_texts(encode: Encoder, names: Sequence[str], kept: Sequence[str], settings: Instant) -> Texts:
    """What is erased, to what, and what stays; what the user leaves open is looked for in the text encoder."""
    if settings.target == "anchor":
        check_anchor(settings.anchor, names)
    common = others((*WORDS, *EVERYDAY), names)
    near = neighbours(encode, names, others(encode.beside(names, kept), names) or common)
    if not kept:
        kept = others([*(word for row in near for word in row[:NEIGHBOURS]), *EVERYDAY], names)
    targets = [settings.anchor.strip() if settings.target == "anchor" else ""] * len(names)
    if settings.target == TARGETS[0]:
        targets = [row[0] for row in near]
    return Texts(names, targets, kept, [row[: siblings_for(names)] for row in near])


def siblings_for(names: Sequence[str]) -> int:
    """So many of its neighbours are preserved in a concept's own phrases: fewer of them with many concepts."""
    return min(NEIGHBOURS - 2, 12 // len(names))


# ---------------------------------------------------------------- from texts to a change of the weights


def solve_texts(model, encode: Encoder, texts: Texts, settings: Instant) -> Erasure:
    """The closed-form erasure for texts that have been chosen; call outside inference mode, without gradients."""
    weights = effective_weights(model, weight_names(model.model, settings.weights))
    delta = edit_for(pose(encode, texts, weights, settings), settings).delta(weights.items())
    metadata = Metadata(
        method=settings.method,
        concept="\n".join(texts.names),
        target="\n".join(text or TARGETS[1] for text in texts.targets),
        preserve="\n".join(texts.kept),
        family=fingerprint(model).family,
        context_dim=str(context_dim(model)),
        fingerprint=str(fingerprint(model)),
        settings=dumps(asdict(settings)),
        pack_version=pack_version(),
        host_version=host_version(),
    )
    return Erasure(metadata, (), delta)


def pose(encode: Encoder, texts: Texts, weights: Mapping[str, torch.Tensor], settings: Instant) -> Problem:
    """The encodings that are to move, with where they go, and those that are to stay."""
    short = replace(texts, kept=encode.beside(texts.names, texts.kept))
    templates = ["{}"] if settings.tokens == TOKENS[1] else phrases(short)
    moved = list(zip(texts.names, texts.targets, strict=True))
    encode.read([say(template, word) for pair in moved for word in pair for template in templates])
    moves = together([_pairs(encode, templates, *pair, settings.tokens) for pair in moved])
    parts = [plain_texts(texts), *siblings(texts, templates)]
    count = sum(map(len, parts))
    moments, some = zip(*(preserved(encode, part, count) for part in parts), strict=True)
    return Problem(
        moves, len(moved), sum(moments), moments[1:], torch.cat(some), encode.chunks([""])[0], lambda: gram(weights)
    )


def preserved(encode: Encoder, texts: Sequence[str], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What texts add to the mean of p p^T over the encodings of ``count`` texts, [d, d], and some of their encodings:
    about ``SAMPLE`` of all ``count``.
    """
    total, some = torch.tensor(0.0), []
    for rows in encode.stream(texts):
        length = rows.shape[1]
        tokens = rows.flatten(0, 1)
        total = total + moment(tokens, 1 / (count * length))
        some.append(tokens[:: 1 + count * length // SAMPLE])
    return total, torch.cat(some)


def phrases(texts: Texts) -> list[str]:
    """Templates that speak of a concept alone and beside preserved texts; fewer of them for many concepts."""
    beside = [p.format(concept="{}", kept=text) for text, p in product(texts.kept, IN_CONTEXT)]
    return [*PHRASINGS, *spread(beside, 64)][: max(1, MOVED // len(texts.names))]


def plain_texts(texts: Texts, pairs: int = 150) -> list[str]:
    """The empty prompt, and preserved and generic texts in phrasings and in pairs."""
    kept = [*texts.kept, *others(GENERIC, texts.names)]
    phrasings = PHRASINGS[: min(5, max(1, 500 // len(kept)))]
    apart = min(pairs // len(kept), len(kept) - 1)
    beside = [f"{a} {kept[(i + step) % len(kept)]}" for step in range(1, apart + 1) for i, a in enumerate(kept)]
    return ["", *(p.format(text) for text, p in product(kept, phrasings)), *beside]


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


def _pairs(
    encode: Encoder, templates: Sequence[str], name: str, target: str, tokens: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodings of one concept and where they go, [n, d] each."""
    found = [aligned(encode, template, name, target) for template in templates]
    if tokens == TOKENS[1]:
        found = [(source[:1], goal[:1]) for source, goal in found]
    source, goal = (torch.cat([pair[side] for pair in found]) for side in (0, 1))
    return source, goal


def aligned(encode: Encoder, template: str, name: str, replacement: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodings of a phrase from the name's last token on, beside those of the same phrase with the name replaced.

    Everything after the name is paired token by token, because contextual encodings spread a concept over what follows
    it, the end and the padding included. An empty ``replacement`` pairs the name's last token with the one before it.
    """
    text, other = say(template, name), say(template, replacement)
    rows = encode.chunks([text, other])
    first = encode.place(text, name)
    last = first + len(encode.name_tokens(name)) - 1
    there = first - 1 + (len(encode.name_tokens(replacement)) if replacement else 0)
    count = rows.shape[1] - max(last, there)
    return rows[0, last : last + count], rows[1, there : there + count]


def edit_for(problem: Problem, settings: Instant) -> TextMap:
    """The edit of the chosen method, at the chosen rank."""
    edit = CLOSED_FORM[settings.method](balance(problem, settings.scales), settings.scales)
    if settings.rank and settings.tokens == TOKENS[0]:
        rank = min(TOTAL_RANK, settings.rank * problem.concepts)
        edit = edit.cut(max(problem.concepts, rank), problem.moves.moment)
    return edit


def gram(weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The sum of W^T W over projections [out, d]: [d, d], float64."""
    total = torch.tensor(0.0)
    for weight in weights.values():
        total = total + moment(weight).cpu()
    return total
