"""Which words a text encoder takes for the nearest to a concept's name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .concepts import Encoder, batched

TAIL = 20
"""Tokens from a name's last one on by which names are compared."""


def neighbours(encode: Encoder, names: Sequence[str], words: Sequence[str]) -> list[list[str]]:
    """For each name, the words from the nearest to the farthest, by what a word leaves behind itself in a text.

    Compared are the encodings of "a WORD" from its last token on, centred, because all encodings share most of their
    length.
    """
    found = [*names, *words]
    last = [encode.place(f"a {word}", word) + len(encode.name_tokens(word)) - 1 for word in found]
    count = min(TAIL, encode.chunks([""]).shape[1] - max(last))
    tails = torch.cat(
        [
            torch.stack([row[start : start + count].flatten() for row, start in zip(rows, starts, strict=True)])
            for rows, starts in zip(encode.stream([f"a {word}" for word in found]), batched(last), strict=True)
        ]
    )
    tails = F.normalize(tails - tails.mean(0), dim=1)
    order = (tails[: len(names)] @ tails[len(names) :].T).argsort(descending=True)
    return [[words[i] for i in row] for row in order.tolist()]
