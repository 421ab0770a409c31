"""What the templates' notes and groups say, and which of it a language lacks.

    python3 -m scripts.notes          # every language: what is missing, and what no template says any more
    python3 -m scripts.notes de       # German: missing lines as JSON, to be translated

The lines are read from ``workflows/*.json``, without the numbers in front of them. Translations are in
``web/notes/LANGUAGE.json``; ``web/js/notes.js`` puts them in when the editor opens a template.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .sentences import languages

ROOT = Path(__file__).resolve().parents[1]
NOTES = ROOT / "web" / "notes"
NOTE = "MarkdownNote"
NUMBER = re.compile(r"^\d+\. ")


def lines() -> list[str]:
    """All of them, in the order of the templates, each once."""
    files = sorted((ROOT / "workflows").glob("*.json"))
    texts = [text for file in files for text in _of_graph(json.loads(file.read_text(encoding="utf-8")))]
    return list(dict.fromkeys(NUMBER.sub("", line) for text in texts for line in text.split("\n")))


def _of_graph(graph: dict[str, Any]) -> Iterator[str]:
    for node in graph["nodes"]:
        if node["type"] == NOTE:
            yield node["title"]
            yield node["widgets_values"][0]
    yield from (group["title"] for group in graph["groups"])


def translations(language: str) -> dict[str, str]:
    """A language's lines; none for a language without any."""
    path = NOTES / f"{language}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("language", nargs="?", choices=languages())
    language = parser.parse_args().language
    shown = lines()
    if language:
        known = translations(language)
        print(json.dumps({text: "" for text in shown if text not in known}, ensure_ascii=False, indent=2))
        return
    for one in languages():
        known = translations(one)
        missing, old = [text for text in shown if text not in known], [text for text in known if text not in shown]
        print(f"{one}: {len(missing)} of {len(shown)} missing, {len(old)} that no template says", *old, sep="\n  ")


if __name__ == "__main__":
    main()
