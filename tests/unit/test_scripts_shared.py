"""Where things are, on each platform."""

import pytest

from scripts import shared
from tests.unit.tools import make_tree


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/concept-erasure"),
        ("linux", {}, "/home/me/.cache/concept-erasure"),
        ("darwin", {"XDG_CACHE_HOME": "/xdg"}, "/home/me/Library/Caches/concept-erasure"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/concept-erasure"),
        ("win32", {}, "/home/me/AppData/Local/concept-erasure"),
        ("win32", {"CONCEPT_ERASURE_CACHE": "/chosen"}, "/chosen"),
    ],
)
def test_cache_folder_of_each_platform(monkeypatch, system, variables, expected):
    for name in ("CONCEPT_ERASURE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", "USERPROFILE": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(shared.sys, "platform", system)
    # On Windows these paths are on the current drive, so only the text after it is compared.
    assert shared.cache_folder().as_posix().endswith(expected)


def test_version_of(tmp_path):
    assert shared.version_of(make_tree(tmp_path / "a", "0.18.2")) == "0.18.2"
    assert shared.version_of(tmp_path) == "unknown"
