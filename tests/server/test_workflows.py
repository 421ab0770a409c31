"""The workflows as a clone of the repository brings them: as templates, and as prompts for the API."""

import json
from pathlib import Path

import pytest

from scripts.client import gui_to_api
from scripts.server import get

REPO = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((REPO / "workflows").glob("*.json"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_template_is_served_with_its_picture(path, server):
    """A folder named like another of those where the host looks for templates, such as examples, would hide them."""
    for file in (path, path.with_suffix(".jpg")):
        assert get(f"{server.address}/api/workflow_templates/concept-erasure/{file.name}") == file.read_bytes()


def untitled(prompt: dict) -> dict:
    """Without what ComfyUI calls its own nodes, which another version may do otherwise."""
    return {number: {**entry, "_meta": None} for number, entry in prompt.items()}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_for_the_api_is_what_the_editor_would_send(path, info):
    twin = json.loads((path.parent / "api" / path.name).read_text(encoding="utf-8"))
    assert untitled(twin) == untitled(gui_to_api(json.loads(path.read_text(encoding="utf-8")), info))


def test_there_are_no_other_workflows_for_the_api():
    assert {path.name for path in (REPO / "workflows" / "api").iterdir()} == {path.name for path in WORKFLOWS}
