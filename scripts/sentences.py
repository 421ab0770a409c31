"""The sentences that nodes say, and which of them a language lacks.

    python3 -m scripts.sentences          # every language: what is missing, and what no node says any more
    python3 -m scripts.sentences de       # German: missing sentences as JSON, to be translated

They are read from the source: string literals and f-strings of several words, with a number in the place of what
changes. Translations are in ``locales/LANGUAGE/sentences.json``; ``erasure/texts/catalogue.py`` uses them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from .translations import LOCALES, ROOT, read, report

FOLDERS = ("erasure", "nodes")
NOT_SAID = {
    "by_kind.py", "card.py", "card_html.py", "card_picture.py", "fillers.py", "lettering.py", "modelspec.py",
    "only_in.py", "phrases.py", "vocabulary.py",
}  # fmt: skip
"""Files of which only errors are said: they hold texts for the text encoder, or for files."""
SCHEMA = {"tooltip", "description", "display_name", "search_aliases", "category", "node_id", "placeholder", "template"}
"""What locales/LANGUAGE/nodeDefs.json translates, and the host."""
PIECES = (
    "{0d} name: {1}", "{0d} names: {1}", "{0d} text: {1}", "{0d} texts: {1}", "{0d} concept: {1}",
    "{0d} concepts: {1}", "{0d} preserved text: {1}", "{0d} preserved texts: {1}", "less than {0d} %", "{0d} of {1d}",
    "{0d} of {1d} pictures", "{0d} of {1d} attack", "{0d} of {1d} attacks", "text weights", "all {0d}",
    "rank {0d}", "full matrices", "clean latents",
    "a whole number", "a number", "Reading texts", "not counted.", "in {0d} steps", "only {0}",
    "{0} → {1}: the model's predictions moved {2} of the way.",
    "steps: {0d}", "tokens: {0d}, steps: {1d}", "loss first {0d}, last {1d}", "a key", "a control branch",
    "Holds: {0}; {1d} MB",
    "{0d} [{1}] of {2d}", "{0d} of {1d} steps: {2d} and {3d}",
    "denoise {0d}: {1d} and {2d}", "best of {0d}",
)  # fmt: skip
"""What is put together of shorter pieces than a translation can be made of; a place with a d takes numbers alone."""
NAMES = {
    "all but cross-attention", "all but one", "last of the name", "all in context", "weighted for a prompt",
    "in the same file", "in a file of its own", "not at all", "no erasures yet: make one with Save Erasure",
    "no dictionaries yet: make one with Train Concept Dictionary",
    "list[dict[str, nn.Parameter]]", "modified by an inplace operation", "Inference tensors cannot be saved",
    "a photo of a shape", "depth of field", "Stable Diffusion XL", "Stable Diffusion XL Refiner",
    "SD 1.x, SD 2.x, SDXL", "HunyuanVideo and HunyuanImage", "Z-Image and Lumina 2",
    "Flux.1 and Flux.2", "Erases {0}{1}", "ESR-{0} {1}", "PSR-{0} {1}", "CLIP-I, kept {0}",
    "CLIP score, {0} {1}",
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
    if text in NAMES or "\\" in text:
        return False
    if re.fullmatch(r"(?:[A-Z]| ).*\{\d+\}.*", text) and re.search(r"[A-Za-z]{3}", text) and text[-1] in ".}":
        return True
    words = [word for word in text.split() if re.fullmatch(r"[('\"]*[A-Za-z'’-]{2,}[).,:;!?'\"…]*", word)]
    return len(words) >= FEWEST


def _literals(node: ast.AST, is_error: bool) -> Iterator[tuple[str, bool]]:
    """Literals below a node, and whether each is part of an error; docstrings and schemas left out."""
    if isinstance(node, ast.keyword) and node.arg in SCHEMA or _makes_inputs(node):
        return
    is_error = is_error or isinstance(node, ast.Raise)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        text = _template(child)
        for line in (text or "").split("\n"):
            yield _numbered(line), is_error
        for part in child.values if isinstance(child, ast.JoinedStr) else [child]:
            if isinstance(part, ast.FormattedValue) or part is child:
                yield from _literals(part, is_error)


def _makes_inputs(node: ast.AST) -> bool:
    """Whether a function makes a schema, or inputs for one."""
    if not isinstance(node, ast.FunctionDef):
        return False
    return node.name == "define_schema" or (node.returns is not None and "io.Input" in ast.unparse(node.returns))


def _template(node: ast.AST) -> str | None:
    """A literal as the catalogue has it; None for any other node."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if not isinstance(node, ast.JoinedStr):
        return None
    return "".join(str(value.value) if isinstance(value, ast.Constant) else "{}" for value in node.values)


def _numbered(line: str) -> str:
    """The line with numbers in its places, which ``str.format`` leaves empty."""
    numbers = count()
    return re.sub(r"\{\}", lambda _: f"{{{next(numbers)}}}", line)


def translations(language: str) -> dict[str, str]:
    """A language's sentences; none for a language without any."""
    return read(LOCALES / language / "sentences.json")


if __name__ == "__main__":
    report(__doc__, sentences(), translations, "that no node says any more")
