"""Nodes that keep erasures in files."""

import contextlib
import os
from pathlib import PurePath

import folder_paths
from comfy_api.latest import io

from ..erasure.artifact import Erasure, ErasureError, load_erasure, save_erasure
from .types import CATEGORY, KEPT, ErasureSocket, show, telling

KIND = "erasures"
FILE = ".safetensors"
KEY_PLACES = ["in the same file", "in a file of its own", "not at all"]


def register_folders() -> None:
    """Adds ``models/erasures`` and ``output/erasures`` to the host's folders, keeping what the user's yaml set."""
    places = [os.path.join(folder_paths.models_dir, KIND), os.path.join(folder_paths.get_output_directory(), KIND)]
    known, _ = folder_paths.folder_names_and_paths.get(KIND, ([], set()))
    paths = [*known, *(p for p in places if p not in known)]
    folder_paths.folder_names_and_paths[KIND] = (paths, {FILE})
    with contextlib.suppress(OSError):  # models may be on a disk that cannot be written to
        os.makedirs(places[0], exist_ok=True)


def new_path(prefix: str, *endings: str) -> tuple[str, str]:
    """A prefix of the output folder with its next number that is free for all of some endings.

    As a path without an ending, and the same relative to that folder. A loader that looks into several folders takes
    the first file of a name, so one that any of them holds is not free. Raises ErasureError.
    """
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            prefix, folder_paths.get_output_directory()
        )
    except OSError as error:
        raise ErasureError(
            f"Nothing can be saved to '{prefix}' ({error.strerror}): choose another filename_prefix."
        ) from error
    except Exception as error:  # the host's own has no class
        raise ErasureError(
            f"'{prefix}' is not in the output folder, and nothing is saved elsewhere: choose another filename_prefix."
        ) from error

    def is_taken(file: str) -> bool:
        kind, *rest = PurePath(subfolder, file).parts
        return os.path.exists(os.path.join(folder, file)) or _is_known(kind, os.path.join(*rest) if rest else "")

    while any(is_taken(f"{name}_{counter:05}{ending}") for ending in endings):
        counter += 1
    file = f"{name}_{counter:05}"
    return os.path.join(folder, file), os.path.join(subfolder, file)


def _is_known(kind: str, file: str) -> bool:
    """Whether one of the host's folders of a kind holds a file."""
    known = bool(file) and kind in folder_paths.folder_names_and_paths
    return known and folder_paths.get_full_path(kind, file) is not None


def save_new(prefix: str, erasures: dict[str, Erasure]) -> list[str]:
    """Saves erasures, each under its ending, with the next free number of a prefix in the output folder.

    Returns their paths relative to that folder.
    """
    path, shown = new_path(prefix, *erasures)
    for ending, erasure in erasures.items():
        save_erasure(erasure, path + ending)
    return [shown + ending for ending in erasures]


class ErasureLoad(io.ComfyNode):
    """File -> ERASURE."""

    @classmethod
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
                    options=folder_paths.get_filename_list(KIND),
                    tooltip="A .safetensors file in models/erasures or output/erasures. Press R after adding one.",
                )
            ],
            outputs=[ErasureSocket.Output(display_name="erasure", tooltip="For Erase Concept and Recover Concept.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file):
        facts = os.stat(folder_paths.get_full_path_or_raise(KIND, file))
        return f"{facts.st_mtime_ns}-{facts.st_size}"

    @classmethod
    @telling
    def execute(cls, file) -> io.NodeOutput:
        erasure = load_erasure(folder_paths.get_full_path_or_raise(KIND, file))
        return io.NodeOutput(erasure, ui=show(cls, describe(erasure)))


class ErasureSave(io.ComfyNode):
    """ERASURE -> one file, or two with the key apart."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ErasureSave",
            display_name="Save Erasure",
            category=CATEGORY,
            description="Saves an erasure to output/erasures, where Load Erasure finds it. Keep the key in a file of "
            "its own to publish the erasure without it.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["export erasure", "store erasure"],
            is_output_node=True,
            inputs=[
                ErasureSocket.Input("erasure", tooltip="The erasure to save."),
                io.String.Input(
                    "filename_prefix", default="erasures/erasure",
                    tooltip="Where in the output folder; a number is added, so nothing is overwritten.",
                ),
                io.Combo.Input(
                    "key", options=KEY_PLACES, default=KEY_PLACES[0],
                    tooltip="Where the key that recovers the concept goes: whoever has it can bring the concept back.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    @telling
    def execute(cls, erasure, filename_prefix, key) -> io.NodeOutput:
        parts = {FILE: erasure}
        if key != KEY_PLACES[0]:
            parts[FILE] = erasure.without_key()
            if not parts[FILE].delta and not parts[FILE].prompts:
                raise ErasureError("Without its key this erasure is empty: save the key in the same file.")
        if key == KEY_PLACES[1] and erasure.key:
            parts["_key" + FILE] = erasure.key_only()
        return io.NodeOutput(ui=show(cls, "Saved " + " and ".join(save_new(filename_prefix, parts))))


def describe(erasure: Erasure) -> str:
    """A card of what an erasure is, a few lines."""
    m = erasure.metadata
    holds = ["a change of the weights"] * bool(erasure.delta) + ["an eraser prompt"] * bool(erasure.erasers)
    holds += ["a key"] * bool(erasure.key)
    becomes = f", which becomes {', '.join(dict.fromkeys(m.target.splitlines()))}" if m.target else ""
    steps = f", {m.steps} steps" if m.steps else ""
    scores = [f"loss {m.loss}"] * bool(m.loss) + [f"gap of the text gate {m.gate_gap}"] * bool(m.gate_gap)
    return "\n".join(
        [
            f"Erases: {', '.join(m.concept.splitlines())}{becomes}",
            f"Made for: {m.family}, text width {m.context_dim}",
            f"Method: {m.method}{steps}",
            *([f"Learned: {'; '.join(scores)}"] if scores else []),
            f"Holds: {', '.join(holds)}; {erasure.bytes() / 1e6:.2f} MB",
        ]
    )


NODES = [ErasureLoad, ErasureSave]
