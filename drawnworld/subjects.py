"""What is drawn: subjects with their icons, kinds, other names, keywords and a description that never names them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

IRREGULAR = {
    "wolf": "wolves", "mouse": "mice", "octopus": "octopuses", "butterfly": "butterflies", "cactus": "cacti",
    "strawberry": "strawberries", "church": "churches", "bus": "buses", "axe": "axes", "knife": "knives",
    "fox": "foxes", "grapes": "grapes", "cherries": "cherries", "scissors": "scissors", "swords": "swords",
    "ladybug": "ladybugs", "fire truck": "fire trucks", "tomato": "tomatoes",
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """One subject; ``icon`` is its name in the icon sets and in the keywords' data."""

    name: str
    icon: str
    kind: str
    others: tuple[str, ...]
    keywords: tuple[str, ...]
    """Our own, beside those of the keywords' data."""
    description: str

    @property
    def plural(self) -> str:
        return IRREGULAR.get(self.name, f"{self.name}s")


KINDS = ("animal", "plant", "food", "vehicle", "building", "instrument", "tool", "weapon", "object")
_TABLE = Path(__file__).with_name("subjects.txt")


def _subject(line: str) -> Subject:
    name, icon, kind, others, keywords, description = (cell.strip() for cell in line.split("|"))
    return Subject(name, icon, kind, tuple(others.split(", ")), tuple(keywords.split(", ")), description)


SUBJECTS = tuple(_subject(line) for line in _TABLE.read_text().splitlines() if "|" in line and line[0] != "#")
BY_NAME = {subject.name: subject for subject in SUBJECTS}
