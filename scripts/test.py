"""Run every check: ``python3 scripts/test.py``, on any machine with Python 3.10 to 3.13.

The host and its environment are found or made first (see ``host.py``). Then, in this order: lint (ruff, mypy), unit
tests (torch only), host tests (the host in this process), server tests (a real server, over HTTP) and browser tests
(its editor in a real Chromium or Chrome, which is installed first where the machine lets us, see ``chromium.py``).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from . import chromium, shared
    from . import host as hosts
    from . import run as runs
else:
    import chromium
    import host as hosts
    import run as runs
    import shared

REPO = Path(__file__).resolve().parent.parent
PACKAGE = "concept_erasure"
TYPED = ("erasure", "nodes", "scripts")
NO_TESTS_FOUND = 5
SIDE_BY_SIDE = ("host", "server", "browser")
"""Parts whose tests run in several processes, each with a server of its own where they need one; unit tests are over
soon."""


def lint(host: shared.Host, options: argparse.Namespace) -> int:
    """Ruff over the whole repository, rules and format; mypy over the packages that have types."""
    ruff = [str(host.python), "-m", "ruff"]
    codes = [
        subprocess.run([*ruff, *words], cwd=REPO).returncode for words in (["check", "."], ["format", "--check", "."])
    ]
    return mypy(host) or max(codes)


def mypy(host: shared.Host) -> int:
    """Mypy on a copy, because a package's folder must have a Python name and a checkout's need not."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / PACKAGE
        copy.mkdir()
        shutil.copy(REPO / "__init__.py", copy)
        for name in TYPED:
            shutil.copytree(REPO / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        command = [str(host.python), "-m", "mypy", "--config-file", str(REPO / "pyproject.toml")]
        command += ["--cache-dir", str(REPO / ".mypy_cache")]
        command += [word for name in TYPED for word in ("-p", f"{PACKAGE}.{name}")]
        return subprocess.run(command, cwd=temporary, env={**os.environ, "MYPYPATH": temporary}).returncode


def tests(part: str) -> Callable[[shared.Host, argparse.Namespace], int]:
    """Pytest on one folder of tests."""

    def run(host: shared.Host, options: argparse.Namespace) -> int:
        chosen = ["-k", options.k] if options.k else []
        jobs = (options.jobs or (1 if options.k else jobs_for(os.cpu_count() or 1))) if part in SIDE_BY_SIDE else 1
        side_by_side = ["-n", str(jobs), "--dist", "loadfile"] if jobs > 1 else []
        # matrices this small are multiplied sooner by one thread, and threads of two processes wait for one another
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        if part == "browser":
            try:
                chromium.obtain()  # once, before several processes look for it
            except shared.HostError as error:
                print(error, file=sys.stderr)
                return 1
        code = runs.run(host, ["pytest", f"tests/{part}", *side_by_side, *chosen, *options.pytest])
        return 0 if options.k and code == NO_TESTS_FOUND else code

    return run


def jobs_for(cores: int) -> int:
    """How many processes run tests side by side: one a core, and no more than fit into 24 GiB."""
    return min(4, cores)


PARTS = {
    "lint": lint,
    "unit": tests("unit"),
    "host": tests("host"),
    "server": tests("server"),
    "browser": tests("browser"),
}
TOOLS = {
    "lint": ("ruff", "mypy"),
    **dict.fromkeys(SIDE_BY_SIDE, ("pytest", "xdist")),
    "browser": ("pytest", "xdist", "playwright"),
}
"""What a part needs in its interpreter; the others need pytest alone."""


def check_tools(host: shared.Host, parts: Iterable[str]) -> None:
    """Raise ``HostError`` when the interpreter, which may be the user's own, lacks what the parts need."""
    tools = dict.fromkeys(tool for part in parts for tool in TOOLS.get(part, ("pytest",)))
    done = subprocess.run([str(host.python), "-c", f"import {', '.join(tools)}"], capture_output=True, text=True)
    if done.returncode:
        raise shared.HostError(
            f"{host.python} lacks one of {', '.join(tools)}: install them there, or unset COMFYUI_PATH to use our own."
        )


def run_parts(host: shared.Host, options: argparse.Namespace) -> int:
    """Run the chosen parts, all of them even when one fails; print what became of each."""
    results: list[tuple[str, int, float]] = []
    for name in options.only or PARTS:
        print(f"\n==== {name}", flush=True)
        begun = time.monotonic()
        results.append((name, PARTS[name](host, options), time.monotonic() - begun))
    print(f"\nset-up  {host.seconds_setup:6.1f} s")
    for name, code, seconds in results:
        print(f"{name:7} {seconds:6.1f} s  {'passed' if code == 0 else f'FAILED ({code})'}")
    return max(abs(code) for _, code, _ in results)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 0 when everything passed."""
    parser = argparse.ArgumentParser(description="Lint and test this pack.")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="run this part; can be repeated")
    parser.add_argument("--jobs", type=int, help="processes of all but unit tests (default: one a core, 1 with -k)")
    parser.add_argument("-k", metavar="EXPRESSION", help="run only the tests that pytest's -k selects")
    parser.add_argument("pytest", nargs="*", metavar="-- OPTION", help="further options for pytest, after --")
    options = parser.parse_args(arguments)
    try:
        host = hosts.obtain()
        check_tools(host, options.only or PARTS)
        return 1 if run_parts(host, options) else 0
    except shared.HostError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; an install that was begun is finished by the next run.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
