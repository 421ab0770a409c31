"""A newcomer's first erased picture, from a fresh start: as few actions as the README says."""

import pytest
from playwright.sync_api import expect

from scripts.make_workflows import CHECKPOINT, PROMPT, template
from tests.browser.conftest import LAPTOP, SIZE
from tests.browser.copies import PICTURES
from tests.browser.editor import LISTEN, PACK, Editor
from tests.browser.test_by_hand import shape

OWN = "mine.safetensors"
WIDGET = """([type, name]) => {
    const node = app.graph.nodes.find(node => node.type == type), widget = node.widgets.find(w => w.name == name);
    return [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.y + 10];
}"""
"""The middle of a widget, on the graph."""


@pytest.fixture
def settings(server):
    """The editor was never started, and the only checkpoint is the user's own."""
    file = server.base / "user" / "default" / "comfy.settings.json"
    file.unlink(missing_ok=True)
    checkpoints = server.base / "models" / "checkpoints"
    (checkpoints / CHECKPOINT).rename(checkpoints / OWN)
    yield file
    (checkpoints / OWN).rename(checkpoints / CHECKPOINT)


@pytest.fixture
def editor(browser, server, settings, size):
    with browser.new_context(viewport=size) as context:
        editor = Editor(context.new_page(), server.address, PICTURES)
        editor.page.goto(server.address)
        editor.until("() => window.app?.vueAppReady")
        editor.ask(LISTEN)
        yield editor


@pytest.mark.parametrize("size", [SIZE, LAPTOP], ids=["large", "laptop"])
def test_five_actions_lead_to_an_erased_picture(editor, size):
    dialog = editor.page.get_by_role("dialog")  # it opens by itself at the very first start
    category = dialog.get_by_text(PACK, exact=True)
    expect(category).to_be_visible()
    shot = "first_time" if size == SIZE else "first_time_laptop"
    editor.shot(f"{shot}_1_started")
    category.click()  # 1
    dialog.get_by_test_id(f"template-workflow-{template('erase_by_text').title}").click()  # 2
    expect(dialog).to_be_hidden()
    editor.settle()
    assert not editor.ask("() => app.canvas.low_quality")  # as which nothing is written on nodes
    # For the toy world only: the template has the prompt and the picture size of SD 1.5.
    editor.fill_in({})
    editor.ask("text => app.graph.nodes.find(({title}) => title == 'Prompt').widgets[0].value = text", PROMPT)
    editor.click(*editor.ask(WIDGET, ["CheckpointLoaderSimple", "ckpt_name"]))
    editor.shot(f"{shot}_2_checkpoint")
    editor.page.locator(".litecontextmenu").get_by_text(OWN).click()  # 3
    editor.text_box("concept").click()
    editor.page.keyboard.press("Control+a")
    editor.page.keyboard.type("circle\nstar")  # 4
    editor.run()  # 5
    [base, *_], [erased, *_] = editor.images("Base"), editor.images("Erased")
    said = editor.said("ErasureText")
    assert said.startswith("✓ circle → ") and " star → " in said
    editor.shot(f"{shot}_3_erased")
    assert shape(base) == "circle" and shape(erased) != "circle"
