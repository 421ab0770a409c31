"""Texts that are learned: a choice among written ones, or encodings that no text has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..texts.encoder import Text


@dataclass(frozen=True)
class Mixture:
    """Texts and how much of each, ``weights`` [n]: a text that is not written, but mixed from encodings."""

    texts: Sequence[Text]
    weights: torch.Tensor


class Choice(nn.Module):
    """Gumbel-softmax over texts (Jang et al., arXiv 1611.01144): the logits [n] learn, each draw adds noise.

    ``hard`` draws one text and passes gradients straight through; otherwise a draw is a mixture.
    """

    def __init__(self, texts: Sequence[Text], temperature: float, hard: bool):
        super().__init__()
        self.texts, self.temperature, self.hard = list(texts), temperature, hard
        self.logits = nn.Parameter(torch.zeros(len(texts)))

    def draw(self, generator: torch.Generator) -> Mixture:
        """One text, or one mixture, by the logits as they stand and fresh noise."""
        uniform = torch.rand(len(self.logits), generator=generator).clamp(1e-6, 1 - 1e-6)
        noise = -torch.log(-torch.log(uniform)).to(self.logits)
        soft = torch.softmax((self.logits + noise) / self.temperature, 0)
        if not self.hard:
            return Mixture(self.texts, soft)
        one = nn.functional.one_hot(soft.argmax(), len(soft)).to(soft)
        return Mixture(self.texts, one + (soft - soft.detach()))


class Soft(nn.Module):
    """A text whose first ``tokens`` encodings learn, [tokens, d]; they start as the written text's."""

    def __init__(self, text: Text, tokens: int):
        super().__init__()
        self.text, self.count = text, tokens
        self.tokens = nn.Parameter(text.context[0, 1 : 1 + tokens].clone())

    def context(self) -> torch.Tensor:
        """All encodings, [1, n, d]."""
        return self.within(self.text.context)

    def within(self, context: torch.Tensor) -> torch.Tensor:
        """The learned encodings in the place of a context's own, [1, n, d]."""
        tokens = self.tokens[None].to(context.dtype)
        return torch.cat([context[:, :1], tokens.to(context.device), context[:, 1 + self.count :]], 1)
