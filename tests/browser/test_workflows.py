"""The workflows that the pack brings along, in the editor itself."""

import base64
import json
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from scripts.client import gui_to_api

REPO = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((REPO / "workflows").glob("*.json"))
OLD = REPO / "tests" / "data" / "0.1.0"


def values(workflow: dict) -> dict:
    """The widgets' values by node id, as a workflow's file has them."""
    return {str(node["id"]): node["widgets_values"] for node in workflow["nodes"] if node.get("widgets_values")}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_the_editor_reads_a_workflow_as_it_was_written(editor, info, path):
    """No value has moved to another widget, and what would be sent is what our own conversion makes of the file."""
    workflow = json.loads(path.read_text(encoding="utf-8"))
    editor.load(workflow, path.stem)
    unknown = "() => app.graph.nodes.map(node => node.type).filter(type => !(type in LiteGraph.registered_node_types))"
    assert editor.ask(unknown) == []
    assert values(editor.ask("() => app.graph.serialize()")) == values(workflow)
    by_name = json.loads((path.parent / "api" / path.name).read_text(encoding="utf-8"))
    assert editor.prompt() == gui_to_api(workflow, info) == by_name


@pytest.mark.parametrize("path", sorted((OLD / "workflows").glob("*.json")), ids=lambda p: p.stem)
def test_the_editor_reads_a_workflow_of_0_1_0_as_it_was_written(editor, path):
    """No value is on another widget than then, no link on another socket; new inputs have their defaults."""
    editor.load(json.loads(path.read_text(encoding="utf-8")), path.stem)
    then = json.loads((OLD / "api" / path.name).read_text(encoding="utf-8"))
    now = editor.prompt()
    assert set(now) == set(then)
    for number, node in then.items():
        had = {name: value for name, value in now[number]["inputs"].items() if name in node["inputs"]}
        assert had == node["inputs"], node["class_type"]


# ---------------------------------------------------------------- templates

SHORTER = {
    "ErasureLearn": {"steps": 8},
    "ErasureReport": {"pictures": 1},
    "ErasureStressTest": {
        "pictures": 1, "steps": 2, "search_tried": 64, "search_generations": 1, "learned_steps": 2,
        "relearning_steps": 1,
    },
}  # fmt: skip
"""What a run of a few seconds takes; everything else but the picture size stays as the template has it."""
OUTPUTS = "() => app.graph.nodes.filter(node => node.constructor.nodeData?.output_node).map(node => node.id)"
GIVEN = "kind => Object.entries(app.nodeOutputs).filter(([id, output]) => output[kind]?.length).map(([id]) => id)"
OVERLAPPING = """() => app.graph.nodes.flatMap((a, i) => app.graph.nodes.slice(i + 1)
    .filter(b => a.pos[0] < b.pos[0] + b.size[0] && b.pos[0] < a.pos[0] + a.size[0])
    .filter(b => a.pos[1] - 30 < b.pos[1] + b.size[1] && b.pos[1] - 30 < a.pos[1] + a.size[1])
    .map(b => [a.title, b.title]))"""
"""Nodes that cover each other; a node grows when it shows something, and 30 is the height of a title."""
THUMBNAIL = "image => image.naturalWidth && [image.naturalWidth, image.naturalHeight]"


def test_the_dialog_offers_every_template_with_its_picture(editor):
    dialog = editor.browse_templates()
    for path in WORKFLOWS:
        picture = dialog.get_by_test_id(f"template-workflow-{path.stem}").locator("img").first
        picture.scroll_into_view_if_needed()
        editor.until(THUMBNAIL, picture.element_handle())
        with Image.open(path.with_suffix(".jpg")) as own:
            assert tuple(picture.evaluate(THUMBNAIL)) == own.size
    editor.shot("templates")


def everything_shown(editor) -> None:
    """Every node that gives something out has done so, it is to be seen, and no node covers another."""
    assert set(editor.ask(OUTPUTS)) <= set(editor.ask("() => Object.keys(app.nodeOutputs)"))
    pictured, said = editor.ask(GIVEN, "images"), editor.ask(GIVEN, "text")
    assert pictured and said
    for number in pictured:
        editor.shows(number)
    for number in said:
        editor.said(number)
    assert editor.ask(OVERLAPPING) == []


@pytest.mark.parametrize("name", [path.stem for path in WORKFLOWS if path.stem != "export_as_lora"])
def test_a_template_runs_as_it_opens(editor, name):
    editor.open_template(name)
    editor.fill_in(SHORTER)
    editor.run()
    everything_shown(editor)
    editor.shot(f"template_{name}")


def test_the_template_for_a_lora_runs_as_its_note_says(editor):
    """Run, press R so that Load LoRA knows the file, and run again."""
    editor.open_template("export_as_lora")
    editor.fill_in({})
    expect(editor.part("error-overlay")).to_contain_text("circle_00001.safetensors is missing")
    assert editor.press_run()()["kind"] == "execution_success"
    assert editor.said("ErasureExportLora").startswith("Saved loras/circle_00001.safetensors")
    editor.shot("template_export_as_lora_1_saved")
    editor.page.keyboard.press("r")
    editor.until("id => app.graph.getNodeById(id).widgets[0].options.values.length > 0", editor.number("Load LoRA"))
    editor.run()
    everything_shown(editor)
    editor.shot("template_export_as_lora_2_compared")


# ---------------------------------------------------------------- pictures

OPEN = "name => app.extensionManager.workflow.activeWorkflow?.filename == name && app.graph.nodes.length > 0"
DROP = """([name, content]) => {
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0)), dropped = new DataTransfer();
    dropped.items.add(new File([bytes], name, {type: "image/png"}));
    app.canvas.canvas.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, bubbles: true, cancelable: true}));
}"""


def test_a_picture_that_is_dropped_on_the_editor_opens_its_graph(editor):
    for path in WORKFLOWS:
        picture = REPO / "docs" / "workflows" / f"{path.stem}.png"
        wanted = values(json.loads(path.read_text(encoding="utf-8")))
        editor.ask(DROP, [picture.name, base64.b64encode(picture.read_bytes()).decode()])
        editor.until(OPEN, path.stem)
        assert values(editor.ask("() => app.graph.serialize()")) == wanted
    editor.shot("picture_dropped")
