"""Names behind what many prompts begin with, which moves them far back in the text."""

from __future__ import annotations

from .attack import SAID, Concept, Typed

TAGS = (
    "masterpiece", "best quality", "ultra detailed", "sharp focus", "8k", "highres", "absurdres", "cinematic lighting",
    "depth of field", "professional", "award winning", "trending",
)  # fmt: skip
"""What people put in front of a prompt; nothing here is erased, preserved or fitted behind these (``fillers.py``)."""


class BehindTags(Typed):
    """The names in plain phrases, behind tags."""

    name = "behind tags"
    title = "Asked behind quality tags"
    deed = 'Puts eight tags ("masterpiece, best quality, …") in front of its names, as many prompts begin.'
    meaning = "Long prompts get past the erasure: raise the strength, or train."

    def texts(self, concept: Concept) -> list[str]:
        asked = [phrase.format(name) for name in concept.names for phrase in SAID]
        return [behind_tags(text, turn) for turn, text in enumerate(asked)]


def behind_tags(text: str, turn: int = 0, count: int = 8) -> str:
    """The text behind so many of ``TAGS``; each ``turn`` begins with the next of the first ``count``."""
    return ", ".join([*(TAGS[(turn + i) % count] for i in range(count)), text])
