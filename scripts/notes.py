"""What the templates' notes and titles say, and empty text boxes; and which of it a language lacks.

    python3 -m scripts.notes          # every language: what is missing, and what no template says any more
    python3 -m scripts.notes de       # German: missing lines as JSON, to be translated

The lines are read from ``workflows/*.json``, without the numbers in front of them, and placeholders of text boxes from
``nodes/*.py``. Translations are in ``web/notes/LANGUAGE.json``; ``web/js/notes.js`` puts them in when the editor opens
a template, or makes a node.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .translations import ROOT, read, report

NOTES = ROOT / "web" / "notes"
NOTE = "MarkdownNote"
NUMBER = re.compile(r"^\d+\. ")


def lines() -> list[str]:
    """All of them, in the order of the templates and then of the nodes, each once."""
    files = sorted((ROOT / "workflows").glob("*.json"))
    texts = [text for file in files for text in _of_graph(json.loads(file.read_text(encoding="utf-8")))]
    texts += [text for file in sorted((ROOT / "nodes").glob("*.py")) for text in _placeholders(file)]
    return list(dict.fromkeys(NUMBER.sub("", line) for text in texts for line in text.split("\n")))


def _of_graph(graph: dict[str, Any]) -> Iterator[str]:
    for node in graph["nodes"]:
        if "title" in node:
            yield node["title"]
        if node["type"] == NOTE:
            yield node["widgets_values"][0]
    yield from (group["title"] for group in graph["groups"])


def _placeholders(file: Path) -> Iterator[str]:
    """What stands in the empty text boxes of a file's nodes."""
    for part in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(part, ast.keyword) and part.arg == "placeholder" and isinstance(part.value, ast.Constant):
            yield str(part.value.value)


def translations(language: str) -> dict[str, str]:
    """A language's lines; none for a language without any."""
    return read(NOTES / f"{language}.json")


if __name__ == "__main__":
    report(__doc__, lines(), translations, "that no template says")
