"""Every node of ours as it looks after a run, which is the picture on its help page."""

from typing import Any

import pytest

from tests.browser.editor import Editor
from tests.browser.graphs import gallery
from tests.server import graphs

CONNECT = """([source, target, name]) => {
    const to = app.graph.getNodeById(target);
    app.graph.getNodeById(source).connect(0, to, to.inputs.findIndex(input => input.name == name));
}"""
GROWN = "([target, name]) => app.graph.getNodeById(target).inputs.some(input => input.name == name)"
TEXT = "id => app.graph.getNodeById(id).widgets.find(widget => widget.name == '$$node-text-preview').y"
LONG = ("ErasureReport", "ErasureCompare", "ErasureStressTest")
"""Of these only what they say and show is pictured, for they have many inputs."""
TITLE, MARGIN = 50, 8


@pytest.fixture
def lora(client, info):
    """A LoRA file for Import Erasure, made before the editor opens and asks what there is."""
    source = {"model": ["1", 0], "clip": ["1", 1]}
    instant = graphs.node(info, "ErasureInstant", **source, concepts="circle", preserve="square")
    prefix = {"filename_prefix": "loras/of_another_program"}
    export = graphs.node(info, "ErasureExportLora", model=["1", 0], erasure=["2", 0], **prefix)
    prompt = {"1": graphs.picture(info, ["1", 0])["1"], "2": instant, "3": export}
    client.wait(client.queue(prompt), timeout=300)
    return "of_another_program_00001.safetensors"


def feed(editor: Editor, target: str, *sources: str) -> None:
    """Connect erasures to a node whose sockets grow."""
    number = editor.number(target)
    for i, source in enumerate(sources):
        editor.until(GROWN, [number, f"erasures.erasure{i}"])
        editor.ask(CONNECT, [editor.number(source), number, f"erasures.erasure{i}"])


def close_up(editor: Editor, node: dict[str, Any], pictures: list[dict[str, Any]]) -> None:
    """The node with the pictures below it."""
    (x, y), (width, _) = node["pos"], node["size"]
    below = [p for p in pictures if x <= p["pos"][0] < x + width and y < p["pos"][1] < y + 1000]
    bottom = max(n["pos"][1] + n["size"][1] for n in (node, *below)) + MARGIN
    top = y - TITLE
    if node["type"] in LONG:
        top = y + editor.ask(TEXT, editor.number(node["type"]))
    editor.close_up(f"page_{node['type']}", x - MARGIN, top, width + 2 * MARGIN, bottom - top)


def test_every_node_says_what_it_did(lora, editor, info):
    workflow = gallery(info, lora)
    editor.load(workflow, "gallery")
    feed(editor, "ErasureCombine", "ErasureLoad", "ErasureInstant")
    feed(editor, "ErasureCompare", "ErasureLoad", "ErasureImport")
    editor.run()
    pictures = [node for node in workflow["nodes"] if node["type"] == "PreviewImage"]
    for picture in pictures:
        editor.shows(str(picture["id"]))
    for node in workflow["nodes"]:
        if node["type"].startswith("Erasure"):
            editor.said(node["type"])
            close_up(editor, node, pictures)
