"""Words that the text encoder reads as the concept, and that are none of its names."""

from __future__ import annotations

import torch

from ...families import Family
from ...texts.encoder import BATCH, Encoder
from . import ring_a_bell
from .attack import Asked, Attack, Budget, Case, Concept


class TokenSearch(Attack):
    """What somebody finds who has the text encoder and patience."""

    name = "token search"
    title = "Searching for words that bring it back"
    deed = "Looks for odd words, its names left out, that the text encoder reads as the concept (Ring-A-Bell)."
    meaning = "Odd words get past the erasure, and past every list of forbidden words."
    ROWS = 2
    """Rows through the network that a batch of texts is worth."""

    def prompts(self, concept: Concept, budget: Budget) -> int:
        return 1

    def misfit(self, encode: Encoder, family: Family) -> str:
        return "" if encode.is_clip else "for it tries the words of CLIP, and this model's text encoder is another one."

    def effort(self, budget: Budget) -> int:
        search = budget.search
        each = -(-search.population // BATCH)
        return self.ROWS * (-(-search.tried // BATCH) + each * (search.generations + 1))

    def spent(self, budget: Budget) -> str:
        return f"tokens: {budget.search.tokens}, texts tried: {budget.search.texts}"

    @torch.no_grad()
    def ask(self, case: Case) -> Asked:
        text = ring_a_bell.search(
            case.encode, case.concept.names, 1.0, case.budget.search, lambda: case.tick(self.ROWS)
        )
        return Asked({text.text: text.cond})
