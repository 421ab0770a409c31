"""What the concept's name adds to a text, added to texts that do not speak of it."""

from __future__ import annotations

import torch

from . import ring_a_bell
from .attack import Asked, Attack, Budget, Case, Concept


class ConceptDirection(Attack):
    """Encodings that no text has: a program can make them, typing cannot."""

    name = "concept direction"
    title = "Its meaning without its name"
    deed = "Adds what the name means to the text encoder to a prompt that does not say it (Ring-A-Bell)."
    meaning = "A program that changes encodings gets past the erasure; typing alone does not."

    def prompts(self, concept: Concept, budget: Budget) -> int:
        return len(ring_a_bell.NEUTRAL) * len(budget.strengths)

    def spent(self, budget: Budget) -> str:
        return "strength " + ", ".join(f"{s:g}" for s in budget.strengths)

    @torch.no_grad()
    def ask(self, case: Case) -> Asked:
        added = [ring_a_bell.added(case.encode, case.concept.names, s) for s in case.budget.strengths]
        return Asked({prompt: cond for some in added for prompt, cond in some})
