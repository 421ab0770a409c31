"""The workflows as a clone of the repository brings them: as templates, and as prompts for the API."""

import json
from urllib.parse import quote

import pytest

from scripts.client import ClientError, gui_to_api
from scripts.make_workflows import API
from scripts.server import get
from scripts.template_words import PEOPLE, TOY_WORLD
from scripts.templates import TEMPLATES


@pytest.mark.parametrize(("pack", "world"), [("concept-erasure", PEOPLE), ("toy-world", TOY_WORLD)])
def test_every_template_is_served_with_its_picture(server, pack, world):
    """A folder named like another of those where the host looks for templates, such as examples, would hide them."""
    files = [world.folder / f"{template.title}{ending}" for template in TEMPLATES for ending in (".json", ".jpg")]
    assert sorted(files) == sorted(file for file in world.folder.iterdir() if file.is_file())
    for file in files:
        assert get(f"{server.address}/api/workflow_templates/{pack}/{quote(file.name)}") == file.read_bytes()


def untitled(prompt: dict) -> dict:
    """Without what ComfyUI calls its own nodes, which another version may do otherwise."""
    return {number: {**entry, "_meta": None} for number, entry in prompt.items()}


def test_a_workflow_for_the_api_is_what_the_editor_would_send(info):
    for template in TEMPLATES:
        twin = json.loads((API / f"{template.slug}.json").read_text(encoding="utf-8"))
        saved = json.loads((PEOPLE.folder / f"{template.title}.json").read_text(encoding="utf-8"))
        assert untitled(twin) == untitled(gui_to_api(saved, info)), template.title


def test_a_model_in_three_files_lacks_only_these(client):
    """All that the server objects to in the prompts for people's transformers."""
    for template in TEMPLATES:
        made = PEOPLE.words[template.slug].checkpoint
        if not made.encoder:
            continue
        prompt = json.loads((API / f"{template.slug}.json").read_text(encoding="utf-8"))
        with pytest.raises(ClientError) as refusal:
            client.queue(prompt)
        _, *objections = str(refusal.value).splitlines()
        for file, line in zip((made.file, made.encoder.file, made.vae.file), sorted(objections), strict=True):
            assert "Value not in list" in line and f"'{file}' not in" in line


def test_there_are_no_other_workflows_for_the_api():
    assert {path.name for path in API.iterdir()} == {f"{template.slug}.json" for template in TEMPLATES}
