"""The templates: what is the same in both worlds, and ``docs/workflows/*.png``, pictures that open as a graph."""

import json

import pytest
from PIL import Image

from scripts.make_workflows import DRAGGED
from scripts.template_words import PEOPLE, TOY_WORLD, World
from scripts.templates import TEMPLATES

FOLDERS = {
    "CheckpointLoaderSimple": "checkpoints", "UNETLoader": "diffusion_models", "CLIPLoader": "text_encoders",
    "VAELoader": "vae",
}  # fmt: skip
"""What loads a model -> where the host looks for the file. In the toy world, one file has all of a model."""
LARGEST = 150_000
"""Bytes of a picture."""


def saved(world: World, title: str) -> dict:
    return json.loads((world.folder / f"{title}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.slug)
def test_a_picture_holds_the_graph_it_shows(template):
    file = DRAGGED / f"{template.slug}.png"
    assert file.stat().st_size < LARGEST
    with Image.open(file) as picture, Image.open(PEOPLE.folder / f"{template.title}.jpg") as shown:
        assert json.loads(picture.text["workflow"]) == saved(PEOPLE, template.title)
        assert picture.size == shown.size
    # The editor reads plain text chunks; it would not find a compressed one.
    assert b"tEXtworkflow\0" in file.read_bytes()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.slug)
def test_a_template_is_the_same_graph_for_people_and_in_the_toy_world(template):
    """So that what runs on the toy world is what people get; and nothing of the toy world is left in theirs."""
    people, toy = (saved(world, template.title) for world in (PEOPLE, TOY_WORLD))
    kinds = [
        [(node["type"], node["mode"]) for node in graph["nodes"] if node["type"] not in {TOY_WORLD.judge, *FOLDERS}]
        for graph in (people, toy)
    ]
    assert kinds[0] == kinds[1]
    links = [sorted((link[2], link[4], link[5]) for link in graph["links"]) for graph in (people, toy)]
    assert len(links[0]) == len(links[1]) - sum(node["type"] == TOY_WORLD.judge for node in toy["nodes"]) * 2
    words = json.dumps(people)
    assert "circle" not in words and "toyworld" not in words


def test_people_s_templates_name_their_files_for_download_and_preserve_nothing():
    for template in TEMPLATES:
        nodes = saved(PEOPLE, template.title)["nodes"]
        loaders = [node for node in nodes if node["type"] in FOLDERS]
        assert len(loaders) == (3 if PEOPLE.words[template.slug].checkpoint.encoder else 1)
        for loader in loaders:
            [model] = loader["properties"]["models"]
            assert loader["widgets_values"][0] == model["name"] and model["directory"] == FOLDERS[loader["type"]]
            assert model["url"].startswith("https://huggingface.co/") and f"/{model['name']}" in model["url"]
