"""Write the templates of ``scripts/templates.py``, and what goes with each: its twin for the API, and its pictures.

``python3 scripts/run.py scripts.make_workflows`` starts a server, asks it for the order of every node's widgets, and
writes the graphs as the editor would save them: ``workflows/*.json`` for people's checkpoints, and the same for the toy
world. ``workflows/api`` has people's as prompts, and ``docs/workflows`` pictures with the graph in them. ``--pictures``
also runs the toy world's, for the ``.jpg``.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
from collections.abc import Sequence
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from . import client, host, server, shared, sheet
from .graph import as_text
from .template_words import PEOPLE, TOY, TOY_SIZE, TOY_WORLD, WORLDS
from .templates import SEED, STEPS, TEMPLATES, Template

PACK = shared.PACK
API = PEOPLE.folder / "api"
"""Deeper than where the host looks for templates, for a prompt is none."""
DRAGGED = PACK / "docs" / "workflows"
EDGE = 480
"""Pixels of a template's square picture."""

# Of the toy world, for tests and benchmarks.
CHECKPOINT, CFG = TOY.file, TOY.cfg
CONCEPT = "circle"
PROMPT = "a red circle on a striped background"
KEPT_PROMPTS = {"star": "a blue star on a dotted background", "heart": "a purple heart on a checked background"}
__all__ = [
    "CFG", "CHECKPOINT", "CONCEPT", "KEPT_PROMPTS", "PROMPT", "SEED", "STEPS", "TEMPLATES", "TOY_SIZE", "template",
]  # fmt: skip


def template(slug: str) -> Template:
    """The template with a slug."""
    return next(template for template in TEMPLATES if template.slug == slug)


def for_the_toy_world(prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt with the checkpoint, words and picture size of the toy world, as far as it has such inputs."""
    for node in prompt.values():
        toy = {"width": TOY_SIZE, "height": TOY_SIZE, "ckpt_name": CHECKPOINT}
        node["inputs"] |= {name: value for name, value in toy.items() if name in node["inputs"]}
    return prompt


def toy_prompt(slug: str, object_info: dict[str, Any], everything: bool = False) -> dict[str, Any]:
    """A template of the toy world as a prompt; with ``everything`` what is switched off in it is on."""
    file = TOY_WORLD.folder / f"{template(slug).title}.json"
    return prompt_of(json.loads(file.read_text(encoding="utf-8")), object_info, everything)


def prompt_of(workflow: dict[str, Any], object_info: dict[str, Any], everything: bool = False) -> dict[str, Any]:
    """A graph as a prompt; with ``everything`` what is switched off in it is on."""
    workflow = copy.deepcopy(workflow)
    for node in workflow["nodes"] if everything else ():
        node["mode"] = 0
    return client.gui_to_api(workflow, object_info)


def numbers_of(prompt: dict[str, Any]) -> dict[str, str]:
    """The nodes' numbers by title."""
    return {node["_meta"]["title"]: number for number, node in prompt.items()}


# ---------------------------------------------------------------- the files


def write(template: Template, object_info: dict[str, Any]) -> None:
    """A template for every world, and people's as a prompt for the API."""
    for world in WORLDS:
        world.folder.mkdir(parents=True, exist_ok=True)
        workflow = template.make(object_info, world)
        (world.folder / f"{template.title}.json").write_text(as_text(workflow), encoding="utf-8")
    API.mkdir(exist_ok=True)
    prompt = client.gui_to_api(template.make(object_info, PEOPLE), object_info)
    (API / f"{template.slug}.json").write_text(as_text(prompt), encoding="utf-8")


def write_draggable(template: Template) -> None:
    """``SLUG.png``: the template's picture with the graph in it, which opens when it is dropped on the editor."""
    file = PEOPLE.folder / f"{template.title}.json"
    text = PngInfo()
    text.add_text("workflow", json.dumps(json.loads(file.read_text(encoding="utf-8")), separators=(",", ":")))
    DRAGGED.mkdir(exist_ok=True)
    with Image.open(file.with_suffix(".jpg")) as picture:
        # Few colours are enough for these pictures, and keep a file at about 100 kB.
        picture.quantize(64).save(DRAGGED / f"{template.slug}.png", pnginfo=text, optimize=True)


# ---------------------------------------------------------------- the pictures


def draw(connection: client.Client, template: Template) -> None:
    """Runs the toy world's template, and lays out what it draws as ``TITLE.jpg`` in both folders."""
    object_info = connection.object_info()
    graph = template.make(object_info, TOY_WORLD)
    prompt = prompt_of(graph, object_info)
    number = numbers_of(prompt).get("Erasure Report")
    if number:
        picture = report(connection, prompt, number)
    else:
        connection.wait(connection.queue(prompt))  # what is saved by it is there for what loads it
        picture = result(connection, prompt_of(graph, connection.object_info(), everything=True), template)
    for world in WORLDS:
        picture.save(world.folder / f"{template.title}.jpg", quality=90)


def result(connection: client.Client, prompt: dict[str, Any], template: Template) -> Image.Image:
    """A square: the pictures under each title, for the concept and for something else."""
    words, numbers = TOY_WORLD.words[template.slug], numbers_of(prompt)
    titles = [title for title in PICTURES if title in numbers]
    rows = []
    for text in (words.prompt, words.kept):
        prompt[numbers["Prompt"]]["inputs"]["text"] = text
        images = connection.images(connection.wait(connection.queue(prompt)))
        rows.append([images[numbers[title]][0] for title in titles])
    return sheet.square([PICTURES[title] for title in titles], rows, f"toy world: {named(words.concept)} erased", EDGE)


def named(concept: str) -> str:
    """The names of a field, without what takes their place."""
    return ", ".join(line.partition(" -> ")[0] for line in concept.splitlines())


def report(connection: client.Client, prompt: dict[str, Any], number: str) -> Image.Image:
    """A square of the sheet that Erasure Report shows."""
    prompt[number]["inputs"]["pictures"] = 2
    images = connection.images(connection.wait(connection.queue(needed(prompt, number))))[number]
    picture = Image.open(io.BytesIO(images[0])).convert("RGB")
    edge = min(picture.size)
    return picture.crop((0, 0, edge, edge)).resize((EDGE, EDGE), Image.Resampling.LANCZOS)


def export_once(connection: client.Client, prompt: dict[str, Any], exporter: str) -> None:
    """Runs only what the exporting node needs, so that the file is there for the loader."""
    connection.wait(connection.queue(needed(prompt, exporter)))


def needed(prompt: dict[str, Any], number: str) -> dict[str, Any]:
    """The part of a prompt that one node depends on, with itself."""
    part, open_ = {}, [number]
    while open_:
        key = open_.pop()
        part[key] = prompt[key]
        open_ += [value[0] for value in prompt[key]["inputs"].values() if isinstance(value, list)]
    return part


PICTURES = {"Base": "before", "Erased": "after", "Recovered with the key": "with the key",
            "Erased by Load LoRA": "as a LoRA"}  # fmt: skip
"""Title of a node that shows pictures -> what they are called in a template's picture."""


def own_server() -> server.Server:
    return server.Server(host.obtain(), server.toy_base(PACK / "output" / "templates"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", nargs="*", choices=[one.slug for one in TEMPLATES],
                        help="also run these (none named: all)")  # fmt: skip
    parser.add_argument("--address", help="a server with the pack and the toy world that runs already")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        connection = client.Client(options.address or stack.enter_context(own_server()).address)
        object_info = connection.object_info()
        for one in TEMPLATES:
            write(one, object_info)
            if options.pictures is not None and (not options.pictures or one.slug in options.pictures):
                draw(connection, one)
    for one in TEMPLATES:
        write_draggable(one)


if __name__ == "__main__":
    main()
