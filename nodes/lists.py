"""The node that reads a list of concepts from a file."""

import os
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..erasure.artifact import ErasureError
from ..erasure.library import NOTHING
from ..erasure.texts.lists import ENDINGS, ConceptList, read_list
from ..erasure.texts.names import Name, listing, plain
from . import files, folders
from .messages import LARGEST_FILE, stamp
from .types import CATEGORY, KEPT, lenient, show, telling

KIND = "erasure_lists"
FOLDER = "lists"
SHOWN = 12
"""Names that the node shows; of more, only the number is said."""
OWN = Path(__file__).resolve().parents[1] / FOLDER
"""Lists that come with the pack; a list of the user's of the same name goes before."""


def register_folders() -> None:
    """Adds ``lists`` in every folder of erasures, and the pack's own, to the host's folders, after what the user's yaml
    set."""
    places = [os.path.join(place, FOLDER) for place in folder_paths.get_folder_paths(files.KIND)] + [str(OWN)]
    folders.register(KIND, places, ENDINGS, os.path.join(folder_paths.models_dir, files.KIND, FOLDER))


def open_list(file: str) -> ConceptList:
    """A list of the host's folders. Raises ErasureError."""
    path = folder_paths.get_full_path(KIND, file)
    if path is None:
        raise ErasureError(missing(file))
    try:
        if os.path.getsize(path) > LARGEST_FILE:
            raise ErasureError(f"The list '{file}' is larger than a list of names can be: split it up.")
        return read_list(file, Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeError) as error:
        raise ErasureError(f"The list '{file}' cannot be read: save it as text in UTF-8.") from error


def missing(file: str | None) -> str:
    """What to say of a choice that is no list; empty for one that is, or is not known yet."""
    text = f"There is no list '{file}' in models/erasures/lists: choose another, or put the file there."
    return folders.missing(KIND, file, text)


class ErasureConceptList(io.ComfyNode):
    """File -> texts for the fields 'concept' and 'preserve'."""

    @classmethod
    @lenient
    def define_schema(cls):
        return io.Schema(
            node_id="ErasureConceptList",
            display_name="Load Concept List",
            category=CATEGORY,
            description="Reads what to erase, with other names and targets, and what to preserve, from a list in "
            "models/erasures/lists. Some lists come along. Connect its outputs to the text fields of an erasing node.",
            hidden=[io.Hidden.unique_id],
            **KEPT,
            search_aliases=["blocklist", "word list", "names from file", "concepts from file", "wildcard", "nsfw"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=folder_paths.get_filename_list(KIND),
                    tooltip="A .txt or .json file in models/erasures/lists, or a list that comes with the pack. Press "
                    "R after adding one; the help page shows how to write it.",
                )
            ],
            outputs=[
                io.String.Output(
                    display_name="concept", tooltip="All names, one a line, each with its target: for what to erase."
                ),
                io.String.Output(display_name="preserve", tooltip="What must not change: for 'preserve'."),
            ],
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
        names = open_list(file)
        return io.NodeOutput(names.concept_text(), names.preserve_text(), ui=show(cls, described(names)))


def arrow(name: Name) -> str:
    """A name with what takes its place, as nodes say it."""
    goal = "" if name.target is None else f" → {plain(name.target) or NOTHING}"
    return plain(name.text) + goal + (f", strength {name.strength:g}" if name.strength != 1 else "")


def described(names: ConceptList) -> str:
    """What a list holds, in a few lines."""
    lines = [arrow(name) for name in names.names]
    more = f"\n… and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    text = "\n".join([*filter(None, [names.title]), *lines[:SHOWN]]) + more
    kept = f"'preserve' acts only where it is connected, and holds {listing(names.preserve, 'text', 'texts')}."
    return f"{text}\n{kept}" if names.preserve else text


NODES = [ErasureConceptList]
