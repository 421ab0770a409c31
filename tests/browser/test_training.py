"""What Train Erasure shows while it learns, and what is left when it is cancelled."""

import json
import re
from pathlib import Path

from playwright.sync_api import expect

from concept_erasure.erasure.files import load_erasure
from scripts.make_workflows import template
from tests.browser.editor import RUN
from tests.browser.test_pages import CONNECT

OLD = Path(__file__).resolve().parents[1] / "data" / "0.1.0"
PREVIEW = "id => app.graph.getNodeById(id).imgs?.some(image => image.naturalWidth > 0)"

OFFERED = "([id, file]) => app.graph.getNodeById(id).widgets[0].options.values.includes(file)"


def test_training_is_seen_to_learn_and_cancel_keeps_what_it_learned(editor, server):
    erasures = server.base / "output" / "erasures"
    before = set(erasures.glob("*"))
    editor.open_template(template("train_erase_recover").title)
    load = editor.add("ErasureLoad", (0, -500))
    wait = editor.press_run()
    train = editor.number("ErasureLearn")
    editor.until(PREVIEW, train, RUN)
    expect(editor.part("queue-progress-overlay")).to_contain_text(re.compile(r"Train Erasure\s*\d+%"))
    editor.said("ErasureLearn", r"^Training: step \d+ of \d+, about \d+ s left", RUN)
    editor.shot("training_1_learning")
    cancel = editor.page.get_by_role("button", name="Cancel current run")
    cancel.click()
    assert wait()["kind"] == "execution_interrupted"
    expect(cancel).to_be_disabled()
    [partial] = set(erasures.glob("*")) - before
    editor.said("ErasureLearn", f"^Ended early; .* output/erasures/{partial.name}")
    editor.shot("training_2_cancelled")
    assert "_interrupted" in partial.name
    assert int(load_erasure(partial).metadata.steps) >= 1
    editor.until(OFFERED, [load, partial.name])  # without a reload


NAMES = "id => app.graph.getNodeById(id).widgets.map(widget => widget.name).filter(name => !name.startsWith('$$'))"
VALUE = "([id, name]) => app.graph.getNodeById(id).widgets.find(widget => widget.name == name).value"
CHOOSE = """([id, name, value]) => {
    const widget = app.graph.getNodeById(id).widgets.find(widget => widget.name == name);
    widget.value = value;
    widget.callback?.(value);
}"""


def test_it_shows_six_widgets_and_the_steps_follow_the_preset(editor):
    editor.begin()
    train = editor.add("ErasureLearn", (100, 100))
    assert editor.ask(NAMES, train) == ["concept", "preserve", "preset", "target", "steps", "seed"]
    settings = editor.add("ErasureTrainingSettings", (600, 100))
    assert {editor.ask(VALUE, [settings, name]) for name in editor.ask(NAMES, settings)} == {"from preset", ""}
    editor.ask(CHOOSE, [train, "preset", "paper v2"])
    assert editor.ask(VALUE, [train, "steps"]) == 1000
    editor.ask(CHOOSE, [train, "steps", 77])
    editor.ask(CHOOSE, [train, "preset", "recommended"])
    assert editor.ask(VALUE, [train, "steps"]) == 77, "what was typed stays"
    editor.load(editor.ask("() => app.graph.serialize()"))
    assert editor.ask(VALUE, [train, "steps"]) == 77
    editor.shot("training_3_new_node")


def test_after_a_training_its_strip_its_verdict_and_all_values_are_shown(editor):
    editor.open_template(template("train_erase_recover").title)
    settings = editor.add("ErasureTrainingSettings", (-500, 100))
    editor.ask(CONNECT, [settings, editor.number("ErasureLearn"), "settings"])
    chosen = {"rank": "4", "sampling_steps": "4"}
    editor.fill_in({"ErasureLearn": {"steps": 24}, "ErasureTrainingSettings": chosen})
    editor.run()
    assert re.match(r"^[✓⚠✗] ", editor.said("ErasureLearn"))
    assert len(editor.images("ErasureLearn")) == 1
    values = editor.said("ErasureTrainingSettings", "Method")
    assert "24 steps (the preset has 100)" in values and "keys+values, rank 4" in values
    for kind in ("ErasureLearn", "ErasureTrainingSettings"):
        box = editor.box(editor.number(kind))
        editor.close_up(f"page_{kind}", (box.left - 8, box.top - 50, box.right + 8, box.bottom + 8))


def test_an_old_graph_of_28_widgets_opens_and_trains(editor, info):
    """The node of 0.1.0 is offered for nothing new, and works where a graph has it."""
    assert info["ErasureTrain"]["deprecated"] and not info["ErasureLearn"].get("deprecated")
    old = json.loads((OLD / "workflows" / "train_erase_recover.json").read_text(encoding="utf-8"))
    editor.load(old, "old")
    short = {"steps": 3, "sampling_steps": 2, "weights_start": "unchanged", "gate": "off"}
    editor.fill_in({"ErasureTrain": short})
    editor.run()
    assert "Method kpop: 3 steps" in editor.said("ErasureTrain", "Method")
    box = editor.box(editor.number("ErasureTrain"))
    editor.close_up("page_ErasureTrain", (box.left, box.shown, box.right, box.bottom))
