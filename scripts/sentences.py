"""The sentences that nodes say, and which of them a language lacks.

    python3 -m scripts.sentences          # every language: what is missing, and what no node says any more
    python3 -m scripts.sentences de       # German: missing sentences as JSON, to be translated

They are read from the source: string literals and f-strings of several words, with a number in the place of what
changes. Translations are in ``locales/LANGUAGE/sentences.json``; ``erasure/texts/catalogue.py`` uses them.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCALES = ROOT / "locales"
FOLDERS = ("erasure", "nodes")
NOT_SAID = {
    "concepts.py", "fillers.py", "lettering.py", "modelspec.py", "only_in.py", "vocabulary.py",
}  # fmt: skip
"""Files of which only errors are said: they hold texts for the text encoder, or for files."""
SCHEMA = {"tooltip", "description", "display_name", "search_aliases", "category", "node_id", "placeholder", "template"}
"""What locales/LANGUAGE/nodeDefs.json translates, and the host."""
PIECES = (
    "{0} name: {1}", "{0} names: {1}", "{0} text: {1}", "{0} texts: {1}", "{0} concept: {1}", "{0} concepts: {1}",
    "{0} preserved text: {1}", "{0} preserved texts: {1}", "less than {0} %",
)  # fmt: skip
"""What is put together of shorter pieces than a translation can be made of."""
NAMES = {
    "all but cross-attention", "all but one", "last of the name", "all in context", "weighted for a prompt",
    "in the same file", "in a file of its own", "not at all", "no erasures yet: make one with Save Erasure",
    "list[dict[str, nn.Parameter]]", "modified by an inplace operation", "Inference tensors cannot be saved",
    "a photo of a shape", "depth of field", "Stable Diffusion XL", "Stable Diffusion XL Refiner",
}  # fmt: skip
"""Choices of inputs, which have one name in every language, and texts that are for programs and text encoders."""
FEWEST = 3
"""Words of a sentence; shorter pieces are names of methods, files and modes."""


def sentences() -> list[str]:
    """All of them, in the order of the source, each once."""
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    texts = [text for path in paths for text in _of_file(path)]
    return list(dict.fromkeys([*texts, *PIECES]))


def _of_file(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    only_errors = path.name in NOT_SAID
    for text, is_error in _literals(tree, False):
        if (is_error or not only_errors) and is_sentence(text):
            yield text


def is_sentence(text: str) -> bool:
    """Whether a literal is said, and is neither a name nor a pattern."""
    words = [word for word in text.split() if re.fullmatch(r"[('\"]*[A-Za-z'’-]{2,}[).,:;!?'\"…]*", word)]
    return len(words) >= FEWEST and text not in NAMES and "\\" not in text


def _literals(node: ast.AST, is_error: bool) -> Iterator[tuple[str, bool]]:
    """Literals below a node, and whether each is part of an error; docstrings and schemas left out."""
    if isinstance(node, ast.keyword) and node.arg in SCHEMA or getattr(node, "name", "") == "define_schema":
        return
    is_error = is_error or isinstance(node, ast.Raise)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        text = _template(child)
        if text is not None:
            yield text, is_error
        for part in child.values if isinstance(child, ast.JoinedStr) else [child]:
            if isinstance(part, ast.FormattedValue) or part is child:
                yield from _literals(part, is_error)


def _template(node: ast.AST) -> str | None:
    """A literal as the catalogue has it; None for any other node."""
    if isinstance(node, ast.Constant):
        return node.value.strip("\n") if isinstance(node.value, str) else None
    if not isinstance(node, ast.JoinedStr):
        return None
    pieces, number = [], 0
    for value in node.values:
        if isinstance(value, ast.Constant):
            pieces.append(str(value.value))
        else:
            pieces.append(f"{{{number}}}")
            number += 1
    return "".join(pieces).strip("\n")


def translations(language: str) -> dict[str, str]:
    """A language's sentences; none for a language without any."""
    path = LOCALES / language / "sentences.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def languages() -> list[str]:
    return sorted(path.name for path in LOCALES.iterdir() if path.is_dir() and path.name != "en")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("language", nargs="?", choices=languages())
    language = parser.parse_args().language
    said = sentences()
    if language:
        known = translations(language)
        print(json.dumps({text: "" for text in said if text not in known}, ensure_ascii=False, indent=2))
        return
    for one in languages():
        known = translations(one)
        missing, old = [text for text in said if text not in known], [text for text in known if text not in said]
        print(f"{one}: {len(missing)} of {len(said)} missing, {len(old)} that no node says any more", *old, sep="\n  ")


if __name__ == "__main__":
    main()
