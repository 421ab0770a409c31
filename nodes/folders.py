"""The host's folders of files that nodes load: what is in them, and what to say of a file that is not."""

import contextlib
import os
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from pathlib import Path

import folder_paths

from .types import show


def register(kind: str, places: Sequence[str], endings: Collection[str], own: str) -> None:
    """Adds places to the host's folders of a kind, behind those that the user's yaml set, and makes the folder that is
    the user's ``own``."""
    known, _ = folder_paths.folder_names_and_paths.get(kind, ([], set()))
    paths = [*known, *(place for place in places if place not in known)]
    folder_paths.folder_names_and_paths[kind] = (paths, set(endings))
    with contextlib.suppress(OSError):  # models may be on a disk that cannot be written to
        os.makedirs(own, exist_ok=True)


def register_models(kind: str, ending: str) -> None:
    """Adds ``models/KIND`` and ``output/KIND`` to the host's folders."""
    places = [os.path.join(root, kind) for root in (folder_paths.models_dir, folder_paths.get_output_directory())]
    register(kind, places, {ending}, places[0])


def newest_first(kind: str) -> list[str]:
    """The files of a kind. The first is chosen on a new node: most likely what was just saved."""
    return sorted(folder_paths.get_filename_list(kind), key=lambda name: -_time(kind, name))


def _time(kind: str, name: str) -> float:
    """When a file was written; 0 for one that has gone since it was listed."""
    with contextlib.suppress(OSError):
        return os.path.getmtime(folder_paths.get_full_path_or_raise(kind, name))
    return 0.0


def missing(kind: str, file: str | None, sentence: str) -> str:
    """The sentence on a choice that is no file, and which one is much like it; empty for one that is, or is not known
    yet."""
    if file is None or folder_paths.get_full_path(kind, file) is not None:
        return ""
    known = {Path(name).stem.casefold(): name for name in folder_paths.get_filename_list(kind)}
    near = get_close_matches(Path(file).stem.casefold(), known, n=1)
    return sentence + (f" Did you mean '{known[near[0]]}'?" if near else "")


def accepted(node, text: str) -> bool | str:
    """For ``validate_inputs``: True where there is nothing to say, or the text, which the node says, too."""
    return show(node, text).value if text else True
