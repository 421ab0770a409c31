"""Erasures as files: dropped on the editor they open their graph; Load Erasure shows a card, and knows new files."""

import base64

import pytest

from concept_erasure.erasure.artifact import Erasure, Metadata
from concept_erasure.erasure.files import save_erasure
from scripts.graph import Graph
from scripts.make_workflows import CHECKPOINT, CONCEPT
from tests.browser.test_said import NODES_2

DROP = """([name, content]) => {
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0)), dropped = new DataTransfer();
    dropped.items.add(new File([bytes], name));
    app.canvas.canvas.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, bubbles: true, cancelable: true}));
}"""
FILES = "id => app.graph.getNodeById(id).widgets.find(({name}) => name == 'file').options.values"
ELEMENT = "app.graph.getNodeById(id).widgets.find(({name}) => name == 'erasure_card').element"
CARD = f"([id, text]) => {ELEMENT}.innerText.includes(text)"
PICTURE = f"id => {ELEMENT}.querySelector('img').naturalWidth > 0"
WHOLE = f"""id => {{
    const card = {ELEMENT}, text = card.firstElementChild, lines = text.textContent.split("\\n").length;
    return text.offsetHeight > 17 * lines + 1 && card.scrollHeight <= card.clientHeight + 1;
}}"""
NARROW = """id => {
    const node = app.graph.getNodeById(id), [file] = node.widgets;
    node.setSize([180, node.size[1]]);
    file.callback?.(file.value);
}"""
CHOOSE = """([id, value]) => {
    const widget = app.graph.getNodeById(id).widgets.find(({name}) => name == "file");
    widget.value = value;
    widget.callback?.(value);
}"""


@pytest.fixture
def other(server):
    """An erasure for a model of another kind."""
    path = server.base / "output" / "erasures" / "of_sdxl.safetensors"
    save_erasure(Erasure(Metadata(concept="star", family="SDXL", context_dim="2048")), path)
    yield path.name
    path.unlink()


def library(info) -> dict:
    """Save Erasure with a picture, and Load Erasure on the same checkpoint."""
    graph = Graph(info, (1.0, 100, 130))
    loader = graph.node("CheckpointLoaderSimple", (0, 0, 320, 98), ckpt_name=CHECKPOINT)
    both = {"model": (loader, 0), "clip": (loader, 1)}
    texts = {"concepts": f"{CONCEPT} -> heart", "preserve": "star"}
    instant = graph.node("ErasureInstant", (360, 0, 400, 560), sockets=both, **texts)
    picture = graph.node("EmptyImage", (0, 200, 320, 130), width=64, height=64, color=0xFF8800)
    sockets = {"erasure": (instant, 0), "picture": (picture, 0)}
    graph.node("ErasureSave", (800, 0, 400, 150), sockets=sockets)
    load = graph.node("ErasureLoad", (800, 300, 400, 120), file=f"{CONCEPT}.safetensors")
    graph.node("ErasureApply", (1250, 300, 320, 186), sockets={"model": (loader, 0), "erasure": (load, 0)})
    return graph.saved()


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes-2"])
def test_what_was_saved_is_in_the_list_with_a_card_and_opens_its_graph_when_dropped(
    editor, info, server, other, nodes_2
):
    editor.ask("([name, value]) => app.ui.settings.setSettingValueAsync(name, value)", [NODES_2, nodes_2])
    workflow = library(info)
    editor.load(workflow)
    load = editor.number("ErasureLoad")
    editor.until(CARD, [load, "circle → heart · ToyWorld"])
    editor.ask(NARROW, load)
    editor.until(WHOLE, load)
    before = set(editor.ask(FILES, load))
    editor.run()
    saved = editor.said("ErasureSave").splitlines()[0].removeprefix("Saved erasures/")
    editor.until(f"([id, name]) => ({FILES})(id).includes(name)", [load, saved])
    assert saved.startswith("circle_ToyWorld_0000") and set(editor.ask(FILES, load)) - before == {saved}
    editor.ask(CHOOSE, [load, saved])
    editor.until(CARD, [load, "% of the way"])
    editor.until(PICTURE, load)
    editor.shot(f"library_{'nodes_2' if nodes_2 else 'classic'}")
    content = (server.base / "output" / "erasures" / saved).read_bytes()
    assert other not in editor.ask(FILES, load)
    editor.remove(editor.number("ErasureApply"))  # nothing tells the model any more
    editor.until(f"([id, name]) => ({FILES})(id).includes(name)", [load, other])
    editor.begin()
    editor.ask(DROP, [saved, base64.b64encode(content).decode()])
    editor.until("count => app.graph.nodes.length == count", len(workflow["nodes"]))
    assert editor.prompt()[editor.number("ErasureInstant")]["inputs"]["concepts"] == f"{CONCEPT} -> heart"
