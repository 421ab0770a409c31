"""Install into environments of our own: make one with pip in it, run pip with progress, one process at a time."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from . import shared
else:
    import shared

PYTHONS = ((3, 10), (3, 13))


# ---------------------------------------------------------------- environments with pip


def check_python(say: shared.Say) -> None:
    """Raise ``HostError`` on a Python that is too old; say it when it is newer than those that were tried."""
    current = sys.version_info[:2]
    first, last = (".".join(map(str, bound)) for bound in PYTHONS)
    if current < PYTHONS[0]:
        raise shared.HostError(
            f"This is Python {platform.python_version()}; run the script with Python {first} to {last}."
        )
    if current > PYTHONS[1]:
        say(f"Python {platform.python_version()} is newer than {last}, the last one this was tried with.")


def make_venv(folder: Path, say: shared.Say) -> None:
    """Make a virtual environment, in place of one that does not run."""
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise shared.HostError(
            "This Python cannot make environments: install python3-venv "
            "(Debian and Ubuntu: apt install python3-venv) or use another Python, and run again."
        )
    if folder.exists():
        say(f"Removing an environment that does not run: {folder}")
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "venv", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, errors="replace", env=_clean_environ())
    if made.returncode:
        raise shared.HostError(
            f"An environment could not be made in {folder}: {shared.last_lines(made.stdout + made.stderr, 6)}"
        )


def pip_python(say: shared.Say) -> Path:
    """A small environment with nothing but pip: its download tells what the real one must hold."""
    folder = shared.cache_folder() / "pip" / f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not runs(shared.python_of(folder), "-m", "pip", "--version"):
        check_python(say)
        make_venv(folder, say)
    return shared.python_of(folder)


def runs(python: Path, *arguments: str) -> bool:
    """Whether an interpreter is there and ends well with these arguments."""
    if not python.is_file():
        return False
    try:
        done = subprocess.run([str(python), *arguments], capture_output=True, env=_clean_environ(), timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _clean_environ() -> dict[str, str]:
    """The environment without what would make pip or venv look at, or write to, another Python."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "__PYVENV_LAUNCHER__")
    return {name: value for name, value in os.environ.items() if name not in dropped}


# ---------------------------------------------------------------- pip


class _PipStatus:
    """What pip's lines tell about how far it is."""

    def __init__(self) -> None:
        self.found = 0
        self.downloaded = 0
        self.megabytes = 0.0
        self.now = "starting"

    def read(self, line: str) -> None:
        line = line.strip()
        if line.startswith("Collecting "):
            self.found += 1
            self.now = "looking up " + line.split()[1]
        elif line.startswith("Processing "):
            self.found += 1
            self.downloaded += 1
            self.now = "taking " + _short(line.split(" (from ")[0])
        elif line.startswith(("Downloading ", "Using cached ")) and not line.split(" (")[0].endswith(".metadata"):
            self.downloaded += 1
            self.megabytes += _megabytes(line)
            self.now = "fetching " + _short(line)
        elif line.startswith("Installing collected packages"):
            self.now = f"writing {line.count(',') + 1} packages to disk"
        elif line.startswith(("Building ", "Preparing ", "Installing build ")):
            self.now = line[0].lower() + line[1:]

    def __str__(self) -> str:
        counts = f"{self.found} packages found, {self.downloaded} fetched ({self.megabytes:.0f} MB)"
        return f"{counts}, now {self.now[:70]}"


def _short(line: str) -> str:
    """A wheel's name and version, and its size where pip tells it."""
    name = "-".join(line.split(" (")[0].split()[-1].rsplit("/", 1)[-1].split("-")[:2])
    size = re.search(r"\([\d.]+ .B\)", line)
    return f"{name} {size.group()}" if size else name


def _megabytes(line: str) -> float:
    found = re.search(r"\(([\d.]+) (k|M|G)B\)", line)
    return float(found.group(1)) * {"k": 0.001, "M": 1.0, "G": 1000.0}[found.group(2)] if found else 0.0


def run_pip(python: Path, arguments: Sequence[str], log: Path, say: shared.Say, step: str, lock: int = -1) -> None:
    """Run pip and say every ten seconds how far it is; the full output goes to ``log``.

    Raises ``HostError`` with the end of the log when pip fails.
    """
    temporary = log.parent / "temporary"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    # Wheels are unpacked beside the environment: /tmp may be small, and a killed pip leaves its files there.
    environ = {
        **_clean_environ(),
        **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary)),
        "PYTHONUNBUFFERED": "1",
    }
    command = [
        str(python),
        "-m",
        "pip",
        *arguments,
        "--disable-pip-version-check",
        "--no-input",
        "--progress-bar",
        "off",
    ]
    # On POSIX pip inherits the lock, so that a pip which outlives this script still keeps others out.
    keep = (lock,) if lock >= 0 and os.name == "posix" else ()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environ, pass_fds=keep,
        text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    status = _PipStatus()
    reader = threading.Thread(target=_read_pip, args=(process, log, status), daemon=True)
    reader.start()
    try:
        _watch(process, status, say, step)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        reader.join(5)
        shutil.rmtree(temporary, ignore_errors=True)
    if process.returncode:
        end = shared.last_lines(log.read_text(encoding="utf-8", errors="replace"), 15)
        raise shared.HostError(f"pip {arguments[0]} failed; run again to carry on. The end of its output:\n{end}")


def _read_pip(process: subprocess.Popen[str], log: Path, status: _PipStatus) -> None:
    assert process.stdout is not None
    with log.open("w", encoding="utf-8") as file:
        for line in process.stdout:
            file.write(line)
            file.flush()
            status.read(line)


def _watch(process: subprocess.Popen[str], status: _PipStatus, say: shared.Say, step: str) -> None:
    begun = time.monotonic()
    while True:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            say(f"{step} {time.monotonic() - begun:4.0f} s: {status}")
        else:
            return


# ---------------------------------------------------------------- lock


@contextlib.contextmanager
def locked(say: shared.Say = shared.tell) -> Iterator[int]:
    """Hold the cache folder's install lock; wait, and say so, while another process has it.

    The lock is the operating system's, so that one left by a killed process is free at once.
    """
    path = shared.cache_folder() / "install.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        begun = time.monotonic()
        said = -60.0
        while not _try_lock(descriptor):
            waited = time.monotonic() - begun
            if waited - said >= 30:
                said = waited
                say(f"Waiting for another install (process {_owner(path)}), {waited:.0f} s so far")
            time.sleep(0.5)
        if os.name == "posix":
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, str(os.getpid()).encode())
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        # msvcrt reports a taken lock as EDEADLOCK; elsewhere the file system has no locks and we go without.
        return sys.platform != "win32" and error.errno is not None
    return True


def _owner(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip() or "unknown"
    except OSError:
        return "unknown"
