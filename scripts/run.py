"""Run a module in the environment of the host: ``python3 scripts/run.py MODULE arguments ...``.

The module sees ComfyUI, the repository's packages (``benchmarks``, ``drawnworld``, ``toyworld``, ``tests``,
``scripts``) and the pack as ``concept_erasure``; see ``bootstrap.py``. The current folder is the repository.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from . import host as hosts
    from . import shared
else:
    import host as hosts
    import shared

REPO = Path(__file__).resolve().parent.parent


def command(host: shared.Host, arguments: Sequence[str]) -> list[str]:
    """The command line that runs ``MODULE arguments ...`` with a host's interpreter."""
    return [str(host.python), str(REPO / "scripts" / "bootstrap.py"), *arguments]


def environ(host: shared.Host) -> dict[str, str]:
    """The environment variables such a process needs."""
    return {**os.environ, "CONCEPT_ERASURE_HOST_ROOT": str(host.root)}


def run(host: shared.Host, arguments: Sequence[str]) -> int:
    """Run ``MODULE arguments ...`` and return its exit code."""
    process = subprocess.Popen(command(host, arguments), cwd=REPO, env=environ(host))
    # Ctrl-C reaches the child as well: let it finish in its own way. A plain kill reaches only us: pass it
    # on.
    previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return process.wait()
    finally:
        signal.signal(signal.SIGTERM, previous)


def main() -> int:
    """The command line; returns the exit code."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0].startswith("-"):
        print("Usage: python3 scripts/run.py MODULE arguments ...", file=sys.stderr)
        return 2
    try:
        # What the module prints may be piped on, so our own lines go to the other stream.
        host = hosts.obtain(say=lambda line: print(line, file=sys.stderr, flush=True))
    except shared.HostError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; an install that was begun is finished by the next run.", file=sys.stderr)
        return 130
    code = run(host, arguments)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
