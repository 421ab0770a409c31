"""``docs/workflows/*.png``: pictures that open as a graph when they are dropped on the editor."""

import json
from pathlib import Path

import pytest
from PIL import Image

REPO = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((REPO / "workflows").glob("*.json"))
LARGEST = 150_000
"""Bytes of a picture."""


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_picture_holds_the_graph_it_shows(path):
    file = REPO / "docs" / "workflows" / f"{path.stem}.png"
    assert file.stat().st_size < LARGEST
    with Image.open(file) as picture, Image.open(path.with_suffix(".jpg")) as shown:
        assert json.loads(picture.text["workflow"]) == json.loads(path.read_text(encoding="utf-8"))
        assert picture.size == shown.size
    # The editor reads plain text chunks; it would not find a compressed one.
    assert b"tEXtworkflow\0" in file.read_bytes()
