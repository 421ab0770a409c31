"""The workflows that the pack brings along, in the editor itself."""

import base64
import json
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from scripts.client import gui_to_api
from scripts.make_workflows import API, DRAGGED, template
from scripts.template_words import PEOPLE, TOY_WORLD
from scripts.templates import TEMPLATES
from tests.browser.editor import PACK, RUN, TOY_PACK

REPO = Path(__file__).resolve().parents[2]
OLD = REPO / "tests" / "data" / "0.1.0"
PACKS = {PACK: PEOPLE, TOY_PACK: TOY_WORLD}
UNKNOWN = "() => app.graph.nodes.map(node => node.type).filter(type => !(type in LiteGraph.registered_node_types))"


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def values(workflow: dict) -> dict:
    """The widgets' values by node id, as a workflow's file has them."""
    return {str(node["id"]): node["widgets_values"] for node in workflow["nodes"] if node.get("widgets_values")}


@pytest.mark.parametrize("pack", PACKS)
def test_the_editor_reads_every_workflow_as_it_was_written(editor, info, pack):
    """No value has moved to another widget, and what would be sent is what our own conversion makes of the file."""
    for one in TEMPLATES:
        workflow = read(PACKS[pack].folder / f"{one.title}.json")
        editor.load(workflow, one.slug)
        assert editor.ask(UNKNOWN) == []
        assert values(editor.ask("() => app.graph.serialize()")) == values(workflow), one.title
        assert editor.prompt() == gui_to_api(workflow, info), one.title
        assert pack == TOY_PACK or editor.prompt() == read(API / f"{one.slug}.json")


def test_the_editor_reads_workflows_of_0_1_0_as_they_were_written(editor):
    """No value is on another widget than then, no link on another socket; new inputs have their defaults."""
    paths = sorted((OLD / "workflows").glob("*.json"))
    assert paths
    for path in paths:
        editor.load(read(path), path.stem)
        then = read(OLD / "api" / path.name)
        now = editor.prompt()
        assert set(now) == set(then), path.stem
        for number, node in then.items():
            had = {name: value for name, value in now[number]["inputs"].items() if name in node["inputs"]}
            assert had == node["inputs"], (path.stem, node["class_type"])


# ---------------------------------------------------------------- templates

SHORTER = {
    "ErasureLearn": {"steps": 8},
    "ErasureReport": {"pictures": 1},
    "ErasureStressTest": {
        "pictures": 1, "steps": 2, "search_tried": 64, "search_generations": 1, "learned_steps": 2,
        "relearning_steps": 1,
    },
}  # fmt: skip
"""What a run of a few seconds takes; everything else stays as the template has it."""
SWITCH_ON = """kind => app.graph.nodes.filter(node => node.type == kind).forEach(node => {
    node.mode = 0;
    if (node.flags.collapsed) node.collapse();
})"""
OUTPUTS = "() => app.graph.nodes.filter(node => node.constructor.nodeData?.output_node).map(node => node.id)"
GIVEN = "kind => Object.entries(app.nodeOutputs).filter(([id, output]) => output[kind]?.length).map(([id]) => id)"
OVERLAPPING = """() => {
    const apart = (a, b) => a[0] + a[2] <= b[0] || b[0] + b[2] <= a[0] || a[1] + a[3] <= b[1] || b[1] + b[3] <= a[1];
    const places = app.graph.nodes.map(node => [node.title, [...node.boundingRect]]);
    return places.flatMap(([a, one], i) => places.slice(i + 1).filter(([b, other]) => !apart(one, other))
        .map(([b]) => [a, b]));
}"""
"""Nodes that cover each other, with their titles; a node grows when it shows something."""
THUMBNAIL = "image => image.naturalWidth && [image.naturalWidth, image.naturalHeight]"


RED = "() => app.graph.nodes.filter(node => node.has_errors).map(node => node.type)"
SPLIT = ["UNETLoader", "CLIPLoader", "VAELoader"]
LEGIBLE = 8 / 14
"""The scale below which the classic editor draws no text: 14 pixels would become less than 8."""
LAPTOPS = [(1366, 768), (1280, 720)]


@pytest.mark.parametrize("pack", PACKS)
def test_the_dialog_offers_every_template_with_its_picture(editor, pack):
    dialog = editor.browse_templates(pack)
    for one in TEMPLATES:
        card = dialog.get_by_test_id(f"template-workflow-{one.title}")
        card.scroll_into_view_if_needed()  # pictures that are out of sight are not loaded
        picture = card.locator("img").first
        editor.until(THUMBNAIL, picture.element_handle())
        with Image.open(PACKS[pack].folder / f"{one.title}.jpg") as own:
            assert list(own.size) == picture.evaluate(THUMBNAIL) == [480, 480]
    editor.shot(f"templates_of_{pack}")


def test_every_template_can_be_read_on_a_laptop_and_lacks_only_its_model(editor):
    """At the scale at which it opens; and the editor offers to download the only files that it lacks."""
    for one in TEMPLATES:
        workflow = read(PEOPLE.folder / f"{one.title}.json")
        if workflow["extra"].get("linearMode"):
            continue  # an app, not a graph
        for width, height in LAPTOPS:
            editor.page.set_viewport_size({"width": width, "height": height})
            editor.open_template(one.title, PACK)
            assert editor.ask("() => app.canvas.ds.scale") > LEGIBLE, (one.title, width)
        made = PEOPLE.words[one.slug].checkpoint
        missing = "3 errors found" if made.encoder else f"{made.file} is missing"
        expect(editor.part("error-overlay")).to_contain_text(missing)
        assert editor.ask(RED) == (SPLIT if made.encoder else ["CheckpointLoaderSimple"])
        editor.shot(f"laptop_{one.slug}")


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


@pytest.mark.parametrize("slug", [
    "erase_by_text", "erase_by_text_cfg_1", "erase_three_concepts", "train_erase_recover", "measure_an_erasure",
])  # fmt: skip
def test_a_template_runs_as_it_opens(editor, slug):
    editor.open_template(template(slug).title)
    editor.fill_in(SHORTER)
    editor.ask(SWITCH_ON, "ErasureStressTest")
    editor.run()
    everything_shown(editor)
    editor.shot(f"template_{slug}")


@pytest.mark.parametrize(
    ("slug", "saves", "loads", "folded"),
    [
        ("erase_with_saved_file", "ErasureSave", "Load Erasure", "ErasureApply"),
        ("export_as_lora", "ErasureExportLora", "Load LoRA", ""),
    ],
)
def test_a_template_that_loads_what_it_saves_runs_as_its_note_says(editor, slug, saves, loads, folded):
    """Run, switch on what loads the file, press R so that it knows the file, and run again."""
    editor.open_template(template(slug).title)
    expect(editor.part("error-overlay")).to_be_hidden()
    editor.run()
    assert editor.said(saves).startswith("Saved ")
    editor.shot(f"template_{slug}_1_saved")
    for kind in filter(None, (loads, folded)):
        editor.ask(SWITCH_ON, editor.ask("name => app.graph.getNodeById(name).type", editor.number(kind)))
    editor.page.keyboard.press("r")
    known = "id => (({options, value}) => options.values.includes(value))(app.graph.getNodeById(id).widgets[0])"
    editor.until(known, editor.number(loads))
    editor.run()
    everything_shown(editor)
    editor.shot(f"template_{slug}_2_loaded")


def test_the_first_template_is_an_app(editor):
    """Four fields, Run, and a picture before and after."""
    editor.page.set_viewport_size({"width": 1366, "height": 768})
    editor.open_app(template("erase_by_text_app").title)
    for field in ("checkpoint", "prompt", "concept", "strength"):
        expect(editor.page.get_by_text(field, exact=True)).to_be_visible()
    editor.page.get_by_role("button", name="Run", exact=True).click()
    expect(editor.page.get_by_role("button", name="Rerun")).to_be_visible(timeout=RUN)
    sources = "() => [...document.images].map(({src}) => new URL(src).searchParams.get('filename')).filter(Boolean)"
    assert len(set(editor.ask(sources))) == 2
    editor.shot("app")


# ---------------------------------------------------------------- pictures

OPEN = "name => app.extensionManager.workflow.activeWorkflow?.filename == name && app.graph.nodes.length > 0"
DROP = """([name, content]) => {
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0)), dropped = new DataTransfer();
    dropped.items.add(new File([bytes], name, {type: "image/png"}));
    app.canvas.canvas.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, bubbles: true, cancelable: true}));
}"""


def test_a_picture_that_is_dropped_on_the_editor_opens_its_graph(editor):
    for one in TEMPLATES:
        if one.slug.endswith("_app"):
            continue
        picture = DRAGGED / f"{one.slug}.png"
        wanted = values(read(PEOPLE.folder / f"{one.title}.json"))
        editor.ask(DROP, [picture.name, base64.b64encode(picture.read_bytes()).decode()])
        editor.until(OPEN, one.slug)
        assert values(editor.ask("() => app.graph.serialize()")) == wanted
    editor.shot("picture_dropped")
