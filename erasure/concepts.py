"""Texts -> conditioning, through the host's CLIP; where in a text a concept's name stands; the gate built from both."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

import torch

from . import fillers
from .artifact import ErasureError, GateTensors
from .fingerprint import context_dim
from .prompt import choose_threshold, either, fit_gate, gate_score

_T = TypeVar("_T")

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
GENERIC = ("person", "dog", "house", "tree", "car", "picture", "shape", "landscape")
"""What a gate takes for other things in any case, so that it can be fitted without a preserve set."""


SIGNS = " .,;:!?\"'“”‘’"
"""At the ends of a name; in a phrase they would become one token with the signs around them."""
ROOM = 24
"""Tokens that a phrasing and what follows it are given, in what the text encoder reads at once."""
BATCH = 64
"""Texts in one run of the text encoder."""
WEIGHT = 1.5
"""Prompt weight of the copies of its texts that a gate is fitted on, so that it is right for weighted texts, too."""


def batched(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """The items in parts of ``BATCH``."""
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


@dataclass(frozen=True)
class Text:
    """A text as the model is given it: ``context`` [1, n, d] and the host's own conditioning entry ``cond``."""

    text: str
    context: torch.Tensor
    cond: list

    def reading(self, context: torch.Tensor) -> list:
        """The conditioning with another context [n, d] in its place."""
        return [[context[None].to(self.context), dict(self.cond[0][1])]]


def lines(text: str) -> list[str]:
    """The non-empty lines of a text field, in order, each once."""
    return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


def spelled(name: str) -> str:
    """What spellings of one name have in common: text encoders read lower case, and an article tells them little."""
    return re.sub(r"^(an?|the) ", "", " ".join(name.casefold().split()))


def say(template: str, word: str) -> str:
    """The phrase with a word, or with nothing, in the place of its ``{}``."""
    return " ".join(template.replace("{}", word).split())


def forms(name: str) -> set[str]:
    """A name and its plurals, right or wrong ones: "cats" must not become "cat"."""
    word = spelled(name)
    ends = [("man", "men"), ("y", "ies")]
    return {word, word + "s", word + "es", *(word.removesuffix(a) + b for a, b in ends if word.endswith(a))}


def others(words: Iterable[str], names: Iterable[str]) -> list[str]:
    """The words, each once, that are none of the names in another form."""
    taken = {form for name in names for form in forms(name)}
    return [word for word in dict.fromkeys(words) if not forms(word) & taken]


def read_names(text: str) -> list[str]:
    """The names in a text field, one a line, each in its first spelling only and without ``SIGNS``."""
    first: dict[str, str] = {}
    for line in lines(text):
        if name := line.strip(SIGNS):
            first.setdefault(spelled(name), name)
    return list(first.values())


def check_anchor(anchor: str, names: Sequence[str]) -> None:
    """Raises ErasureError for a text that cannot take the names' place."""
    if not anchor.strip():
        raise ErasureError("The target is an anchor text, and the anchor is empty: type what the concepts become.")
    if not others([anchor.strip(SIGNS)], names):
        raise ErasureError(f"The anchor '{anchor.strip()}' is the concept itself: type what is to take its place.")


def read_texts(model, encode: Encoder, concept: str, preserve: str) -> tuple[list[str], list[str]]:
    """The concept's names and the preserve set, both one a line, once all of it is known to be usable with the model.

    Raises ErasureError for an empty concept, a name that is also to be preserved, or a CLIP of another width.
    """
    names, kept = read_names(concept), lines(preserve)
    if not names:
        raise ErasureError("The concept is empty: type what is to be erased, one name a line.")
    taken = set(map(spelled, names))
    if both := [word for word in kept if spelled(word) in taken]:
        raise ErasureError(
            f"'{both[0]}' is both to be erased and to be preserved: take it out of one of the two lists."
        )
    for name in names:
        encode.name_tokens(name)  # refuses what cannot be a name
    width = encode(names[0]).context.shape[-1]
    if width != context_dim(model):
        raise ErasureError(
            f"The CLIP's encodings are {width} wide and the model reads {context_dim(model)}: connect the CLIP that "
            "belongs to this model."
        )
    return names, kept


class Encoder:
    """Encodes texts with a CLIP of the host, each text once.

    Encodings are on the CPU, wherever the host keeps its own (``--gpu-only``): what is worked out from them is small.
    ``on_read(done, total)`` is told while many texts are read, and may raise, to stop.
    """

    def __init__(self, clip, on_read: Callable[[int, int], None] = lambda done, total: None):
        if clip is None:
            raise ErasureError(
                "No CLIP is connected: connect the checkpoint loader's CLIP output (checkpoints without a text encoder "
                "need a CLIP loader)."
            )
        self.clip, self.on_read = clip, on_read
        self.known: dict[str, Text] = {}
        self._chunks: dict[str, torch.Tensor] = {}

    def __call__(self, text: str) -> Text:
        if text not in self.known:
            self.known[text] = self._encode(text)
        return self.known[text]

    def _encode(self, text: str) -> Text:
        return self._text(text, self.clip.tokenize(text))

    def _text(self, text: str, tokens: dict[str, list]) -> Text:
        cond = self.clip.encode_from_tokens_scheduled(tokens)
        cond = [[_plain(c), {k: _plain(v) for k, v in extra.items()}] for c, extra in cond]
        return Text(text, cond[0][0].float().cpu(), cond)

    def tokens(self, text: str) -> tuple[int, ...]:
        """The token numbers of a text, start, end and padding included."""
        chunks = next(iter(self.clip.tokenize(text).values()))
        return tuple(token[0] for chunk in chunks for token in chunk if isinstance(token[0], int))

    def read(self, texts: Sequence[str]) -> None:
        """Encodes the texts' first chunks and remembers them, for ``chunks``."""
        new = [text for text in dict.fromkeys(texts) if text not in self._chunks]
        for part, rows in zip(batched(new), self.stream(new), strict=True):
            self._chunks |= dict(zip(part, rows, strict=True))

    def chunks(self, texts: Sequence[str]) -> torch.Tensor:
        """The encodings of the texts' first chunks, [texts, n, d]."""
        self.read(texts)
        return torch.stack([self._chunks[text] for text in texts])

    def stream(self, texts: Sequence[str]) -> Iterator[torch.Tensor]:
        """The same in parts of ``BATCH`` texts, not remembered; each part is one run of the text encoder.

        The host runs the chunks of a long text as one batch; here each chunk is a text of its own.
        """
        for number, part in enumerate(batched(texts)):
            tokens = [self.clip.tokenize(text) for text in part]
            merged = {key: [t[key][0] for t in tokens] for key in tokens[0]}
            rows = _plain(self.clip.encode_from_tokens(merged))[0].float().cpu()
            if len(texts) > BATCH:
                self.on_read(number * BATCH + len(part), len(texts))
            yield torch.stack(rows.chunk(len(part)))

    def with_tokens(self, rows: Sequence[Sequence[int]]) -> dict[str, list]:
        """What the host's tokenizer would give for texts of just these token numbers, one chunk each."""
        blank = self.clip.tokenize("")
        return {key: [_filled(chunks[0], ids) for ids in rows] for key, chunks in blank.items()}

    def stream_tokens(self, rows: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        """The encodings of rows of token numbers, in parts of ``BATCH`` rows: [rows, n, d]."""
        for part in batched(rows):
            encoded = _plain(self.clip.encode_from_tokens(self.with_tokens(part)))[0].float().cpu()
            yield torch.stack(encoded.chunk(len(part)))

    def of_tokens(self, ids: Sequence[int]) -> Text:
        """A text of token numbers, as the model is given it."""
        words = "".join(found[1] for found in self.clip.tokenizer.untokenize([(i, 1.0) for i in ids]))
        return self._text(words.replace("</w>", " ").strip(), self.with_tokens([ids]))

    def vocabulary(self) -> range:
        """The numbers of all tokens that a text can be made of; CLIP puts its start and end behind them."""
        return range(next(iter(self.clip.tokenize("").values()))[0][0][0])

    def name_tokens(self, name: str) -> tuple[int, ...]:
        """The token numbers of a name without start, end and padding.

        Raises ErasureError for an empty name or one that does not fit into one chunk.
        """
        chunks = next(iter(self.clip.tokenize(name).values()))
        if len(chunks) > 1:
            raise ErasureError(
                f"'{name[:40]}…' is longer than the {len(chunks[0])} tokens that the text encoder reads at once: say "
                "it in a few words."
            )
        blank = {token[0] for token in next(iter(self.clip.tokenize("").values()))[0]}
        found = tuple(token[0] for token in chunks[0] if token[0] not in blank)
        if not found:
            raise ErasureError("The concept is empty: type what is to be erased, one name a line.")
        return found

    def beside(self, names: Sequence[str], texts: Sequence[str]) -> list[str]:
        """Those of the texts that fit beside any of the names into what the text encoder reads at once."""
        empty = self.tokens("")
        blank, room = set(empty), len(empty) - ROOM - max(len(self.name_tokens(name)) for name in names)
        return [text for text in texts if sum(token not in blank for token in self.tokens(text)) <= room]

    def span(self, text: str, name: str) -> torch.Tensor:
        """The encodings of a name's tokens where it stands in a text, [t, d]."""
        first = self.place(text, name)
        return self(text).context[0, first : first + len(self.name_tokens(name))]

    def place(self, text: str, name: str) -> int:
        """The number of a name's first token in a text. Raises ErasureError where it is no word of its own."""
        tokens, name_ids = self.tokens(text), self.name_tokens(name)
        places = [i for i in range(len(tokens)) if tokens[i : i + len(name_ids)] == name_ids]
        if not places:
            raise ErasureError(
                f"The text encoder does not read '{name}' as a word of its own in '{text}': leave out signs at its "
                "ends."
            )
        return places[0]


def _filled(chunk: Sequence[tuple], ids: Sequence[int]) -> list[tuple]:
    """An empty text's chunk with tokens behind its start; its padding becomes so much shorter."""
    return [chunk[0], *((i, 1.0) for i in ids), *chunk[1 : len(chunk) - len(ids)]]


def _plain(value):
    """A copy that autograd accepts, when upstream nodes ran in inference mode."""
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def build_gate(encode: Encoder, names: Sequence[str], preserve: Sequence[str]) -> tuple[GateTensors, float]:
    """A text gate for a concept known by ``names``, and its gap, at or below zero when it cannot separate the texts.

    Texts that speak of the concept: its names in phrasings and beside kept texts. Texts that do not: kept and generic
    texts in the same phrasings and in pairs, and the empty prompt. Each is seen plain and with prompt weight
    ``WEIGHT``. Threshold and gap come from two gates that have each seen one half of the texts and are asked for the
    other half. A second direction reads texts that speak of the concept far back, ``behind_filler``.
    """
    with torch.inference_mode(False), torch.no_grad():
        texts = gate_texts(names, preserve)
        rows = [_plain_and_weighted(encode, part) for part in texts]
        speaking, silent = (part.flatten(0, 1) for part in rows)
        gate, near = fit_gate(speaking, silent), silent
        thresholds, gaps = [], []
        for half in (0, 1):
            speaking, silent = (part[half::2].flatten(0, 1) for part in rows)
            other = fit_gate(speaking, silent)
            scores = [gate_score(part[1 - half :: 2].flatten(0, 1), other) - other.threshold for part in rows]
            threshold, gap = choose_threshold(*(part.tolist() for part in scores))
            thresholds.append(threshold)
            gaps.append(gap)
        gate = replace(gate, threshold=gate.threshold + sum(thresholds) / 2)
        return either(gate, _far_gate(encode, names, texts, near)), min(gaps)


def _far_gate(
    encode: Encoder, names: Sequence[str], texts: Sequence[Sequence[str]], near: torch.Tensor
) -> GateTensors:
    """A gate for ``behind_filler``, silent for ``near`` [q, n, d], too; ``texts``: those that speak and that do not.

    It starts from what tells the names' own tokens from all others: a convex problem.
    """
    behind = [behind_filler(encode, _twice(part), names) for part in texts]
    speaking, silent = (torch.cat(list(encode.stream(part))) for part in behind)
    silent = torch.cat([silent, near])
    own, rest = [], [silent.flatten(0, 1)[::7]]  # some of a million
    for text, row in zip(behind[0], speaking, strict=True):
        name = max((name for name in names if name in text), key=len)
        first = encode.place(text, name)
        rest.append(row[:first])
        own.append(row[first : first + len(encode.name_tokens(name)) + 1])
    start = fit_gate(torch.cat(own)[:, None], torch.cat(rest)[:, None])
    return fit_gate(speaking, silent, penalty=1e-4, start=start)


def _twice(texts: Sequence[str]) -> list[str]:
    """Every second text, two times: each stands behind two fillers, so that it is no mark of one of them."""
    return [text for text in texts if text][::2] * 2


def behind_filler(encode: Encoder, texts: Sequence[str], names: Sequence[str]) -> list[str]:
    """Texts or templates, each behind another filler that leaves ``ROOM`` for it and says none of the names."""
    blank, empty = set(encode.tokens("")), len(encode.tokens(""))
    sizes = {
        word: sum(token not in blank for token in encode.tokens(word)) for word in others(fillers.FILLER, names)
    }
    return fillers.behind(texts, sizes, empty - 2 - ROOM)


def _plain_and_weighted(encode: Encoder, texts: Sequence[str]) -> torch.Tensor:
    """The encodings of the texts' first chunks as they are and with a prompt weight, [texts, 2, n, d]."""
    weighted = [f"({text}:{WEIGHT})" if text else text for text in texts]
    return torch.stack([encode.chunks(texts), torch.cat(list(encode.stream(weighted)))], dim=1)


def concept_directions(
    encode: Encoder, names: Sequence[str], preserve: Sequence[str], count: int, shrinkage: float = 1e-3
) -> torch.Tensor:
    """Directions [count, d] in which texts that speak of the concept are strong and other texts are weak.

    Generalised eigenvectors of the two second moments of token encodings, S v = w (N + shrinkage mean(N) I) v, those of
    the largest w first: the criterion of Fisher's discriminant without centring, since a change of weights has no bias.
    A low-rank change that reads these hardly touches anything else. Scaled so that the speaking texts' response is as
    large as through random directions of length 1.
    """
    with torch.inference_mode(False), torch.no_grad():
        speaking, silent = (encode.chunks(texts).flatten(0, 1).double() for texts in gate_texts(names, preserve))
        strong, weak = (tokens.T @ tokens / len(tokens) for tokens in (speaking, silent))
        weak += shrinkage * weak.diagonal().mean() * torch.eye(len(weak), dtype=weak.dtype, device=weak.device)
        whiten = torch.linalg.cholesky(weak).inverse()
        _, vectors = torch.linalg.eigh(whiten @ strong @ whiten.T)
        directions = vectors[:, -count:].flip(1).T @ whiten
        response = (speaking @ directions.T).square().mean(0).sqrt()
        return (directions * (strong.diagonal().mean().sqrt() / response)[:, None]).float().cpu()


def gate_texts(names: Sequence[str], preserve: Sequence[str]) -> tuple[list[str], list[str]]:
    """Texts that speak of the concept, and texts that do not."""
    kept = [*preserve, *others(GENERIC, names)]
    speaking = [p.format(name) for name, p in product(names, PHRASINGS)]
    speaking += [p.format(kept=text, concept=name) for name, text, p in product(names, kept, IN_CONTEXT)]
    silent = [""] + [p.format(text) for text, p in product(kept, PHRASINGS[:5])]
    pairs = [f"{a} {b}" for a, b in product(kept, kept) if a != b]
    return spread(speaking, 240), silent + spread(pairs, 400)


def spread(texts: list[str], count: int) -> list[str]:
    """At most about ``count`` of the texts, evenly taken."""
    return texts[:: max(1, len(texts) // count)]
