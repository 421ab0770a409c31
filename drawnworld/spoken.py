"""What is said of the training pictures, in tokens: written once for every shard, so that a step only picks."""

from __future__ import annotations

import hashlib
import random
import re

import torch
from safetensors.torch import load_file

from toyworld.node.families.drawn import DrawnTokenizer

from . import pictures
from .captions import HEADS, pieces, random_caption
from .fetch import WORK
from .keeping import keep

SEED = 20640
EACH = 12
"""Captions a picture."""
LENGTH = 40
"""Tokens of a caption that are written down; behind them stands only filling."""
TOKENS = 77
START, END = 49406, 49407
_WORD = re.compile(r"[^\W\d_]+|\d|[^\s\w]+|_+")
"""What the tokenizer cuts a text into before it looks for parts of words."""


class Vocabulary:
    """The tokens that captions use, renumbered without gaps, so that training carries no 49,408-row table."""

    def __init__(self) -> None:
        self.tokenizer = DrawnTokenizer()
        self.known: dict[str, list[int]] = {}
        self.used = sorted({token for piece in pieces() for token in self.host(piece)} | {START, END})
        self.compact = {token: i for i, token in enumerate(self.used)}

    @property
    def end(self) -> int:
        return self.compact[END]

    @property
    def fingerprint(self) -> str:
        """Short, and another one for other words."""
        return hashlib.sha256(repr(pieces()).encode()).hexdigest()[:8]

    def host(self, text: str) -> list[int]:
        """The host's 77 token numbers."""
        return [token for token, _ in self.tokenizer.tokenize_with_weights(text)["l"][0]]

    def encode(self, text: str) -> list[int]:
        """The same, renumbered. Words are looked up one by one: the host's tokenizer is slow."""
        tokens = [self.compact[START]]
        for word in _WORD.findall(text.lower()):
            tokens += self._word(word)
        return [*tokens, *[self.end] * (TOKENS - len(tokens))]

    def _word(self, word: str) -> list[int]:
        if word not in self.known:
            row = self.host(word)
            self.known[word] = [self.compact[token] for token in row[1 : row.index(END)]]
        return self.known[word]


def shard(number: int, vocabulary: Vocabulary) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens int16 [IN_SHARD, EACH, LENGTH] and labels int16 [IN_SHARD, EACH, heads]; remembered on disk."""
    path = WORK / f"spoken_{vocabulary.fingerprint}_{number:02}.safetensors"
    if not path.exists():
        rng = random.Random(SEED + number)
        said = [[random_caption(scene, rng) for _ in range(EACH)] for scene in pictures.scenes(number)]
        tokens = [[vocabulary.encode(caption.text)[:LENGTH] for caption in row] for row in said]
        labels = [[caption.labels for caption in row] for row in said]
        both = {"tokens": torch.tensor(tokens, dtype=torch.int16), "labels": torch.tensor(labels, dtype=torch.int16)}
        if bool((both["tokens"][..., -1] != vocabulary.end).any()):
            raise RuntimeError(f"a caption has {LENGTH} tokens or more")
        keep(both, path)
    both = load_file(path)
    return both["tokens"], both["labels"]


def everything(vocabulary: Vocabulary) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and labels of all training pictures."""
    tokens, labels = zip(*(shard(number, vocabulary) for number in range(pictures.SHARDS)), strict=True)
    return torch.cat(tokens), torch.cat(labels)


def whole(tokens: torch.Tensor, end: int) -> torch.Tensor:
    """Tokens as the text encoder takes them, int64 [b, 77]."""
    return torch.nn.functional.pad(tokens.long(), (0, TOKENS - tokens.shape[-1]), value=end)


SIZES = tuple(len(names) + 1 for names in HEADS.values())
"""Classes of each head that reads a caption; the last says that it is left open."""
