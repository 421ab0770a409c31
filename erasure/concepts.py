"""Texts -> conditioning, through the host's CLIP; where in a text a concept's name stands; the gate built from both."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product, takewhile
from typing import TypeVar

import torch

from . import fillers
from .artifact import ErasureError, GateTensors
from .prompt import choose_threshold, either, fit_gate, gate_score
from .recall import Recall
from .texts.names import EMBEDDING, is_said, others, plain

_T = TypeVar("_T")
GateTexts = tuple[list[str], list[str]]
"""Texts that speak of a concept, and texts that do not."""

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


ROOM = 24
"""Tokens that a phrasing and what follows it are given, in what the text encoder reads at once."""
ALONE = 150
"""Texts of nothing but filler that a gate is fitted on; with 48, long prompts for a star opened one for circles."""
BATCH = 64
"""Texts in one run of the text encoder."""
WEIGHT = 1.5
"""Prompt weight of the copies of its texts that a gate is fitted on, so that it is right for weighted texts, too."""
STAND_INS = ("thing", "7")
"""Words that take a name's place in a phrase to find out where the name stands; two, for a name can be like one."""
LONG = 24
"""Tokens beyond which a name is so long that texts beside it are not given less room for it."""


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


def say(template: str, word: str) -> str:
    """The phrase with a word, or with nothing, in the place of its ``{}``."""
    return " ".join(template.replace("{}", word).split())


class Encoder:
    """Encodes texts with a CLIP of the host, each text once; what was read before is remembered, where that is safe.

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
        self.recall = Recall(clip)
        self.known: dict[str, Text] = {}
        self._chunks: dict[str, torch.Tensor] = {}
        self._contents: dict[str, list[int]] = {}
        self._listed: dict[str, torch.Tensor] = {}  # of lists that are read as a whole
        self._count, self._done = 0, 0  # texts that ``on_read`` is told of
        self.tails: dict[str, torch.Tensor] = {}  # of phrases, from a name's last token on: see neighbours.py

    def __call__(self, text: str) -> Text:
        if text not in self.known:
            self.known[text] = self._encode(text)
        return self.known[text]

    def _encode(self, text: str) -> Text:
        return self._text(text, self.recall.tokens(text))

    def _text(self, text: str, tokens: dict[str, list]) -> Text:
        cond = as_the_host_runs(self.clip.encode_from_tokens_scheduled, tokens)
        cond = [[_plain(c), {k: _plain(v) for k, v in extra.items()}] for c, extra in cond]
        return Text(text, cond[0][0].float().cpu(), cond)

    def tokens(self, text: str) -> tuple[int, ...]:
        """The token numbers of a text, start, end and padding included; a vector of an embedding has one of its own,
        below zero."""
        return tuple(_number(token[0]) for chunk in self._tokenized(text) for token in chunk)

    def content(self, text: str) -> list[int]:
        """The token numbers of a text's first chunk without start, end and padding."""
        if text not in self._contents:
            numbers = (_number(token[0]) for token in self._tokenized(text)[0][1:])
            self._contents[text] = list(takewhile(lambda number: number != self._end, numbers))
        return self._contents[text]

    @cached_property
    def _end(self) -> int:
        """The number of the token that ends a text."""
        return self.tokens("")[1]

    def _tokenized(self, text: str) -> list[list[tuple]]:
        """The chunks of a text as the host's first tokenizer has them."""
        return next(iter(self.recall.tokens(text).values()))

    def fits(self, text: str) -> bool:
        """Whether the text encoder reads a text at once."""
        return len(self._tokenized(text)) == 1

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
        """The same in parts of ``BATCH`` texts; each part is one run of the text encoder, or none where all of it is
        remembered.

        The host runs the chunks of a long text as one batch; here each chunk is a text of its own.
        """
        with self.telling(texts):
            for part in batched(texts):
                new = [text for text in dict.fromkeys(part) if text not in self._listed]
                rows = self._listed | self.recall.rows(new, self._run)
                yield torch.stack([rows[text] for text in part])

    @contextlib.contextmanager
    def telling(self, texts: Sequence[str]) -> Iterator[None]:
        """``on_read`` is told of those of the texts that have yet to be read, where they are many; streams of some of
        them within count as parts."""
        new = [text for text in dict.fromkeys(texts) if text not in self._listed and text not in self._chunks]
        with self._telling(self.recall.unread(new)):
            yield

    @contextlib.contextmanager
    def _telling(self, count: int) -> Iterator[None]:
        if self._count or count <= BATCH:
            yield
            return
        self._count, self._done = count, 0
        try:
            yield
        finally:
            self._count = 0

    def read_list(self, texts: Sequence[str]) -> None:
        """Encodes the first chunks of texts that other concepts need as well: the whole list, which is remembered on
        disk, for ``stream``."""
        self._listed |= self.listed("whole", texts, lambda text, row: row)

    def listed(
        self, kind: str, texts: Sequence[str], part: Callable[[str, torch.Tensor], torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """What ``part(text, encodings [n, d])`` takes, as ``kind`` says, of each text of a list that is remembered on
        disk as a whole; all parts have one shape."""

        def read() -> Iterator[torch.Tensor]:
            with self._telling(len(texts)):
                for some in batched(texts):
                    yield from map(part, some, self._run(some))

        return self.recall.listed(kind, texts, read)

    def sum_of_list(
        self, kind: str, texts: Sequence[str], take: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """The sum of what ``take(tokens [n, d])`` makes of the encodings of a list of texts, remembered on disk."""

        def total() -> torch.Tensor:
            return torch.stack([take(rows.flatten(0, 1)) for rows in self.stream(texts)]).sum(0)

        return self.recall.whole(kind, texts, total)

    def _run(self, texts: Sequence[str]) -> Sequence[torch.Tensor]:
        """The encodings [n, d] of texts' first chunks, in one run of the text encoder."""
        tokens = [self.recall.tokens(text) for text in texts]
        merged = {key: [of_one[key][0] for of_one in tokens] for key in tokens[0]}
        rows = _plain(as_the_host_runs(self.clip.encode_from_tokens, merged))[0].float().cpu()
        if self._count:
            self._done = min(self._done + len(tokens), self._count)
            self.on_read(self._done, self._count)
        return rows.chunk(len(tokens))

    def with_tokens(self, rows: Sequence[Sequence[int]]) -> dict[str, list]:
        """What the host's tokenizer would give for texts of just these token numbers, one chunk each."""
        blank = self.clip.tokenize("")
        return {key: [_filled(chunks[0], ids) for ids in rows] for key, chunks in blank.items()}

    def stream_tokens(self, rows: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        """The encodings of rows of token numbers, in parts of ``BATCH`` rows: [rows, n, d]."""
        for part in batched(rows):
            encoded = _plain(as_the_host_runs(self.clip.encode_from_tokens, self.with_tokens(part)))[0].float().cpu()
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

        Raises ErasureError for a name of which the text encoder reads nothing.
        """
        content = tuple(self.content(name))
        if not content and name.startswith(EMBEDDING):
            raise ErasureError(
                f"There is no embedding '{name.removeprefix(EMBEDDING)}' that this text encoder can load: check its "
                "name, and that its file lies in models/embeddings."
            )
        if not content:
            raise ErasureError(f"The text encoder reads nothing in the name '{plain(name)}': say it in other words.")
        if name.startswith(EMBEDDING) and min(content) < 0 and torch.equal(self(name).context, self("").context):
            raise ErasureError(
                f"The embedding '{name.removeprefix(EMBEDDING)}' was made for another text encoder and is ignored by "
                "this one: take one that was made for this kind of model."
            )
        return content

    def read_alone(self) -> list[str]:
        """The texts whose ``tails`` have been read so far."""
        return [phrase.removeprefix("a ") for phrase in self.tails]

    def shortened(self, name: str, tokens: int | None = None) -> str:
        """The first words of a name that the text encoder reads at once, or that have at most so many tokens."""
        room = len(self.tokens("")) - 2 if tokens is None else tokens
        parts = name.split()
        while len(parts) > 1 and not (self.fits(" ".join(parts)) and len(self.content(" ".join(parts))) <= room):
            parts = parts[:-1]
        return " ".join(parts)

    def beside(self, names: Sequence[str], texts: Sequence[str]) -> list[str]:
        """Those of the texts that fit beside any of the names into what the text encoder reads at once, and say none
        of them themselves."""
        longest = max(min(LONG, len(self.name_tokens(name))) for name in names)
        room = len(self.tokens("")) - ROOM - longest
        apart = [text for text in texts if not any(is_said(name, text) for name in names)]
        return [text for text in apart if self.fits(text) and len(self.content(text)) <= room]

    def fitting(self, templates: Sequence[str], *words: str) -> list[str]:
        """Those of the phrases that the text encoder reads at once with any of the words; "{}" in any case."""
        return [t for t in templates if t == "{}" or all(self.fits(say(t, word)) for word in words)]

    def span(self, name: str) -> torch.Tensor:
        """The encodings of a name's tokens where it stands alone, [t, d]."""
        return self(name).context[0, self.place("{}", name)]

    def place(self, template: str, name: str) -> slice:
        """Where the tokens of a name stand in a phrase said of it, counted with the start token.

        They are what differs from the phrase said of another word; so signs that the encoder reads together with the
        name's end belong to them. Raises ErasureError where nothing differs.
        """
        own = self.content(say(template, name))
        said = [self.content(say(template, word)) for word in STAND_INS]
        first = min(_alike(own, other) for other in said)
        after = min(_alike(own[::-1], other[::-1]) for other in said)
        if first + after >= len(own):
            self.name_tokens(name)  # refuses what is no name
            raise ErasureError(
                f"The text encoder does not read '{plain(name)}' in '{plain(say(template, name))}': say it in other "
                "words."
            )
        return slice(1 + first, 1 + len(own) - after)


def _alike(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


def _number(token: int | torch.Tensor) -> int:
    """The number of a token; of an embedding's vector, one below zero that stands for its values."""
    if isinstance(token, torch.Tensor):
        values = token.detach().float().cpu().contiguous().numpy().tobytes()
        return -1 - int.from_bytes(hashlib.sha256(values).digest()[:6], "big")
    return int(token)


def _filled(chunk: Sequence[tuple], ids: Sequence[int]) -> list[tuple]:
    """An empty text's chunk with tokens behind its start; its padding becomes so much shorter."""
    return [chunk[0], *((i, 1.0) for i in ids), *chunk[1 : len(chunk) - len(ids)]]


def as_the_host_runs(encode: Callable, tokens):
    """What the text encoder makes of tokens, in the host's inference mode. It may have to be loaded and other models
    unloaded for it, and quantised weights that are moved in another mode can no longer be used."""
    with torch.inference_mode():
        return encode(tokens)


def _plain(value):
    """A copy that autograd accepts, when upstream nodes ran in inference mode."""
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def build_gate(
    encode: Encoder, names: Sequence[str], preserve: Sequence[str], texts: GateTexts | None = None
) -> tuple[GateTensors, float]:
    """A text gate for a concept known by ``names``, and its gap, at or below zero when it cannot separate the texts.

    Texts that speak of the concept: its names in phrasings and beside kept texts. Texts that do not: kept and generic
    texts in the same phrasings and in pairs, and the empty prompt. Each is seen plain and with prompt weight
    ``WEIGHT``. Threshold and gap come from two gates that have each seen one half of the texts and are asked for the
    other half. A second direction reads texts that speak of the concept far back, ``behind_filler``; it has also
    seen chunks of ``nothing_but_filler``, which it is closed for.
    """
    with torch.inference_mode(False), torch.no_grad():
        texts = texts or gate_texts(names, preserve)
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
    silent = torch.cat([silent, near, *encode.stream(nothing_but_filler(encode, names))])
    own, rest = [], [silent.flatten(0, 1)[::7]]  # some of a million
    for text, row in zip(behind[0], speaking, strict=True):
        place = _last_place(encode, text, names)
        rest.append(row[: place.start])
        own.append(row[place.start : place.stop + 1])
    start = fit_gate(torch.cat(own)[:, None], torch.cat(rest)[:, None])
    return fit_gate(speaking, silent, penalty=1e-4, start=start)


def _last_place(encode: Encoder, text: str, names: Sequence[str]) -> slice:
    """Where the longest of the names that a text says stands in it, for the last time."""
    name = max((name for name in names if name in text), key=len)
    before, _, after = text.rpartition(name)
    return encode.place(f"{before}{{}}{after}", name)


def _twice(texts: Sequence[str]) -> list[str]:
    """Every second text, two times: each stands behind two fillers, so that it is no mark of one of them."""
    return [text for text in texts if text][::2] * 2


def nothing_but_filler(encode: Encoder, names: Sequence[str]) -> list[str]:
    """Texts that fill all that the encoder reads at once and speak of nothing: the first chunks of a long prompt."""
    return fillers.alone(ALONE, _sizes(encode, names), len(encode.tokens("")) - 2)


def behind_filler(encode: Encoder, texts: Sequence[str], names: Sequence[str]) -> list[str]:
    """Texts or templates, each behind another filler that leaves ``ROOM`` for it and says none of the names."""
    return fillers.behind(texts, _sizes(encode, names), len(encode.tokens("")) - 2 - ROOM)


def _sizes(encode: Encoder, names: Sequence[str]) -> dict[str, int]:
    """The words of filler that say none of the names, and how many tokens each has."""
    return {word: len(encode.content(word)) for word in others(fillers.FILLER, names)}


def _plain_and_weighted(encode: Encoder, texts: Sequence[str]) -> torch.Tensor:
    """The encodings of the texts' first chunks as they are and with a prompt weight, [texts, 2, n, d]."""
    weighted = [f"({text}:{WEIGHT})" if text else text for text in texts]
    return torch.stack([encode.chunks(texts), torch.cat(list(encode.stream(weighted)))], dim=1)


def concept_directions(
    encode: Encoder, names: Sequence[str], preserve: Sequence[str], count: int, texts: GateTexts | None = None,
    shrinkage: float = 1e-3,
) -> torch.Tensor:
    """Directions [count, d] in which texts that speak of the concept are strong and other texts are weak.

    Generalised eigenvectors of the two second moments of token encodings, S v = w (N + shrinkage mean(N) I) v, those of
    the largest w first: the criterion of Fisher's discriminant without centring, since a change of weights has no bias.
    A low-rank change that reads these hardly touches anything else. Scaled so that the speaking texts' response is as
    large as through random directions of length 1.
    """
    with torch.inference_mode(False), torch.no_grad():
        texts = texts or gate_texts(names, preserve)
        speaking, silent = (encode.chunks(part).flatten(0, 1).double() for part in texts)
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
