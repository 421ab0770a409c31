"""Texts -> encodings, through the host's CLIP, and where in a text a concept's name stands."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol, TypeVar

import torch

from ..artifact import ErasureError
from ..protocols import Clip
from .names import EMBEDDING, is_said, plain
from .phrases import say
from .recall import Recall
from .stream import CLIPS, Frame, alike, context_stream, present, reads_batches
from .stream import WORDS as FRAMED

_T = TypeVar("_T")
ROOM = 24
"""Tokens that a phrasing and what follows it are given, in what the text encoder reads at once."""
MOST = 500
"""Words of a text that is longer than what any text encoder reads in parts reads at once."""
LARGE = 10**9
"""Parameters from which on a text encoder counts as slow."""
BATCH = 64
"""Texts in one run of the text encoder."""
STAND_INS = ("thing", "green")
"""Words that take a name's place in a phrase to find out where the name stands; two, for a name can be like one. No
tokenizer reads them as one with a sign behind, as T5's does a figure and a comma."""
LONG = 24
"""Tokens beyond which a name is so long that texts beside it are not given less room for it."""


def batched(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """The items in parts of ``BATCH``."""
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


@dataclass(frozen=True)
class Text:
    """A text as the model is given it: ``context`` [1, n, d] and the host's own conditioning entry ``cond``, which may
    be padded."""

    text: str
    context: torch.Tensor
    cond: list

    def reading(self, context: torch.Tensor) -> list:
        """The conditioning with another context [n, d] in its place."""
        return [[context[None].to(self.context), dict(self.cond[0][1])]]


class Entry(Protocol):
    """Where a network takes text in: ``front`` says what the text passes before, empty for nothing, and ``encodings``
    what comes of that, [n, d], from a text encoder's rows. ``adapted``: the host's conditioning, with that done that
    is done before a run."""

    @property
    def front(self) -> str: ...

    def adapted(self, cond: list) -> list: ...

    def encodings(self, rows: torch.Tensor, tokens: Mapping[str, Sequence]) -> torch.Tensor: ...


class Encoder:
    """Encodes texts with a CLIP of the host, each text once; what was read before is remembered, where that is safe.

    Encodings are on the CPU, wherever the host keeps its own (``--gpu-only``): what is worked out from them is small.
    With an ``entry`` they are what the network's text entry is given, and conditionings what a run is. ``on_read(done,
    total)`` is told while many texts are read, and may raise, to stop.
    """

    def __init__(
        self, clip: Clip, on_read: Callable[[int, int], None] = lambda done, total: None, entry: Entry | None = None
    ):
        if clip is None:
            raise ErasureError(
                "No CLIP is connected: connect the checkpoint loader's CLIP output (checkpoints without a text encoder "
                "need a CLIP loader)."
            )
        self.clip, self.on_read = clip, on_read
        self.recall = Recall(clip)
        self.entry = entry if entry is not None and entry.front else None
        self.known: dict[str, Text] = {}
        self._chunks: dict[str, torch.Tensor] = {}
        self._contents: dict[str, list[int]] = {}
        self._listed: dict[str, torch.Tensor] = {}  # of lists that are read as a whole
        self._count, self._done = 0, 0  # texts that ``on_read`` is told of
        self.pools = False  # whether pooled vectors are wanted of what is read, too
        self._vectors: dict[str, torch.Tensor] = {}  # of lists that are read as a whole
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
        context = cond[0][0].float().cpu()
        if self.entry is not None:
            context, cond = self.entry.encodings(context[0], tokens)[None], self.entry.adapted(cond)
        return Text(text, context, cond)

    def tokens(self, text: str) -> tuple[int, ...]:
        """The token numbers of a text, start, end and padding included; a vector of an embedding has one of its own,
        below zero."""
        return tuple(number for chunk in self._tokenized(text) for number in _numbers(chunk))

    def content(self, text: str) -> list[int]:
        """The token numbers of a text's first chunk without start, end and padding."""
        if text not in self._contents:
            self._contents[text] = self._frame.content(_numbers(self._tokenized(text)[0]))
        return self._contents[text]

    @cached_property
    def _streams(self) -> list[str]:
        """The names of the CLIP's text encoders; with an entry, those of tokenizers, too, that it alone reads."""
        names = list(self.recall.tokens(""))
        return names if self.entry is not None else present(names, self.clip.cond_stage_model)

    @cached_property
    def _frame(self) -> Frame:
        return Frame.of([_numbers(self._tokenized(word)[0]) for word in FRAMED])

    @cached_property
    def room(self) -> int:
        """Tokens that the text encoder reads at once, beside those that it puts around a text."""
        chunk = _numbers(self._tokenized(" ".join(["thing"] * MOST))[0])
        return len(self._frame.content(chunk))

    @cached_property
    def _first_row(self) -> int:
        """The place in an encoding of a text's first token; below zero where the encoder strips its template."""
        if self.is_clip:
            return 0
        more = len(self.rows([FRAMED[0]])[0]) - len(self._tokenized(FRAMED[0])[0])
        return max(more, -self._frame.start)  # what more is stripped stands behind the text

    @property
    def parts(self) -> list[Encoder]:
        """Encoders of the parts of a context that text encoders of several kinds give one behind the other."""
        return [self, Ahead(self)] if self._first_row > 0 else [self]

    def _tokenized(self, text: str) -> list[list[tuple]]:
        """The chunks of a text as the tokenizer has them whose encodings are the context."""
        return self.recall.tokens(text)[context_stream(self._streams)]

    def fits(self, text: str) -> bool:
        """Whether the text encoder reads a text at once."""
        return len(self._tokenized(text)) == 1

    def read(self, texts: Sequence[str]) -> None:
        """Encodes the texts' first chunks and remembers them, for ``rows``."""
        new = [text for text in dict.fromkeys(texts) if text not in self._chunks]
        for part, rows in zip(batched(new), self.stream(new), strict=True):
            self._chunks |= dict(zip(part, rows, strict=True))

    def rows(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """The encodings of the texts' first chunks, [n, d] each; n is the same for all where the encoder pads."""
        self.read(texts)
        return [self._chunks[text] for text in texts]

    def chunks(self, texts: Sequence[str]) -> torch.Tensor:
        """The same as one tensor [texts, n, d]; a shorter one goes on with its last row."""
        [rows] = alike_long(self.rows(texts))
        return rows

    def stream(self, texts: Sequence[str]) -> Iterator[list[torch.Tensor]]:
        """The same in parts of ``BATCH`` texts; each part is one run of the text encoder, or none where all of it is
        remembered.

        The host runs the chunks of a long text as one batch; here each chunk is a text of its own.
        """
        with self.telling(texts):
            for part in batched(texts):
                new = [text for text in dict.fromkeys(part) if text not in self._listed]
                rows = self._listed | self._at_the_entry(self.recall.rows(new, self._run))
                yield [rows[text] for text in part]

    def _at_the_entry(self, rows: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self.entry is None:
            return rows
        return {text: self.entry.encodings(row, self.recall.tokens(text)) for text, row in rows.items()}

    def _kind(self, kind: str) -> str:
        """What is remembered of lists, with what the encodings have passed."""
        return kind if self.entry is None else f"{kind} {self.entry.front}"

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
        disk, for ``stream``; with a slow text encoder, pooled vectors by the same runs."""
        texts = list(dict.fromkeys(texts))
        if self.pools and self.is_large and self.has_pooled:
            with self._telling(len(texts)):
                self._vectors |= self.recall.listed_pooled(texts, lambda: self._run_pooled(texts))
        self._listed |= self.listed("whole", texts, lambda text, row: row)

    def listed(
        self, kind: str, texts: Sequence[str], part: Callable[[str, torch.Tensor], torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """What ``part(text, encodings [n, d])`` takes, as ``kind`` says, of each text of a list that is remembered on
        disk as a whole."""

        def read() -> Iterator[torch.Tensor]:
            with self._telling(len(texts)):
                for some in batched(texts):
                    new = [text for text in some if text not in self._listed]
                    rows = self._listed | self._at_the_entry(dict(zip(new, self._run(new), strict=True)))
                    yield from (part(text, rows[text]) for text in some)

        return self.recall.listed(self._kind(kind), texts, read)

    def sum_of_list(
        self, kind: str, texts: Sequence[str], take: Callable[[Sequence[torch.Tensor]], torch.Tensor]
    ) -> torch.Tensor:
        """The sum of what ``take(encodings [n, d] of some texts)`` makes of a list of texts, remembered on disk."""

        def total() -> torch.Tensor:
            return torch.stack([take(rows) for rows in self.stream(texts)]).sum(0)

        return self.recall.whole(self._kind(kind), texts, total)

    def _run(self, texts: Sequence[str]) -> Sequence[torch.Tensor]:
        """The encodings [n, d] of texts' first chunks; in one run of the text encoder, where it takes them together."""
        tokens = [self.recall.tokens(text) for text in texts]
        lengths = {tuple(len(chunks[0]) for chunks in of_one.values()) for of_one in tokens}
        together = [tokens] if len(lengths) == 1 and reads_batches(self._streams) else [[one] for one in tokens]
        rows: list[torch.Tensor] = []
        for some in together:
            merged = {key: [of_one[key][0] for of_one in some] for key in some[0]}
            encoded = _plain(as_the_host_runs(self.clip.encode_from_tokens, merged))[0].float().cpu()
            rows += encoded.chunk(len(some))
            self._tell(len(some))
        return rows

    def _tell(self, count: int) -> None:
        """So many more texts have been read."""
        if self._count:
            self._done = min(self._done + count, self._count)
            self.on_read(self._done, self._count)

    def some(self, texts: Sequence[str]) -> list[str]:
        """All of the texts: many are read in one run."""
        return list(texts)

    @cached_property
    def is_clip(self) -> bool:
        """Whether all that a network is given comes from OpenAI's and LAION's text encoders."""
        return set(self._streams) <= set(CLIPS)

    @cached_property
    def is_large(self) -> bool:
        """Whether reading is slow, so that fewer texts have to do: with more than ``LARGE`` parameters."""
        return sum(parameter.numel() for parameter in self.clip.patcher.model.parameters()) > LARGE

    @cached_property
    def weighs(self) -> bool:
        """Whether weights in a text reach the text encoder; else it reads the brackets."""
        chunk = self._tokenized(f"({FRAMED[0]}:1.5)")[0]
        return any(float(token[1]) != 1 for token in chunk)

    @property
    def has_pooled(self) -> bool:
        """Whether the text encoder gives a pooled vector of a text."""
        return bool(self.pooled([""])[0].numel())

    def pooled(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """The pooled vectors of texts' first chunks, [1, d] each; empty where the text encoder gives none."""
        new = list(dict.fromkeys(text for text in texts if text not in self._vectors))
        rows = self._vectors | self.recall.rows(new, self._run_pooled, "pooled")
        return [rows[text] for text in texts]

    def telling_pooled(self, texts: Sequence[str]) -> contextlib.AbstractContextManager[None]:
        """The same as ``telling``, of pooled vectors."""
        return self._telling(self.recall.unread(list(dict.fromkeys(texts)), "pooled"))

    def _run_pooled(self, texts: Sequence[str]) -> Iterator[torch.Tensor]:
        encode = partial(self.clip.encode_from_tokens, return_pooled=True)
        for text in texts:
            first = {key: chunks[:1] for key, chunks in self.recall.tokens(text).items()}
            row, vector = map(_plain, as_the_host_runs(encode, first))
            self._listed |= self._at_the_entry({text: row[0].float().cpu()})  # which the same run has given
            self._tell(1)
            yield torch.zeros(1, 0) if vector is None else vector.float().cpu().reshape(1, -1)

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
        room = self.room if tokens is None else tokens
        parts = name.split()
        while len(parts) > 1 and not (self.fits(" ".join(parts)) and len(self.content(" ".join(parts))) <= room):
            parts = parts[:-1]
        return " ".join(parts)

    def beside(self, names: Sequence[str], texts: Sequence[str]) -> list[str]:
        """Those of the texts that fit beside any of the names into what the text encoder reads at once, and say none
        of them themselves."""
        longest = max(min(LONG, len(self.name_tokens(name))) for name in names)
        room = self.room + 2 - ROOM - longest
        apart = [text for text in texts if not any(is_said(name, text) for name in names)]
        return [text for text in apart if self.fits(text) and len(self.content(text)) <= room]

    def fitting(self, templates: Sequence[str], *words: str) -> list[str]:
        """Those of the phrases that the text encoder reads at once with any of the words; "{}" in any case."""
        return [t for t in templates if t == "{}" or all(self.fits(say(t, word)) for word in words)]

    def span(self, name: str) -> torch.Tensor:
        """The encodings of a name's tokens where it stands alone, [t, d]."""
        return self(name).context[0, self.place("{}", name)]

    def place(self, template: str, name: str) -> slice:
        """Where the tokens of a name stand in a phrase said of it: their places in its encodings.

        They are what differs from the phrase said of another word; so signs that the encoder reads together with the
        name's end belong to them. Raises ErasureError where nothing differs.
        """
        own = self.content(say(template, name))
        said = [self.content(say(template, word)) for word in STAND_INS]
        first = min(alike([own, other]) for other in said)
        after = min(alike([own[::-1], other[::-1]]) for other in said)
        if first + after >= len(own):
            self.name_tokens(name)  # refuses what is no name
            raise ErasureError(
                f"The text encoder does not read '{plain(name)}' in '{plain(say(template, name))}': say it in other "
                "words."
            )
        start = self._frame.start + self._first_row
        return slice(start + first, start + len(own) - after)


def alike_long(*parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Encodings [n, d] as tensors [texts, longest n, d], one for each part; a shorter one goes on with its last row."""
    longest = max(len(row) for part in parts for row in part)
    return [torch.stack([torch.cat([r, r[-1:].expand(longest - len(r), -1)]) for r in part]) for part in parts]


class Ahead(Encoder):
    """Of a CLIP whose context begins with what OpenAI's text encoders give, and goes on with T5's: the former."""

    def __init__(self, whole: Encoder):
        super().__init__(whole.clip)
        self.whole = whole

    @cached_property
    def _streams(self) -> list[str]:
        return [name for name in self.whole._streams if name in CLIPS]

    def rows(self, texts: Sequence[str]) -> list[torch.Tensor]:
        return [row[: self.whole._first_row] for row in self.whole.rows(texts)]


class Places(Protocol):
    def place(self, template: str, name: str) -> slice: ...


def paired(encode: Places, template: str, name: str, replacement: str) -> tuple[int, int]:
    """Where the encodings of a phrase begin that a name has a part in, and those that take their places in the phrase
    with the name replaced: at the last token of each.

    An empty ``replacement`` pairs the name's last token with what stands in front of it; where nothing does, the next
    token with the phrase's first one.
    """
    place = encode.place(template, name)
    if replacement:
        return place.stop - 1, encode.place(template, replacement).stop - 1
    return (place.stop - 1, place.start - 1) if place.start else (place.stop, 0)


def _numbers(chunk: Sequence[tuple]) -> list[int]:
    return [_number(token[0]) for token in chunk]


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
