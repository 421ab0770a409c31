"""Make the repository and ComfyUI importable side by side in one process.

The host has a top-level module ``nodes`` and the pack a folder ``nodes/``, so the repository must not be on
``sys.path`` in a process that imports the host. Instead a finder gives the repository's packages by name, and
the pack itself as ``concept_erasure``, without running its ``__init__.py``.

As a script: ``python scripts/bootstrap.py MODULE arguments ...`` runs a module like ``python -m`` does.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

PACKAGE = "concept_erasure"
PACKAGES = ("benchmarks", "drawnworld", "scripts", "tests", "toyworld")
HOST_ROOT = "CONCEPT_ERASURE_HOST_ROOT"


class _Finder:
    """Finds the repository's packages, and keeps names that both trees have for the host."""

    def __init__(self, repo: Path, host_root: Path | None) -> None:
        self.repo = repo
        self.host_root = host_root

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The import system's question; only top-level names are answered."""
        if "." in name:
            return None
        if name == PACKAGE:
            return _folder_spec(name, self.repo)
        if name in PACKAGES:
            return _package_spec(name, self.repo / name)
        if self.host_root is not None and (self.repo / name).is_dir():
            # The repository may still be on the path, put there by pytest or by the current folder.
            return _module_spec(name, self.host_root / f"{name}.py") or _package_spec(name, self.host_root / name)
        return None


def _folder_spec(name: str, folder: Path) -> ModuleSpec:
    # Without a loader this is a namespace package: importing it runs nothing.
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return spec


def _module_spec(name: str, file: Path) -> ModuleSpec | None:
    return importlib.util.spec_from_file_location(name, file) if file.is_file() else None


def _package_spec(name: str, folder: Path) -> ModuleSpec | None:
    start = folder / "__init__.py"
    if start.is_file():
        return importlib.util.spec_from_file_location(name, start, submodule_search_locations=[str(folder)])
    return _folder_spec(name, folder) if folder.is_dir() else None


def install(repo: Path, host_root: Path | None = None) -> None:
    """Make ``concept_erasure``, ``benchmarks``, ``toyworld``, ``tests``, ``scripts`` and the host importable.

    ``host_root`` is the ComfyUI tree; ``None`` takes it from ``CONCEPT_ERASURE_HOST_ROOT``, and without that
    the host is not importable. Child processes inherit the variable. Calling it again replaces the earlier
    call.
    """
    repo = Path(repo).resolve()
    if host_root is None and os.environ.get(HOST_ROOT):
        host_root = Path(os.environ[HOST_ROOT])
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    sys.meta_path.insert(0, _Finder(repo, host_root))
    sys.path[:] = [entry for entry in sys.path if not _is_ours(entry, repo)]
    if host_root is not None:
        os.environ[HOST_ROOT] = str(host_root)
        sys.path[:] = [str(host_root), *(entry for entry in sys.path if entry != str(host_root))]
    importlib.invalidate_caches()


def _is_ours(entry: str, repo: Path) -> bool:
    # scripts/ is there when a file in it was started; its files must not become top-level modules, and the
    # host has a server.py of its own.
    return Path(entry or os.getcwd()).resolve() in (repo, repo / "scripts")


def host_on_cpu() -> None:
    """Tell the host to use the CPU when torch finds nothing better.

    Call it before other parts of the host are imported. The host reads its command line only in its own
    ``main.py``, so that ``--cpu`` cannot be given from outside.
    Raises ``RuntimeError`` when the host has chosen its device already and chose another.
    """
    import torch

    arguments = importlib.import_module("comfy.cli_args").args
    if torch.cuda.is_available() or _has(torch, "xpu") or _has(torch.backends, "mps"):
        return
    if "comfy.model_management" in sys.modules and not arguments.cpu:
        raise RuntimeError("comfy.model_management was imported before host_on_cpu() was called.")
    arguments.cpu = True


def _has(module: ModuleType, device: str) -> bool:
    backend = getattr(module, device, None)
    return backend is not None and bool(backend.is_available())


def main() -> None:
    """Run a module with its arguments, as ``python -m`` does."""
    if len(sys.argv) < 2:
        sys.exit("Usage: bootstrap.py MODULE arguments ...")
    install(Path(__file__).resolve().parent.parent)
    del sys.argv[0]
    if not _exists(sys.argv[0]):
        sys.exit(f"There is no module {sys.argv[0]} in the repository, the host or the environment.")
    if os.environ.get(HOST_ROOT):
        host_on_cpu()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError as error:
        # A missing parent is the caller's mistake; an import that fails inside one is worth a traceback.
        if error.name is not None and module.startswith(error.name):
            return False
        raise


if __name__ == "__main__":
    main()
