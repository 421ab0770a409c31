"""Finding a ComfyUI, and the environment it runs in: all that needs neither a network nor the host."""

import sys
from pathlib import Path

import pytest

from scripts import host, installing, shared
from tests.unit.tools import make_tree, silent

# ---------------------------------------------------------------- obtaining


def test_comfyui_path_is_used_with_the_chosen_python(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(make_tree(tmp_path / "ComfyUI")))
    monkeypatch.setenv("COMFYUI_PYTHON", sys.executable)
    found = host.obtain(say=silent)
    assert (found.root, found.version, found.python) == (tmp_path / "ComfyUI", "0.30.0", Path(sys.executable))


def test_comfyui_path_brings_its_environment(tmp_path, monkeypatch):
    root = make_tree(tmp_path / "ComfyUI")
    python = shared.python_of(root / ".venv")
    python.parent.mkdir(parents=True)
    python.write_text("")
    monkeypatch.setenv("COMFYUI_PATH", str(root))
    assert host.obtain(say=silent).python == python


def test_comfyui_path_that_is_none_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(shared.HostError, match=r"main\.py"):
        host.obtain(say=silent)


def test_two_versions_at_once_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(make_tree(tmp_path / "ComfyUI")))
    with pytest.raises(shared.HostError, match=r"0\.18\.2"):
        host.obtain("0.18.2", say=silent)


def test_comfyui_around_the_pack_is_found(tmp_path, monkeypatch):
    pack = make_tree(tmp_path / "ComfyUI") / "custom_nodes" / "pack"
    monkeypatch.setattr(host, "__file__", str(pack / "scripts" / "host.py"))
    assert host.enclosing_comfyui() == tmp_path / "ComfyUI"
    monkeypatch.setattr(host, "__file__", str(tmp_path / "elsewhere" / "pack" / "scripts" / "host.py"))
    monkeypatch.setattr(shared, "PACK", tmp_path / "elsewhere" / "pack")
    assert host.enclosing_comfyui() is None


# ---------------------------------------------------------------- environment


def test_environment_key_follows_what_is_installed(monkeypatch):
    key = host.environment_key("torch\nnumpy\n")
    assert key == host.environment_key("torch  \r\nnumpy")
    assert key != host.environment_key("torch\nscipy\n")
    monkeypatch.setattr(host, "CONSTRAINTS", ("torch==1",))
    assert key != host.environment_key("torch\nnumpy\n")


def test_environment_without_marker_is_installed_again(monkeypatch):
    folder = shared.cache_folder() / "environments" / "key"
    calls = []
    monkeypatch.setattr(installing, "runs", lambda *_: True)
    monkeypatch.setattr(installing, "run_pip", lambda python, arguments, *_: calls.append(arguments[0]))
    half = folder / "lib" / "python3.12" / "site-packages"
    (half / "cut-1.dist-info").mkdir(parents=True)
    (half / "whole-1.dist-info").mkdir()
    (half / "whole-1.dist-info" / "RECORD").write_text("")
    assert not host._is_whole(folder)
    host._install(folder, "numpy\n", silent, -1)
    assert calls == ["install"]
    assert host._is_whole(folder)
    assert sorted(entry.name for entry in half.iterdir()) == ["whole-1.dist-info"]
