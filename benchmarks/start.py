"""Seconds that the pack adds to the start of ComfyUI, and how much of what it imports ComfyUI has imported already.

``python3 scripts/run.py benchmarks.start`` loads the host's own nodes and then the pack, as the host does, ``--runs``
times in a fresh process each; then the pack alone in a process without the host's nodes. The pack is a copy in a
temporary folder, so nothing is written. *Compiled* is every start but the first after an install, for which Python
compiles the sources.
"""

from __future__ import annotations

import argparse
import asyncio
import compileall
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts import bootstrap, run, shared

FOLDER = "concept-erasure"
PARTS = ("__init__.py", "erasure", "nodes", "pyproject.toml")
"""What of the pack Python reads."""
BAR = 0.3
"""Seconds that the pack may add to a start."""

# ---------------------------------------------------------------- one start, in a process of its own


def once(pack: str) -> dict[str, Any]:
    """Starts the host's own nodes and loads the pack: seconds of wall clock, and the others' modules it brought in."""
    begun = time.perf_counter()
    # The host's loader of packs is in the same module as its first nodes.
    import nodes

    asyncio.run(nodes.init_builtin_extra_nodes())
    known, ready = set(sys.modules), time.perf_counter()
    if not asyncio.run(nodes.load_custom_node(pack)):
        raise RuntimeError("The host could not load the pack.")
    return {"host": ready - begun, "pack": time.perf_counter() - ready, "foreign": foreign(set(sys.modules) - known)}


def alone() -> dict[str, Any]:
    """Imports the pack without the host's nodes: every module of others that it needs, and what these need."""
    importlib.import_module(f"{bootstrap.PACKAGE}.nodes")
    return {"foreign": foreign(set(sys.modules))}


def foreign(modules: set[str]) -> list[str]:
    """Those that are not the pack's own, whose names hold its folder or the name that ``bootstrap`` gives it."""
    return sorted(name for name in modules if FOLDER not in name and bootstrap.PACKAGE not in name)


def started(*arguments: str) -> dict[str, Any]:
    """What this module, run in a fresh process with these arguments, says."""
    host = shared.Host(Path(os.environ[bootstrap.HOST_ROOT]), Path(sys.executable), "", 0.0)
    environ = {**run.environ(host), "PYTHONDONTWRITEBYTECODE": "1"}
    command = run.command(host, ["benchmarks.start", *arguments])
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    if done.returncode:
        raise RuntimeError(shared.last_lines(done.stderr, 10))
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# ---------------------------------------------------------------- all of them


def measure(runs: int) -> None:
    """Prints the medians, and what the pack makes Python import that ComfyUI does not."""
    with tempfile.TemporaryDirectory() as temporary:
        pack = copied(Path(temporary) / FOLDER)
        fresh = [started("--once", str(pack)) for _ in range(runs)]
        compileall.compile_dir(pack, quiet=2)
        compiled = [started("--once", str(pack)) for _ in range(runs)]
    own, needed = set(compiled[0]["foreign"]), set(started("--alone")["foreign"])
    print(f"ComfyUI's own nodes     {told([found['host'] for found in fresh + compiled])}")
    print(f"the pack, first start   {told([found['pack'] for found in fresh])}")
    print(f"the pack, compiled      {told([found['pack'] for found in compiled])}   (bar: {BAR} s)")
    print(f"modules of others that it needs: {len(needed)}; ComfyUI has imported {len(needed - own)} of them "
          f"({1 - len(own & needed) / len(needed):.1%}) when it comes to the pack")  # fmt: skip
    print(f"imported for the pack alone: {', '.join(sorted(own)) or 'none'}")


def copied(place: Path) -> Path:
    """The part of the pack that Python reads, without what it has compiled before."""
    place.mkdir()
    for name in PARTS:
        source = shared.PACK / name
        if source.is_dir():
            shutil.copytree(source, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, place)
    return place


def told(seconds: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(seconds):6.3f} s  ({min(seconds):.3f} to {max(seconds):.3f}, {len(seconds)} runs)"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="starts of each kind (default: 5)")
    parser.add_argument("--once", metavar="PACK", help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.once:
        print("\n" + json.dumps(once(options.once)))
    elif options.alone:
        print("\n" + json.dumps(alone()))
    else:
        measure(options.runs)


if __name__ == "__main__":
    main()
