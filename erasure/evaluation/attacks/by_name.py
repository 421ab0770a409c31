"""A check more than an attack: training here sees the same phrasings."""

from __future__ import annotations

from .attack import SAID, Concept, Typed


class ByName(Typed):
    """The names that were erased, in plain phrases."""

    name = "by name"
    title = "Asked by its name"
    deed = f"Says the names that were erased in {len(SAID)} plain phrases."
    meaning = "It is not erased: train longer, raise the strength, or choose another target."

    def texts(self, concept: Concept) -> list[str]:
        return [phrase.format(name) for name in concept.names for phrase in SAID]
