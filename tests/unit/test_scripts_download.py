"""Downloading a ComfyUI: all that needs no network."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from scripts import download, shared
from tests.unit.tools import silent


def test_version_that_is_not_to_be_had():
    with pytest.raises(shared.HostError, match=r"choose one of .*0\.30\.0"):
        download.tree("0.1.0", say=silent)


def test_interrupted_download_is_not_taken_for_a_host(tmp_path, monkeypatch):
    broken = shared.cache_folder() / "hosts" / "0.30.0" / "ComfyUI"
    broken.mkdir(parents=True)
    made = []
    monkeypatch.setattr(download, "_download_tree", lambda version, home, say, lock: made.append(home))
    download.tree("0.30.0", say=silent)
    assert made == [broken.parent]


# ---------------------------------------------------------------- unpacking


def make_archive(path: Path, entries: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type = tarfile.SYMTYPE
            info.linkname = target
            tar.addfile(info)
    return path


def test_only_the_wanted_folder_is_unpacked(tmp_path):
    entries = {"top/vendor/ComfyUI/a/b.py": b"b", "top/other.py": b"no", "top/vendor/ComfyUI2/c.py": b"no"}
    count = download.unpack(make_archive(tmp_path / "x.tar.gz", entries), "vendor/ComfyUI", tmp_path / "out")
    assert count == 1
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [tmp_path / "out" / "a" / "b.py"]


@pytest.mark.parametrize(
    "name", ["top/vendor/ComfyUI/../../../out.py", "top/vendor/ComfyUI/a/../../b", "top/vendor/ComfyUI/c:\\d"]
)
def test_unpack_refuses_to_leave_the_folder(tmp_path, name):
    archive = make_archive(tmp_path / "x.tar.gz", {name: b""})
    with pytest.raises(shared.HostError, match="may not be unpacked"):
        download.unpack(archive, "vendor/ComfyUI", tmp_path / "in" / "side")
    assert not (tmp_path / "out.py").exists()


def test_unpack_refuses_links(tmp_path):
    archive = make_archive(tmp_path / "x.tar.gz", {}, {"top/vendor/ComfyUI/link": "/etc"})
    with pytest.raises(shared.HostError, match="may not be unpacked"):
        download.unpack(archive, "vendor/ComfyUI", tmp_path / "out")


def test_check_hash(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    download.check_hash(tmp_path / "x", hashlib.sha256(b"x").hexdigest())
    with pytest.raises(shared.HostError, match="SHA-256"):
        download.check_hash(tmp_path / "x", "0" * 64)
