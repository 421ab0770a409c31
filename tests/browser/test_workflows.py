"""The workflows that the pack brings along, in the editor itself."""

import json
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from scripts.client import gui_to_api

REPO = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((REPO / "workflows").glob("*.json"))


def values(workflow: dict) -> dict:
    """The widgets' values by node id, as a workflow's file has them."""
    return {str(node["id"]): node["widgets_values"] for node in workflow["nodes"] if node.get("widgets_values")}


def without_titles(prompt: dict) -> dict:
    return {key: (entry["class_type"], entry["inputs"]) for key, entry in prompt.items()}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_the_editor_reads_a_workflow_as_it_was_written(editor, info, path):
    """No value has moved to another widget, and what would be sent is what our own conversion makes of the file."""
    workflow = json.loads(path.read_text(encoding="utf-8"))
    editor.load(workflow, path.stem)
    unknown = "() => app.graph.nodes.map(node => node.type).filter(type => !(type in LiteGraph.registered_node_types))"
    assert editor.ask(unknown) == []
    assert without_titles(editor.prompt()) == without_titles(gui_to_api(workflow, info))
    assert values(editor.ask("() => app.graph.serialize()")) == values(workflow)


# ---------------------------------------------------------------- templates

SHORTER = {
    "ErasureTrain": {"steps": 8, "sampling_steps": 4},
    "ErasureReport": {"pictures": 1},
    "ErasureStressTest": {
        "pictures": 1, "steps": 2, "search_tried": 64, "search_generations": 1, "learned_steps": 2,
        "relearning_steps": 1,
    },
}  # fmt: skip
"""What a run of a few seconds takes; everything else stays as the template has it."""
SHORTEN = """values => app.graph.nodes.forEach(node => {
    for (const [name, value] of Object.entries(values[node.type] ?? {}))
        node.widgets.find(widget => widget.name == name).value = value;
})"""
OUTPUTS = "() => app.graph.nodes.filter(node => node.constructor.nodeData?.output_node).map(node => node.id)"
PICTURED = "() => Object.entries(app.nodeOutputs).filter(([id, output]) => output.images?.length).map(([id]) => id)"
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
    """Every node that gives something out has done so, and the pictures are to be seen."""
    assert set(editor.ask(OUTPUTS)) <= set(editor.ask("() => Object.keys(app.nodeOutputs)"))
    pictured = editor.ask(PICTURED)
    assert pictured
    for number in pictured:
        editor.shows(number)


@pytest.mark.parametrize("name", [path.stem for path in WORKFLOWS if path.stem != "export_as_lora"])
def test_a_template_runs_as_it_opens(editor, name):
    editor.open_template(name)
    editor.ask(SHORTEN, SHORTER)
    editor.run()
    everything_shown(editor)
    editor.shot(f"template_{name}")


def test_the_template_for_a_lora_runs_as_its_note_says(editor):
    """Run, press R so that Load LoRA knows the file, and run again."""
    editor.open_template("export_as_lora")
    expect(editor.part("error-overlay")).to_contain_text("circle_00001.safetensors is missing")
    assert editor.press_run()()["kind"] == "execution_success"
    assert editor.said("ErasureExportLora").startswith("Saved loras/circle_00001.safetensors")
    editor.shot("template_export_as_lora_1_saved")
    editor.page.keyboard.press("r")
    editor.until("id => app.graph.getNodeById(id).widgets[0].options.values.length > 0", editor.number("Load LoRA"))
    editor.run()
    everything_shown(editor)
    editor.shot("template_export_as_lora_2_compared")
