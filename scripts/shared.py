"""What the scripts around the host share: where things are, the ``Host``, ``HostError`` and ``tell``.

Only the standard library is used, as in all that ``host.py`` imports.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PACK = Path(__file__).resolve().parent.parent

Say = Callable[[str], None]


class HostError(RuntimeError):
    """The host cannot be had or started; the message is for the user."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI tree, the interpreter that runs it, its version, and the seconds it took to obtain."""

    root: Path
    python: Path
    version: str
    seconds_setup: float


def tell(line: str) -> None:
    """Print at once, also when the output goes to a file."""
    print(line, flush=True)


def last_lines(text: str, count: int) -> str:
    """The end of a program's output, short enough for a message."""
    return "\n".join(line[:300] for line in text.strip().splitlines()[-count:])


# ---------------------------------------------------------------- places


def cache_folder() -> Path:
    """The folder of hosts and environments: ``CONCEPT_ERASURE_CACHE`` or the platform's user cache."""
    chosen = os.environ.get("CONCEPT_ERASURE_CACHE")
    if chosen:
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "concept-erasure"


def python_of(environment: Path) -> Path:
    """The interpreter inside a virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_comfyui(root: Path) -> bool:
    """Whether a folder is a ComfyUI tree."""
    return (root / "main.py").is_file() and (root / "comfy").is_dir()


def version_of(root: Path) -> str:
    """The version a ComfyUI tree says it has, or "unknown" (trees before 0.3.5 do not say)."""
    try:
        text = (root / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r"""^__version__\s*=\s*["']([^"']+)["']""", text, re.MULTILINE)
    return found.group(1) if found else "unknown"
