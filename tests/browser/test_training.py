"""What Train Erasure shows while it learns, and what is left when it is cancelled."""

import re

from playwright.sync_api import expect

from concept_erasure.erasure.artifact import load_erasure
from tests.browser.editor import RUN

PREVIEW = "id => app.graph.getNodeById(id).imgs?.some(image => image.naturalWidth > 0)"

OFFERED = "([id, file]) => app.graph.getNodeById(id).widgets[0].options.values.includes(file)"


def test_training_is_seen_to_learn_and_cancel_keeps_what_it_learned(editor, server):
    erasures = server.base / "output" / "erasures"
    before = set(erasures.glob("*"))
    editor.open_template("train_erase_recover")
    editor.fill_in({})
    load = editor.add("ErasureLoad", (0, -500))
    wait = editor.press_run()
    train = editor.number("ErasureTrain")
    editor.until(PREVIEW, train, RUN)
    expect(editor.part("queue-progress-overlay")).to_contain_text(re.compile(r"Train Erasure\s*\d+%"))
    editor.said("ErasureTrain", r"^Step \d+ of \d+, loss ", RUN)
    editor.shot("training_1_learning")
    box = editor.box(train)
    editor.close_up("page_ErasureTrain", (box.left, box.shown, box.right, box.bottom))
    cancel = editor.page.get_by_role("button", name="Cancel current run")
    cancel.click()
    assert wait()["kind"] == "execution_interrupted"
    expect(cancel).to_be_disabled()
    [partial] = set(erasures.glob("*")) - before
    editor.said("ErasureTrain", f"^Ended early; .* output/erasures/{partial.name}")
    editor.shot("training_2_cancelled")
    assert "_interrupted" in partial.name
    assert int(load_erasure(partial).metadata.steps) >= 1
    editor.until(OFFERED, [load, partial.name])  # without a reload
