"""Lists of concepts in files: names, other names, what takes their place, and what is to stay. No torch.

Plain text has a concept on each line, with its other names and its target behind it, and lines that say what stays::

    # what a line with this sign says is a comment
    Van Gogh, Vincent van Gogh -> painting
    watermark, signature ->
    keep: Monet, Rembrandt

JSON says the same in words::

    {"title": "Two styles", "preserve": ["Monet", "Rembrandt"],
     "concepts": [{"name": "Van Gogh", "other_names": ["Vincent van Gogh"], "target": "painting", "strength": 1.0}]}

A target that is left out leaves it to the node; one that is empty is nothing. What a target or a strength is said of
holds for all the names of a concept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..artifact import ErasureError
from .names import Name, read_field, spelled

ENDINGS = (".txt", ".json")
KEEP = re.compile(r"\s*(?:keep|preserve)\s*[:：]\s*(.*)", re.IGNORECASE)
KEYS = {"title", "concepts", "preserve"}
CONCEPT_KEYS = {"name", "other_names", "target", "strength"}


@dataclass(frozen=True)
class ConceptList:
    """What a list holds. ``title``: empty where it has none. ``names``: all names of all concepts, each with its
    concept's target and strength."""

    title: str
    names: tuple[Name, ...]
    preserve: tuple[str, ...] = ()

    def concept_text(self) -> str:
        """The names as the field of a node has them, one a line."""
        return "\n".join(map(_line, self.names))

    def preserve_text(self) -> str:
        """What is to stay, one a line."""
        return "\n".join(self.preserve)


def read_list(file: str, text: str) -> ConceptList:
    """The list in a file's text; the file's ending says which form it has. Raises ErasureError, with the place."""
    title, names, preserve = (_read_json if file.casefold().endswith(".json") else _read_text)(file, text)
    once = {spelled(name.text): name for name in reversed(names)}
    if not once:
        raise ErasureError(f"The list '{file}' holds no concept: write one on each line.")
    return ConceptList(title, tuple(reversed(once.values())), tuple(dict.fromkeys(preserve)))


def _line(name: Name) -> str:
    arrow = "" if name.target is None else f" -> {name.target}".rstrip()
    return f"{name.text}{arrow}" + (f" : {name.strength:g}" if name.strength != 1 else "")


# ---------------------------------------------------------------- plain text


def _read_text(file: str, text: str) -> tuple[str, list[Name], list[str]]:
    names: list[Name] = []
    preserve: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if match := KEEP.fullmatch(line):
            preserve += read_field(match[1]).texts
        else:
            names += _concept(f"line {number} of '{file}'", line)
    return "", names, preserve


def _concept(place: str, line: str) -> list[Name]:
    """The names of one concept, which share the target and the strength of the last."""
    try:
        names = read_field(line).entries
    except ErasureError as error:
        raise ErasureError(f"In {place}: {error}") from error
    if not names:
        return []
    if any(name.target is not None for name in names[:-1]):
        raise ErasureError(f"In {place} there is more behind the target: give each concept a line of its own.")
    last = names[-1]
    return [replace(n, target=last.target, strength=n.strength if n.strength != 1 else last.strength) for n in names]


# ---------------------------------------------------------------- JSON


def _read_json(file: str, text: str) -> tuple[str, list[Name], list[str]]:
    try:
        content = json.loads(text)
    except ValueError as error:
        line, reason = getattr(error, "lineno", 1), getattr(error, "msg", error)
        raise ErasureError(
            f"Line {line} of '{file}' is no valid JSON ({reason}): correct it, such as a comma or a quotation mark too "
            "few or too many, and run again."
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("concepts"), list):
        raise ErasureError(f"'{file}' has no list under \"concepts\": write it as the help page of the node shows.")
    _check_keys(f"'{file}'", content, KEYS)
    names = [name for i, one in enumerate(content["concepts"], 1) for name in _entry(f"concept {i} of '{file}'", one)]
    return str(content.get("title") or ""), names, _texts(f"'{file}'", content, "preserve")


def _entry(place: str, entry: object) -> list[Name]:
    """A concept: an object, or a text as in a line of plain text."""
    if isinstance(entry, str):
        return _concept(place, entry)
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise ErasureError(f'In {place} there is no "name": write what is to be erased there.')
    _check_keys(place, entry, CONCEPT_KEYS)
    target, strength = entry.get("target"), entry.get("strength", 1)
    if not isinstance(target, str | None) or isinstance(strength, bool) or not isinstance(strength, int | float):
        raise ErasureError(f'In {place} "target" must be a text and "strength" a number: correct that.')
    names = read_field(entry["name"]).texts + _texts(place, entry, "other_names")
    goal = None if target is None else " ".join(target.split())
    return [Name(text, goal, float(strength)) for text in names if strength]


def _texts(place: str, entry: dict, key: str) -> list[str]:
    """The names in a list of texts, or in one text."""
    texts = entry.get(key) or []
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ErasureError(f'In {place} "{key}" must be a list of texts: correct that.')
    return [name for text in texts for name in read_field(text).texts]


def _check_keys(place: str, entry: dict, known: Iterable[str]) -> None:
    """Raises ErasureError for a word that means nothing here, such as a misspelling."""
    unknown: Sequence[str] = sorted(set(entry) - set(known))
    if unknown:
        raise ErasureError(
            f'In {place} "{unknown[0]}" means nothing: the words are {", ".join(sorted(known))}; correct or remove it.'
        )
