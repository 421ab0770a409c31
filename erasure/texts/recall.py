"""Encodings that are remembered: in memory while the program runs, and lists that every concept needs on disk.

A row of encodings lies under a key, which says what made it (``identity.py``) and its tokens: another text encoder,
another LoRA or a changed embedding has another key, so nothing here is ever out of date. Both places are bounded, and
what was not used for longest goes first. The folder can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import RLock
from uuid import uuid4

import comfy.model_management
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..protocols import Clip
from .identity import checksum, identity, pooling

log = logging.getLogger(__name__)

ROOM = 1 << 30
"""Bytes of all that is remembered in memory, at most; a sixteenth of the machine's memory where that is less."""
ROOM_ON_DISK = 512 << 20
"""Bytes of all files."""
PLACE = "CONCEPT_ERASURE_MEMORY"
"""An environment variable: another folder for the files, or ``off`` for none."""
NOWHERE = "off"
Tokens = dict[str, list[list[tuple]]]
"""Of a text, what each of the host's tokenizers makes of it: chunks of tokens with their weights."""
Rows = dict[str, torch.Tensor]


class Memory:
    """Tensors under keys; the least recently used go when there is no room for all."""

    def __init__(self, room: int):
        self.room, self.size = room, 0
        self._rows: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._lock = RLock()

    def get(self, key: str) -> torch.Tensor | None:
        with self._lock:
            if key in self._rows:
                self._rows.move_to_end(key)
            return self._rows.get(key)

    def put(self, key: str, row: torch.Tensor) -> torch.Tensor:
        """Remembers a copy of a row and returns it; later readers must not write into it."""
        with self._lock, torch.inference_mode(False):  # so that autograd takes it, whoever read it first
            self._drop(key)
            row = row.detach().clone(memory_format=torch.contiguous_format)
            self._rows[key] = row
            self.size += row.nbytes
            while self.size > self.room and len(self._rows) > 1:
                self._drop(next(iter(self._rows)))
            return row

    def _drop(self, key: str) -> None:
        row = self._rows.pop(key, None)
        self.size -= 0 if row is None else row.nbytes

    def clear(self) -> None:
        with self._lock:
            self._rows.clear()
            self.size = 0


class Shelf:
    """A folder with a file for each list of texts and each text encoder that has read it."""

    def __init__(self, folder: Path | None = None, room: int = ROOM_ON_DISK):
        self.folder, self.room = folder, room

    def load(self, name: str, keys: Sequence[str]) -> dict[str, torch.Tensor]:
        """The rows of a list under their keys; none where they are not on disk, or not all of them, or damaged."""
        if self.folder is None:
            return {}
        path = self.folder / f"{name}.safetensors"
        try:
            with safe_open(path, framework="pt") as file:
                facts, values = file.metadata() or {}, file.get_tensor("rows")
                lengths = file.get_tensor("lengths").tolist() if "lengths" in file.keys() else None  # noqa: SIM118
            rows = list(values) if lengths is None else values.split(lengths)
            if facts.get("keys") != "\n".join(keys) or len(rows) != len(keys) or facts.get("sum") != checksum(values):
                return {}
            os.utime(path)
        except (OSError, ValueError, RuntimeError, SafetensorError):
            return {}
        return dict(zip(keys, rows, strict=True))

    def save(self, name: str, rows: Mapping[str, torch.Tensor]) -> None:
        """Writes a list; a disk that is full or may not be written to is no error."""
        if self.folder is None or sum(row.nbytes for row in rows.values()) > self.room:
            return
        tensors = together(list(rows.values()))
        part = self.folder / f"{uuid4().hex}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, part, {"keys": "\n".join(rows), "sum": checksum(tensors["rows"])})
            os.replace(part, self.folder / f"{name}.safetensors")
            self._make_room()
        except (OSError, SafetensorError) as error:
            log.debug("Encodings are not remembered on disk: %s", error)
            with contextlib.suppress(OSError):
                part.unlink()

    def _make_room(self) -> None:
        """Deletes what was not used for longest, and what an interrupted writing left."""
        files = sorted(((path.stat().st_mtime, path.stat().st_size, path) for path in self._files()), reverse=True)
        total = 0
        for _, size, path in files:
            total += size
            if total > self.room:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _files(self) -> Iterable[Path]:
        return [path for path in (self.folder or Path()).iterdir() if path.suffix in (".safetensors", ".part")]


def together(rows: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The rows of a list as tensors of a file; those of texts of different lengths one behind the other."""
    if len({row.shape for row in rows}) == 1:
        return {"rows": torch.stack(list(rows))}
    return {"rows": torch.cat(list(rows)), "lengths": torch.tensor([len(row) for row in rows])}


ROWS = Memory(min(ROOM, int(comfy.model_management.total_ram * 2**20 / 16)))
"""What all text encoders have read."""
SHELF = Shelf()
"""Their lists on disk; ``keep_lists`` says where."""


def keep_lists(folder: str) -> None:
    """Remembers lists on disk in a folder, or where the environment variable says."""
    place = os.environ.get(PLACE, "").strip() or folder
    SHELF.folder = None if place == NOWHERE else Path(place)


class Recall:
    """What a CLIP has read before, with what makes it anew.

    On a CPU a text's encodings are the same in whatever company they are computed. Elsewhere they may differ in the
    last bit, so there a text is remembered together with those that were read in the same run.
    """

    def __init__(self, clip: Clip):
        self.clip, self.identity = clip, identity(clip)
        self.apart = self.identity is not None and clip.patcher.load_device.type == "cpu"
        self._tokens: dict[str, Tokens] = {}
        self._facts: dict[str, str] = {}

    def tokens(self, text: str) -> Tokens:
        """The chunks of a text as each of the host's tokenizers has them."""
        if text not in self._tokens:
            self._tokens[text] = self.clip.tokenize(text)
        return self._tokens[text]

    def rows(
        self, texts: Sequence[str], run: Callable[[Sequence[str]], Iterable[torch.Tensor]], kind: str = "row"
    ) -> Rows:
        """The encodings of texts' first chunks; ``run(texts)`` computes them. ``kind``: or their pooled vectors."""
        if self.identity is None:
            return dict(zip(texts, run(texts), strict=True)) if texts else {}
        keys = self._keys(kind if kind == "row" else f"{kind} {self._pooling}", texts)
        rows = _remembered(keys)
        new = [text for text in texts if text not in rows]
        if new:
            new = new if self.apart else list(texts)
            rows |= {text: ROWS.put(keys[text], row) for text, row in zip(new, run(new), strict=True)}
        return rows

    def listed(self, kind: str, texts: Sequence[str], read: Callable[[], Iterable[torch.Tensor]]) -> Rows:
        """What is remembered of a list of texts as a whole, in memory and on disk; ``read()`` makes it anew."""
        if self.identity is None:
            return dict(zip(texts, read(), strict=True))
        return self._shelved(self._keys(f"{kind} {self.named(texts)}", texts), read)

    def listed_pooled(self, texts: Sequence[str], read: Callable[[], Iterable[torch.Tensor]]) -> Rows:
        """The same of their pooled vectors."""
        return self.listed(f"pooled {self._pooling}", texts, read)

    def whole(self, kind: str, texts: Sequence[str], make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What is remembered of all texts of a list together, in memory and on disk; ``make()`` makes it anew."""
        if self.identity is None:
            return make()
        return self._shelved({"": hashed([str(self.identity), kind, self.named(texts)])}, lambda: [make()])[""]

    def _shelved(self, keys: Mapping[str, str], make: Callable[[], Iterable[torch.Tensor]]) -> Rows:
        """What is remembered under keys, all of it or nothing."""
        rows = _remembered(keys)
        if len(rows) < len(keys):
            name = f"{self.identity}-{hashed(keys.values())[:8]}"
            old = SHELF.load(name, list(keys.values()))
            new = old.values() if old else make()
            rows = {text: ROWS.put(key, row) for (text, key), row in zip(keys.items(), new, strict=True)}
            if not old:
                SHELF.save(name, {keys[text]: row for text, row in rows.items()})
        return rows

    def unread(self, texts: Sequence[str], kind: str = "row") -> int:
        """How many of some texts' first chunks have yet to be read."""
        if not self.apart:
            return len(texts)
        kind = kind if kind == "row" else f"{kind} {self._pooling}"
        return sum(ROWS.get(key) is None for key in self._keys(kind, texts).values())

    @cached_property
    def _pooling(self) -> str:
        """What pooled vectors depend on beside encodings."""
        return pooling(self.clip)

    def named(self, texts: Iterable[str]) -> str:
        """What the encodings of texts follow from."""
        return hashed([str(self.identity), *map(self._fact, texts)])

    def _keys(self, kind: str, texts: Sequence[str]) -> dict[str, str]:
        company = "" if self.apart else self.named(texts)
        facts = [str(self.identity), kind, company]
        return {text: hashed([*facts, self._fact(text), str(i) if company else ""]) for i, text in enumerate(texts)}

    def _fact(self, text: str) -> str:
        """What the host's tokenizers give for a text's first chunk, vectors of embeddings by their values."""
        if text not in self._facts:
            first = {key: chunks[0] for key, chunks in self.tokens(text).items()}
            facts = repr(first)
            if "tensor(" in facts:
                facts = repr({key: list(map(_told, tokens)) for key, tokens in first.items()})
            self._facts[text] = facts
        return self._facts[text]


def _remembered(keys: Mapping[str, str]) -> Rows:
    """What is in memory of texts, by their keys."""
    rows = {text: ROWS.get(key) for text, key in keys.items()}
    return {text: row for text, row in rows.items() if row is not None}


def hashed(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


def _told(token: Sequence) -> object:
    return (checksum(token[0]), *token[1:]) if isinstance(token[0], torch.Tensor) else token
