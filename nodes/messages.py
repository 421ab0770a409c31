"""What nodes say of an erasure: its verdict first, then what was read and what was preserved."""

import contextlib
import os
from collections.abc import Callable, Iterable

import folder_paths
from comfy_api.latest import io, ui

from ..erasure import inspection
from ..erasure.artifact import Erasure, ErasureError
from ..erasure.host import attach
from ..erasure.texts.names import MOST_QUOTED, files_in, listing, plain, read_field, short
from ..erasure.verdict import Finding, Verdict, read_verdict
from .types import show

WHILE_DRAWING = "Acts while drawing only: a saved or merged checkpoint comes without it."
TWICE = "This erasure is on the connected model already, and acts twice: take one of the two out."
LARGEST_FILE = 1_000_000
"""Bytes of a file of names."""


def message_of(erasure: Erasure, *notices: str) -> str:
    """What a node says that has made an erasure."""
    verdict = read_verdict(erasure.metadata.verdict).plus(*(Finding("⚠", notice) for notice in notices if notice))
    return "\n".join(line for line in (verdict.text(), *what_was_read(erasure)) if line)


def put_on(model, erased, erasure: Erasure, strength: float, *notices: str) -> Verdict:
    """The verdict on an erasure that a node has put on a MODEL: ``model`` came in, ``erased`` goes out."""
    verdict = inspection.full(model, erasure, strength)
    arrival = attach.arrival_on(erased)
    nothing_known = set(erasure.names) <= set(erasure.metadata.unknown.splitlines())
    if arrival is not None and not (nothing_known and arrival.is_whole):
        verdict = verdict.plus(Finding("✓" if arrival.is_whole else "⚠", arrival.sentence()))
    if attach.is_twice(model, erasure):
        verdict = verdict.plus(Finding("⚠", TWICE))
    if attach.is_beside(erased) and not erasure.beside:
        verdict = verdict.plus(Finding("✓", WHILE_DRAWING))
    return verdict.plus(*(Finding("⚠", notice) for notice in (*attach.doubts(model, erasure), *notices) if notice))


def what_was_read(erasure: Erasure) -> list[str]:
    """How the names were read, and what was preserved."""
    m = erasure.metadata
    lines = m.notes.splitlines()
    if m.only_in:
        lines.append(f"Erased only beside {listing(m.only_in.splitlines(), 'text', 'texts')}.")
    if m.preserve:
        lines.append(f"Preserved {listing(m.preserve.splitlines(), 'text', 'texts')}.")
    return lines


class TextWithTargets(ui.PreviewText):
    """What a node says, and what the editor's rows show of each line of its concepts; see web/js/rows.js."""

    def __init__(self, text: ui.PreviewText, field: str, erasure: Erasure):
        super().__init__(text.value)
        self.targets = target_rows(field, erasure)

    def as_dict(self):
        return {**super().as_dict(), "erasure_targets": self.targets}


def target_rows(field: str, erasure: Erasure) -> list[dict[str, object]]:
    """For each line of a field that is one name: what takes its place, the nearest words that could, and whether the
    text encoder does not know it."""
    targets = dict(zip(erasure.names, erasure.targets, strict=True))
    choices = dict(zip(erasure.names, erasure.choices, strict=False))
    strange = erasure.metadata.unknown.splitlines()
    rows: list[dict[str, object]] = []
    for line in field.splitlines():
        with contextlib.suppress(ErasureError):  # a line that asks for a file
            match read_field(line).texts:
                case [name] if name in targets:
                    nearest = [plain(word) for word in choices.get(name, ())]
                    row = {"line": line.strip(), "target": plain(targets[name]), "nearest": nearest}
                    rows.append({**row, "unknown": name in strange})
    return rows


def names(erasure: Erasure) -> str:
    """The concepts of an erasure, in one line."""
    return named(erasure.names)


def named(texts: Iterable[str]) -> str:
    """Concepts in one line."""
    return bounded(texts) or "a concept without a name"


def bounded(texts: Iterable[str]) -> str:
    """Some texts in one line, however many there are."""
    first = list(texts)
    return ", ".join(short(plain(text)) for text in first[:MOST_QUOTED]) + (", …" if len(first) > MOST_QUOTED else "")


def warner(node: type[io.ComfyNode], text: str) -> Callable[[str], None]:
    """Takes a sentence while the model runs, long after its node has said ``text``, and puts it on that node."""
    place = node.hidden.unique_id if node.hidden is not None else None
    warnings: list[str] = []

    def warn(sentence: str) -> None:
        attach.log.warning("%s", sentence)
        if sentence not in warnings:
            warnings.append(sentence)
            show(node, "\n".join([*(f"⚠ {warning}" for warning in warnings), text]), place)

    return warn


def open_input_file(name: str) -> str:
    """The text of a file in the host's input folder, for lines such as "file: names.txt". Raises ErasureError."""
    try:
        path = _input_path(name)
        if os.path.getsize(path) > LARGEST_FILE:
            raise ErasureError(f"The file '{name}' is larger than a list of names can be: split it up.")
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except (OSError, UnicodeError) as error:
        raise ErasureError(
            f"The file '{name}' cannot be read from the input folder: put a text file of that name there, one name a "
            "line."
        ) from error


def _input_path(name: str) -> str:
    """Where a file of the input folder lies. Raises OSError for a place outside of it."""
    root = os.path.realpath(folder_paths.get_input_directory())
    path = os.path.realpath(os.path.join(root, name))
    if os.path.commonpath([root, path]) != root:
        raise OSError(f"{name} is not in the input folder")
    return path


def stamp(kind: str, name: str) -> str:
    """What tells whether a file of one of the host's model folders has changed."""
    facts = os.stat(folder_paths.get_full_path_or_raise(kind, name))
    return f"{facts.st_mtime_ns}-{facts.st_size}"


def file_facts(*fields: object) -> str:
    """What tells whether a file that text fields ask for has changed since a node ran; empty without such a file."""
    names = [name for field in fields if isinstance(field, str) for name in files_in(field)]
    facts = []
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            stat = os.stat(_input_path(name))
            facts.append(f"{name} {stat.st_mtime_ns} {stat.st_size}")
    return "\n".join(facts)
