"""Nodes that keep erasures in files."""

import json
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import PurePath

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io

from ..erasure.artifact import Erasure, ErasureError
from ..erasure.exchange import Coverage
from ..erasure.files import load_erasure, save_erasure
from ..erasure.library import fill_in, thumbnail, title
from ..erasure.verdict import read_verdict
from . import folders
from .messages import bounded, names, stamp
from .types import CATEGORY, KEPT, ErasureSocket, lenient, show, telling

KIND = "erasures"
FILE = ".safetensors"
PREFIX = "erasures/%concept%_%family%"
NONE_YET = "no erasures yet: make one with Save Erasure"
"""The only choice while there is no file."""
KEY_PLACES = ["in the same file", "in a file of its own", "not at all"]
KEY_INSIDE = "The key is inside: whoever has the file can bring the concept back."
NAMELESS = "erasure"
"""What a file is called whose prefix is a folder."""
DATE = re.compile("%date:([^%]*)%")
DATE_PART = re.compile("dd?|MM?|hh?|mm?|ss?|yyy?y?")
DRIVE = re.compile("[A-Za-z]:")
FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f\x7f]')
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|\.git", re.IGNORECASE)
"""Names of devices on Windows, and the one folder that the host's lists leave out."""


def register_folders() -> None:
    """Adds ``models/erasures`` and ``output/erasures`` to the host's folders."""
    folders.register_models(KIND, FILE)


def new_path(prefix: str, *endings: str, kinds: Sequence[str] = ()) -> tuple[str, str]:
    """A prefix of the output folder with its next number that is free for all of some endings.

    As a path without an ending, and the same relative to that folder. The prefix may hold ``%date:yyyy-MM-dd%`` and the
    host's own ``%year%`` and so on; its folders are told apart by / or \\. ``kinds``: the host's kinds of folders, one
    of which must list the file; a prefix that lies in none of them goes into the first. A loader that looks into
    several folders takes the first file of a name, so one that any of them holds is not free. Raises ErasureError.
    """
    place, output = _in_lists(_portable(prefix), kinds), folder_paths.get_output_directory()
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(place, output)
    except OSError as error:
        raise ErasureError(
            f"Nothing can be saved to '{prefix}' ({error.strerror}): choose another filename_prefix."
        ) from error
    except Exception as error:  # the host's own has no class
        raise _outside(prefix) from error

    def is_taken(file: str) -> bool:
        kind, *rest = PurePath(subfolder, file).parts
        return os.path.exists(os.path.join(folder, file)) or _is_known(kind, os.path.join(*rest) if rest else "")

    while any(is_taken(f"{name}_{counter:05}{ending}") for ending in endings):
        counter += 1
    file = f"{name}_{counter:05}"
    return os.path.join(folder, file), os.path.join(subfolder, file)


def _outside(prefix: str) -> ErasureError:
    return ErasureError(
        f"'{prefix}' is not in the output folder, and nothing is saved elsewhere: choose another filename_prefix."
    )


def _portable(prefix: str) -> str:
    """A prefix as a path relative to the output folder, with / between names that every system allows.

    Raises ErasureError for one that leads out of that folder.
    """
    text, output = expand_dates(prefix.strip()).replace("\\", "/"), folder_paths.get_output_directory()
    is_folder = not text or text.endswith("/")
    if os.path.isabs(text) and _is_within(text, output):
        text = os.path.relpath(text, output).replace("\\", "/")
    parts = posixpath.normpath(text).split("/")
    if DRIVE.match(text) or text.startswith("/") or parts[0] == "..":
        raise _outside(prefix)
    names = [_portable_name(part) for part in parts if part != "."]
    return "/".join([*names, NAMELESS] if is_folder or not names else names)


def _portable_name(name: str) -> str:
    """A name of a file or folder that every system allows and every list shows."""
    name = FORBIDDEN.sub("_", name).strip().rstrip(". ") or "_"
    return f"_{name}" if RESERVED.fullmatch(name) else name


def expand_dates(text: str, now: datetime | None = None) -> str:
    """``%date:yyyy-MM-dd hh.mm.ss%`` becomes the date and time, as in the editor, which the API bypasses."""
    now = now or datetime.now()
    return DATE.sub(lambda token: DATE_PART.sub(lambda part: _date_part(part[0], now), token[1]), text)


def _date_part(part: str, now: datetime) -> str:
    """One part of a date; what the editor leaves alone stays."""
    if part[0] == "y":
        return {2: f"{now.year % 100:02}", 4: str(now.year)}.get(len(part), part)
    number = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}[part[0]]
    return str(number).zfill(len(part))


def _in_lists(prefix: str, kinds: Sequence[str]) -> str:
    """The prefix if a list of one of the kinds shows what is saved there, else the same below the first kind."""
    first, _, rest = prefix.partition("/")
    if rest and first.lower() in kinds:  # a folder of another case is another folder on some systems
        return f"{first.lower()}/{rest}"
    folder = os.path.join(folder_paths.get_output_directory(), os.path.dirname(prefix))
    places = [place for kind in kinds for place in folder_paths.folder_names_and_paths.get(kind, ([], set()))[0]]
    return f"{kinds[0]}/{prefix}" if kinds and not any(_is_within(folder, place) for place in places) else prefix


def _is_within(path: str, folder: str) -> bool:
    try:
        return os.path.commonpath((os.path.abspath(path), os.path.abspath(folder))) == os.path.abspath(folder)
    except ValueError:  # another drive
        return False


def _is_known(kind: str, file: str) -> bool:
    """Whether one of the host's folders of a kind holds a file."""
    known = bool(file) and kind in folder_paths.folder_names_and_paths
    return known and folder_paths.get_full_path(kind, file) is not None


def save_new(prefix: str, erasures: dict[str, Erasure], graph: Mapping[str, str] | None = None) -> list[str]:
    """Saves erasures, each under its ending, with the next free number of a prefix, where Load Erasure lists them.

    The prefix may hold what ``library.fill_in`` knows of the first. ``graph``: the graph that made them, as strings.
    Returns their paths relative to the output folder. Raises ErasureError.
    """
    first = next(iter(erasures.values()))
    path, name = new_path(fill_in(prefix, first), *erasures, kinds=(KIND,))
    more = {"modelspec.title": title(first), **(graph or {})}
    for ending, erasure in erasures.items():
        save_erasure(erasure, path + ending, more)
    return [name + ending for ending in erasures]


def graph_of(node: type[io.ComfyNode]) -> dict[str, str]:
    """The graph that a node runs in, as the editor reads it from a file's strings; none where the host is told to
    write none. The node's schema must ask for ``io.Hidden.prompt`` and ``io.Hidden.extra_pnginfo``."""
    if args.disable_metadata or node.hidden is None:
        return {}
    parts = {"prompt": node.hidden.prompt, "workflow": (node.hidden.extra_pnginfo or {}).get("workflow")}
    return {name: json.dumps(part, separators=(",", ":")) for name, part in parts.items() if part}


def missing(file: str | None) -> str:
    """What to say of a choice of Load Erasure that is no file; empty for one that is, or is not known yet."""
    if file == NONE_YET:
        return "There is no erasure yet: make one with Save Erasure, or put a file into models/erasures, and choose it."
    text = f"There is no erasure '{file}' in models/erasures or output/erasures: choose another, or put the file there."
    return folders.missing(KIND, file, text)


class ErasureLoad(io.ComfyNode):
    """File -> ERASURE."""

    @classmethod
    @lenient
    def define_schema(cls):
        return io.Schema(
            node_id="ErasureLoad",
            display_name="Load Erasure",
            category=CATEGORY,
            description="Loads an erasure from models/erasures or output/erasures.",
            hidden=[io.Hidden.unique_id],
            **KEPT,
            search_aliases=["erasure loader", "open erasure"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=folders.newest_first(KIND) or [NONE_YET],
                    tooltip="A .safetensors file in models/erasures or output/erasures; those that fit the model of "
                    "the graph, where that is known. What Save Erasure writes appears by itself; press R after "
                    "putting a file there.",
                )
            ],
            outputs=[ErasureSocket.Output(display_name="erasure", tooltip="For Apply Erasure and Recover Concept.")],
        )

    @classmethod
    def validate_inputs(cls, file=None):
        return folders.accepted(cls, missing(file))

    @classmethod
    def fingerprint_inputs(cls, file):
        return stamp(KIND, file)

    @classmethod
    @telling
    def execute(cls, file) -> io.NodeOutput:
        if text := missing(file):
            raise ErasureError(text)
        erasure = load_erasure(folder_paths.get_full_path_or_raise(KIND, file))
        return io.NodeOutput(erasure, ui=show(cls, describe(erasure)))


class ErasureSave(io.ComfyNode):
    """ERASURE -> one file, or two with the key apart."""

    @classmethod
    @lenient
    def define_schema(cls):
        return io.Schema(
            node_id="ErasureSave",
            display_name="Save Erasure",
            category=CATEGORY,
            description="Saves an erasure to output/erasures, where Load Erasure finds it. Keep the key in a file of "
            "its own to publish the erasure without it.",
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            search_aliases=["export erasure", "store erasure"],
            is_output_node=True,
            inputs=[
                ErasureSocket.Input("erasure", tooltip="The erasure to save."),
                io.String.Input(
                    "filename_prefix", default=PREFIX,
                    tooltip="Where in the output folder, and how the name begins; a number is added, so nothing is "
                    "overwritten. %concept%, %target%, %method% and %family% stand for what the erasure says of "
                    "itself, %date:yyyy-MM-dd% for the date. Load Erasure lists the file whatever you type: 'circle' "
                    "becomes 'erasures/circle'.",
                ),
                io.Combo.Input(
                    "key", options=KEY_PLACES, default=KEY_PLACES[0],
                    tooltip="Where the key that recovers the concept goes: whoever has it can bring the concept back.",
                ),
                io.Image.Input(
                    "picture", optional=True,
                    tooltip="A picture to know the erasure by, such as one drawn without the concept. A small copy "
                    "goes into the file; Load Erasure shows it.",
                ),
                io.Boolean.Input(
                    "workflow", default=True, advanced=True,
                    tooltip="Writes this graph into the file, as into pictures: drop the file on the editor to open "
                    "it. Turn it off if you give the file away and want to keep the graph to yourself.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    @telling
    def execute(cls, erasure, filename_prefix, key, workflow, picture=None) -> io.NodeOutput:
        if picture is not None:
            erasure = replace(erasure, metadata=replace(erasure.metadata, thumbnail=thumbnail(picture[0])))
        graph = graph_of(cls) if workflow else {}
        saved = save_new(filename_prefix, with_key_at(erasure, key), graph)
        inside = [KEY_INSIDE] if erasure.key and key == KEY_PLACES[0] else []
        return io.NodeOutput(ui=show(cls, "\n".join(["Saved " + " and ".join(saved), *inside])))


def with_key_at(erasure: Erasure, key: str) -> dict[str, Erasure]:
    """What goes into which file, by its ending. Raises ErasureError for what would be empty."""
    parts = {FILE: erasure}
    if key != KEY_PLACES[0]:
        parts[FILE] = erasure.without_key()
        if not parts[FILE].parts:
            raise ErasureError("Without its key this erasure is empty: save the key in the same file.")
    if key == KEY_PLACES[1] and erasure.key:
        parts["_key" + FILE] = erasure.key_only()
    return parts


def describe(erasure: Erasure) -> str:
    """A card of what an erasure is, a few lines, the verdict first."""
    m = erasure.metadata
    holds = dict.fromkeys(part.noun for part in erasure.parts)
    becomes = bounded(dict.fromkeys(m.target.splitlines()))
    scores = [f"loss {m.loss}"] * bool(m.loss) + [f"gap of the text gate {m.gate_gap}"] * bool(m.gate_gap)
    coverage, contexts = Coverage.of(m), bounded(m.only_in.splitlines())
    beside = f"In part only beside: {contexts}" if m.parts else f"Only beside: {contexts}"
    return "\n".join(
        [
            *(line for line in [read_verdict(m.verdict).text()] if line),
            f"Erases: {names(erasure)}",
            *([f"Becomes: {becomes}"] if m.target else []),
            *([beside] if m.only_in else []),
            f"Made for: {m.family}, text width {m.context_dim}",
            f"Method: {m.method}",
            *([f"Steps: {m.steps}"] if m.steps else []),
            *([f"Learned: {'; '.join(scores)}"] if scores else []),
            f"Holds: {', '.join(holds)}; {erasure.bytes() / 1e6:.2f} MB",
            *([coverage.text()] if coverage else []),
        ]
    )


NODES = [ErasureLoad, ErasureSave]
