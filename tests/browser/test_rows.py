"""The pack's own parts of the editor: rows below the concepts, and what stands on the menu of a loader."""

import pytest
from playwright.sync_api import expect

from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.texts.names import read_field
from tests.browser.conftest import LAPTOP
from tests.browser.editor import ON_SCREEN
from tests.browser.graphs import drawing, erasing
from tests.browser.test_by_hand import shape

NODES_2, ROWS = "Comfy.VueNodes.Enabled", "ConceptErasure.Rows"
SET = "([name, value]) => app.ui.settings.setSettingValueAsync(name, value)"
TEXT = "() => app.graph.nodes.find(n => n.type == 'ErasureText').widgets.find(w => w.name == 'concept').value"
IS_TEXT = f"text => ({TEXT})() == text"
SAVED = "() => app.graph.serialize().nodes.find(n => n.type == 'ErasureText').widgets_values"
NO_ROWS = "() => !document.querySelector('.erasure-rows .row')"
LINK_A_TEXT = """() => {
    const text = LiteGraph.createNode("PrimitiveStringMultiline");
    const erase = app.graph.nodes.find(node => node.type == "ErasureText");
    app.graph.add(text);
    text.connect(0, erase, "concept");
}"""
PRESERVE = "heart\nstar\nsquare\nmoon\ncross\ntriangle"
TYPED = "circle\n# a note\n(red:1.2), blue"


def typed(editor, text: str) -> None:
    """Type a text over what the box of concepts holds."""
    editor.text_box("concept").click()
    editor.page.keyboard.press("Control+a")
    editor.page.keyboard.type(text)


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes-2"])
def test_rows_change_their_line_of_the_text_and_nothing_else(editor, info, nodes_2):
    editor.ask(SET, [NODES_2, nodes_2])
    editor.load(erasing(info))
    editor.fill_in({"ErasureText": {"preserve": PRESERVE}})
    expect(editor.text_box("concept")).to_have_attribute("placeholder", "what to erase, one a line, e.g. Van Gogh")
    typed(editor, TYPED)
    rows = editor.page.locator(".erasure-rows .row")
    assert rows.all_inner_texts() == ["circle\n→ …\n−\n+", "(red:1.2), blue"]
    rows.nth(1).get_by_role("switch").click()
    rows.nth(0).get_by_label("Strength").focus()
    for _ in range(4):
        editor.page.keyboard.press("ArrowDown")
    editor.until(IS_TEXT, "circle : 0.8\n# a note\n#off (red:1.2), blue")
    editor.run()
    chip = rows.nth(0).get_by_role("button", name="What takes its place")
    chip.filter(has_text="heart").focus()
    editor.page.keyboard.press("Enter")  # the menu opens, with what the line says now
    choices = editor.page.get_by_role("menuitem").all_inner_texts()
    assert len(choices) == 8 and choices[0] == "heart" and "circle" not in choices
    editor.shot(f"rows_{'nodes_2' if nodes_2 else 'classic'}")
    for key in ("ArrowUp",) * 4 + ("Enter",):
        editor.page.keyboard.press(key)
    text = f"circle : 0.8 -> {choices[1]}\n# a note\n#off (red:1.2), blue"
    editor.until(IS_TEXT, text)
    assert editor.ask(SAVED) == [text, 1, "nearest neighbour", "", PRESERVE, "", False]  # nothing of the rows
    assert "erasure_rows" not in editor.prompt()[editor.number("ErasureText")]["inputs"]
    editor.run()
    assert f"circle → {choices[1]}" in editor.said("ErasureText", f"→ {choices[1]}")
    chip.click()
    editor.page.get_by_role("menuitem", name="Type a text").click()
    editor.page.keyboard.type("moon")
    editor.page.keyboard.press("Enter")
    editor.until(IS_TEXT, "circle : 0.8 -> moon\n# a note\n#off (red:1.2), blue")
    editor.click(50, 50)
    editor.page.keyboard.press("Control+z")  # one change of a row is one step
    editor.until(IS_TEXT, text)
    assert choices[1] in editor.said("ErasureText")
    rows.nth(1).get_by_role("switch").click()  # of the node that is there now
    editor.until(IS_TEXT, text.replace("#off ", ""))
    editor.ask(LINK_A_TEXT)
    editor.until(NO_ROWS)


def test_rows_are_off_when_the_setting_says_so(editor, info):
    editor.load(erasing(info))
    editor.until(f"() => !({NO_ROWS})()")
    editor.ask(SET, [ROWS, False])
    editor.until(NO_ROWS)


LINES = [
    "circle", "  Van Gogh -> painting ", "circle : 0.8", "circle:.5", "a circle", "circle ->", "circle : 0.5 ->",
    "circle : 0.5 -> heart", "circle -> heart : 1.5", "saber \\(fate\\)", "Jean-Luc Picard", "C++", "# circle", "",
    "#off circle", "#off circle -> heart : 0.5", "#off", "## off circle", "(circle:1.4)", "circle, square",
    "circle -> : 0.5", "circle -> heart : 80%", "circle: 50 %",
    "embedding:foo", "file: names.txt", "circle : 3", "circle : 0", "circle --> heart", "a => b",
    "a -> b -> c", "cat BREAK dog", "1) circle", "<lora:x:1>", "丸 → 心", "{a|b}", "by Van Gogh",
]  # fmt: skip
READ = """async ([lines, changes]) => {
    const {rowOf, changed, toggled} = await import(`/extensions/${window.pack}/js/lines.js`);
    return lines.map((line) => {
        const row = rowOf(line), all = row?.plain === false ? changes : [];
        return {row, other: row && toggled(line, row), changed: all.map(change => changed(line, row, change))};
    });
}"""
PACK = "async () => { window.pack = (await app.api.getExtensions()).find(e => e.endsWith('/lines.js')).split('/')[2]; }"
CHANGES = [{"strength": 0.35}, {"target": "moon"}, {"target": ""}, {"target": None, "strength": 1}]


def names_in(line: str) -> list:
    try:
        return list(read_field(line).entries)
    except ErasureError:
        return []


def test_a_row_says_of_a_line_what_the_node_reads_in_it(editor):
    editor.ask(PACK)
    for line, read in zip(LINES, editor.ask(READ, [LINES, CHANGES]), strict=True):
        row, here = read["row"], names_in(line)
        if row is None:
            assert not here
            continue
        there = names_in(read["other"])
        assert not (here and there) and (here or there or row["plain"])  # a line is switched on, or off
        if row["plain"]:
            continue
        [name] = there if row["off"] else here
        assert (name.target, name.strength) == (row["target"], row["strength"])
        assert read_field(row["name"]).texts == [name.text]
        for change, changed in zip(CHANGES, read["changed"], strict=True):
            [after] = names_in(changed.replace("#off ", ""))
            wanted = {"target": name.target, "strength": name.strength, **change}
            assert (after.text, after.target, after.strength) == (name.text, wanted["target"], wanted["strength"])
            assert changed.lstrip().startswith("#off ") == row["off"]


IS_LINKED = """wanted => {
    const named = id => app.graph.getNodeById(id).type;
    const links = [...app.graph.links.values()].map(link => [named(link.origin_id), link.type, named(link.target_id)]);
    const told = links.filter(([, type, target]) => type == "MODEL" || target == "ErasureText");
    return String(told.map(link => link.join(" ")).sort()) == String(wanted);
}"""
TYPING = "() => document.activeElement.tagName == 'TEXTAREA'"


def open_menu(editor, number: str) -> None:
    """Click a node's title with the right button."""
    x, y = editor.ask("id => [...app.graph.getNodeById(id).pos]", number)
    editor.page.mouse.click(*editor.ask(ON_SCREEN, [x + 60, y - 15]), button="right")


def test_a_loaders_menu_puts_an_erasing_node_behind_it(editor, info):
    loader = "CheckpointLoaderSimple"
    editor.load(drawing(info))
    open_menu(editor, editor.number(loader))
    editor.shot("menu_1_opened")
    editor.page.get_by_text("Erase a concept here").click()
    editor.until(TYPING)
    editor.click(600, 50)
    editor.page.keyboard.press("Control+z")  # one step
    editor.until(IS_LINKED, [f"{loader} MODEL KSampler"])
    editor.page.keyboard.press("Control+y")
    behind = [f"{loader} CLIP ErasureText", f"{loader} MODEL ErasureText", "ErasureText MODEL KSampler"]
    editor.until(IS_LINKED, behind)
    editor.text_box("concept").click()
    editor.page.keyboard.type("circle")
    editor.shot("menu_2_erasing")
    editor.run()
    first = editor.number("ErasureText")
    assert editor.said(first).startswith("✓ circle → ")
    open_menu(editor, first)  # and another one behind it
    editor.page.get_by_text("Erase a concept here").click()
    editor.until("() => app.graph.nodes.filter(node => node.type == 'ErasureText').length == 2")
    other = "first => app.graph.nodes.find(node => node.type == 'ErasureText' && node.id != first).id"
    second = editor.ask(other, first)
    editor.text_box("concept", second).click()
    editor.page.keyboard.type("heart")
    editor.run()
    assert editor.said(first).startswith("✓ circle → ") and "heart → " in editor.said(second)
    assert "→ circle" not in editor.said(second)
    assert shape(editor.images("Picture")[0]) not in ("circle", "heart")
    editor.shot("menu_3_erasing_twice")


FOCUSED = "element => document.activeElement == element"
MOST_TABS = 80


def tab_to(editor, wanted) -> None:
    """Press Tab until an element has the focus."""
    element = wanted.element_handle()
    for _ in range(MOST_TABS):
        editor.page.keyboard.press("Tab")
        if editor.ask(FOCUSED, element):
            return
    raise AssertionError(f"{MOST_TABS} times Tab do not lead there")


@pytest.mark.parametrize("size", [LAPTOP], ids=["laptop"])
def test_ones_own_words_are_typed_switched_and_run_by_the_keyboard_alone(editor, info, size):
    editor.load(erasing(info))
    tab_to(editor, editor.text_box("concept"))
    editor.page.keyboard.press("Control+a")
    editor.page.keyboard.type("Van Gogh\nMickey Mouse\ncircle")
    wait = editor.awaiting()
    editor.page.keyboard.press("Control+Enter")
    assert wait()["kind"] == "execution_success"
    text = editor.said("ErasureText")
    assert '"Van Gogh", "Mickey Mouse" are not words this text encoder knows' in text and "circle → " in text
    rows = editor.page.locator(".erasure-rows .row")
    assert [row.split("\n")[0] for row in rows.all_inner_texts()] == ["⚠ Van Gogh", "⚠ Mickey Mouse", "circle"]
    editor.shot("own_words_laptop")
    for row in (0, 1):
        tab_to(editor, rows.nth(row).get_by_role("switch"))
        editor.page.keyboard.press("Space")
    editor.until(IS_TEXT, "#off Van Gogh\n#off Mickey Mouse\ncircle")
    wait = editor.awaiting()
    editor.page.keyboard.press("Control+Enter")
    assert wait()["kind"] == "execution_success"
    assert editor.said("ErasureText", "Switched off").startswith("✓ circle → ")
