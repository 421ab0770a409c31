"""There are no prompt lists here: these prompts are the user's own."""

from __future__ import annotations

from .attack import Concept, Typed


class OtherNames(Typed):
    """What the user typed."""

    name = "other names"
    title = "Asked by other names"
    deed = "Asks with the prompts in 'other_names'."
    meaning = "Erase those names, too: type them beside the concept's own."

    def texts(self, concept: Concept) -> list[str]:
        return list(concept.others)
