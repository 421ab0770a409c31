"""The pooled text: one vector of a whole text, which some families read beside its tokens (SDXL, Flux.1, SD 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from .encoder import Encoder, batched
from .phrases import spread

MOST = 150
"""The most texts of one list that are read: the host gives the vector of one text in each run of its text encoders."""


class Pooled:
    """Reads texts as ``Encoder`` does, but as their pooled vectors, [1, d] each."""

    def __init__(self, encode: Encoder):
        self.encode = encode
        self.parts = [self]

    def rows(self, texts: Sequence[str]) -> list[torch.Tensor]:
        return self.encode.pooled(texts)

    def read(self, texts: Sequence[str]) -> None:
        self.rows(texts)

    def stream(self, texts: Sequence[str]) -> Iterator[list[torch.Tensor]]:
        return map(self.rows, batched(texts))

    def some(self, texts: Sequence[str]) -> list[str]:
        """At most about ``MOST`` of the texts, evenly taken."""
        return spread(list(texts), MOST)

    def sum_of_list(
        self, kind: str, texts: Sequence[str], take: Callable[[Sequence[torch.Tensor]], torch.Tensor]
    ) -> torch.Tensor:
        return torch.stack([take(rows) for rows in self.stream(texts)]).sum(0)

    def place(self, template: str, name: str) -> slice:
        """The one vector stands behind all of the phrase, so that it is paired with any other phrase's."""
        return slice(1, 1)

    def fitting(self, templates: Sequence[str], *words: str) -> list[str]:
        return self.encode.fitting(templates, *words)

    def beside(self, names: Sequence[str], texts: Sequence[str]) -> list[str]:
        return self.encode.beside(names, texts)

    @property
    def is_large(self) -> bool:
        return self.encode.is_large

    def telling(self, texts: Sequence[str]):
        return self.encode.telling_pooled(texts)
