"""Every node of ours as it looks after a run, which is the picture on its help page."""

import pytest

from tests.browser.editor import Editor
from tests.browser.graphs import gallery
from tests.server import graphs

CONNECT = """([source, target, name]) => {
    const to = app.graph.getNodeById(target);
    app.graph.getNodeById(source).connect(0, to, to.inputs.findIndex(input => input.name == name));
}"""
GROWN = "([target, name]) => app.graph.getNodeById(target).inputs.some(input => input.name == name)"
LONG = ("ErasureReport", "ErasureCompare", "ErasureStressTest", "ErasureFindStrength", "ErasureCard")
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


def close_up(editor: Editor, kind: str, pictures: list[str]) -> None:
    """A node with the pictures below it, or only what it says and shows."""
    number = editor.number(kind)
    if kind in LONG:  # it grows when the editor first has to draw its picture
        editor.look_at(number)
        editor.shows(number)
    node, *others = (editor.box(each) for each in (number, *pictures))
    below = [p for p in others if node.left <= p.left < node.right and node.top < p.top < node.top + 1000]
    bottom = max(box.bottom for box in (node, *below)) + MARGIN
    top = node.shown if kind in LONG else node.top - TITLE
    editor.close_up(f"page_{kind}", (node.left - MARGIN, top, node.right + MARGIN, bottom))


def test_every_node_says_what_it_did(lora, editor, info):
    workflow = gallery(info, lora)
    editor.load(workflow, "gallery")
    feed(editor, "ErasureCombine", "ErasureLoad", "ErasureInstant")
    feed(editor, "ErasureCompare", "ErasureLoad", "ErasureImport")
    editor.run()
    pictures = [str(node["id"]) for node in workflow["nodes"] if node["type"] == "PreviewImage"]
    for number in pictures:
        editor.look_at(number)  # what is out of view is not drawn
        editor.shows(number)
    for kind in (node["type"] for node in workflow["nodes"] if node["type"].startswith("Erasure")):
        editor.said(kind)
        close_up(editor, kind, pictures)
