"""What a node said is still there after the page is loaded anew, when nothing has to run again."""

import uuid

import pytest

from scripts.graph import Graph
from scripts.make_workflows import CHECKPOINT, CONCEPT, TOY_SIZE
from tests.browser.editor import READY, RUN, SAID
from tests.browser.graphs import erasing

NODES_2 = "Comfy.VueNodes.Enabled"
TO_SUBGRAPH = """id => {
    app.canvas.selectItems([app.graph.getNodeById(id)]);
    return app.graph.convertToSubgraph(app.canvas.selectedItems).node.id;
}"""
OPEN_SUBGRAPH = "id => { const node = app.graph.getNodeById(id); app.canvas.openSubgraph(node.subgraph, node); }"
INSIDE = """() => app.canvas.graph.nodes.find(node => node.type == 'ErasureText')
    .widgets.find(widget => widget.name == '$$node-text-preview')?.value"""
SHEETS = "id => app.graph.getNodeById(id).imgs?.length == 3"
SHEETS_2 = "id => document.querySelectorAll(`[data-node-id='${id}'] img[src*='/view?']`).length == 3"
AT_BEGIN = f"""id => app.api.addEventListener("execution_cached", () => {{ window.atBegin = ({SAID})(id); }})"""
TEXTS_HERE = f"""id => {{
    window.textsHere = [];
    app.api.addEventListener("executed", () => window.textsHere.push(...[({SAID})(id)].filter(Boolean)));
    setInterval(() => window.textsHere.push(...[({SAID})(id)].filter(Boolean)), 20);
}}"""
SHOWN = ".dom-widget .break-all, .lg-node .comfy-markdown-content"
WORDS = f"""text => {{
    const bare = text => text.replace(/\\s/g, ""), words = [];
    const box = [...document.querySelectorAll("{SHOWN}")].find(box => bare(box.textContent) == bare(text));
    const walker = document.createTreeWalker(box ?? document.createElement("p"), NodeFilter.SHOW_TEXT);
    while (walker.nextNode())
        for (const {{ 0: word, index }} of walker.currentNode.textContent.matchAll(/\\S+/g)) {{
            const range = document.createRange();
            range.setStart(walker.currentNode, index);
            range.setEnd(walker.currentNode, index + word.length);
            words.push([...new Set([...range.getClientRects()].map(({{ top }}) => Math.round(top)))]);
        }}
    return words;
}}"""
"""For each word of a text that is shown: where the lines are on which it stands, from the top."""
OUTPUT = "id => app.nodeOutputs[id]?.text"
TAB = "() => app.extensionManager.workflow.activeWorkflow.filename"
COLLAPSED = "id => Boolean(app.graph.getNodeById(id)?.flags.collapsed)"
UNDOABLE = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length"
PLACE = "id => (({pos, size}) => [...pos, ...size])(app.graph.getNodeById(id))"
ON_SCREEN = "text => document.body.innerText.includes(text)"


def reporting(info, prompts: int) -> dict:
    """A report of many prompts."""
    graph = Graph(info, (1.0, 100, 130))
    loader = graph.node("CheckpointLoaderSimple", (0, 0, 320, 98), ckpt_name=CHECKPOINT)
    sockets = {"model_before": (loader, 0), "model_after": (loader, 0), "clip": (loader, 1), "vae": (loader, 2)}
    erase = "\n".join(f"a circle {i}" for i in range(prompts))
    values = {"pictures": 1, "steps": 1, "cfg": 1.0, "width": TOY_SIZE, "height": TOY_SIZE, "count": False}
    graph.node("ErasureReport", (400, 0, 400, 1310), sockets=sockets, erase=erase, **values)
    return graph.saved()


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes-2"])
def test_what_a_node_says_keeps_its_lines_and_words(editor, info, nodes_2):
    editor.ask("([name, value]) => app.ui.settings.setSettingValueAsync(name, value)", [NODES_2, nodes_2])
    editor.load(erasing(info))
    editor.run()
    lines = editor.said("ErasureText").splitlines()
    editor.until(f"text => ({WORDS})(text).length && ({WORDS})(text).every(tops => tops.length == 1)", "\n".join(lines))
    tops = [top for [top] in editor.ask(WORDS, "\n".join(lines))]
    starts = [len(" ".join(lines[:i]).split()) for i in range(1, len(lines))]
    assert len(lines) > 2 and all(tops[i - 1] < tops[i] for i in starts)


def undo_a_change(editor) -> None:
    """Collapse a node, and think better of it."""
    number = editor.number("VAEDecode")
    editor.select(number)
    x, y, width, height = editor.ask(PLACE, number)
    before = editor.ask(UNDOABLE)
    editor.page.keyboard.press("Alt+c")
    editor.until(COLLAPSED, number)
    # The editor always notes a change when a mouse button is let go. At a key it does so only where nothing has the
    # focus. The click is at the place that the collapsed node has left.
    editor.insist(lambda: editor.click(x + width / 2, y + height / 2), f"count => ({UNDOABLE})() > count", before)
    # In Nodes 2.0 a node that takes its new size later is a change of its own.
    editor.insist(lambda: editor.page.keyboard.press("Control+z"), f"id => !({COLLAPSED})(id)", number)


def again(editor, workflow: dict) -> None:
    """Load the page anew, and the same workflow in it."""
    editor.open()
    editor.load(workflow)


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes-2"])
def test_a_node_whose_result_is_kept_says_after_a_reload_what_it_said(editor, info, nodes_2):
    editor.ask("([name, value]) => app.ui.settings.setSettingValueAsync(name, value)", [NODES_2, nodes_2])
    workflow = erasing(info)
    editor.load(workflow)
    editor.run()
    text = editor.said("ErasureText")
    undo_a_change(editor)
    assert editor.said("ErasureText") == text
    name = editor.ask(TAB)
    editor.begin()
    editor.page.locator(".workflow-tab").get_by_text(name, exact=True).click()
    editor.until("() => app.graph.nodes.length")
    assert editor.said("ErasureText") == text
    editor.page.reload()
    editor.until(READY)
    assert editor.said("ErasureText") == text  # nothing has run yet
    again(editor, {**workflow, "id": str(uuid.uuid4())})
    assert editor.ask(SAID, editor.number("ErasureText")) is None
    editor.run()
    assert editor.said("ErasureText") == text
    editor.until(ON_SCREEN, text.splitlines()[0])
    editor.shot(f"said_again_{'nodes_2' if nodes_2 else 'classic'}")


def test_a_node_in_a_subgraph_says_what_it_said_when_the_subgraph_is_opened(editor, info):
    editor.load(erasing(info))
    subgraph = editor.ask(TO_SUBGRAPH, editor.number("ErasureText"))
    workflow = editor.ask("() => app.graph.serialize()")
    for _ in range(2):  # the first run computes, the second finds all results kept
        editor.run()
        editor.ask(OPEN_SUBGRAPH, subgraph)
        editor.until(f"() => ({INSIDE})()")
        assert CONCEPT in editor.ask(INSIDE)
        again(editor, workflow)


def test_a_run_of_another_tab_says_nothing_here(editor, info):
    """Its nodes have the same ids as those of the workflow that was opened while it runs."""
    editor.load({**erasing(info), "id": str(uuid.uuid4())}, "first")
    editor.fill_in({"ErasureText": {"concept": "moon"}})
    wait = editor.press_run()
    editor.said("ErasureText", "^Reading", RUN)
    editor.load({**erasing(info), "id": str(uuid.uuid4())}, "second")
    editor.ask(TEXTS_HERE, editor.number("ErasureText"))
    assert wait()["kind"] == "execution_success"
    assert editor.ask("() => window.textsHere") == [] and editor.ask(OUTPUT, editor.number("ErasureText")) is None
    editor.page.locator(".workflow-tab").get_by_text("first", exact=True).click()
    assert "moon" in editor.said("ErasureText")


def test_what_a_node_said_is_gone_as_soon_as_a_run_begins_that_runs_it_again(editor, info):
    editor.load(erasing(info))
    number = editor.number("ErasureText")
    editor.run()
    text = editor.said("ErasureText")
    editor.ask(AT_BEGIN, number)
    editor.run()
    assert editor.ask("() => window.atBegin") == text  # kept
    editor.fill_in({"ErasureText": {"concept": "square"}})
    editor.run()
    assert editor.ask("() => window.atBegin") == ""
    assert "square" in editor.said("ErasureText")


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes-2"])
def test_all_sheets_of_a_large_report_are_shown(editor, info, nodes_2):
    editor.ask("([name, value]) => app.ui.settings.setSettingValueAsync(name, value)", [NODES_2, nodes_2])
    editor.load(reporting(info, 100))
    editor.run()
    editor.look_at("ErasureReport")
    editor.until(SHEETS_2 if nodes_2 else SHEETS, editor.number("ErasureReport"))
    editor.shot(f"sheets_{'nodes_2' if nodes_2 else 'classic'}")


def test_after_a_reload_during_a_run_an_old_text_is_not_there(editor, info):
    editor.load(erasing(info))
    editor.run()
    text = editor.said("ErasureText")
    editor.fill_in({"ErasureText": {"concept": "moon"}, "KSampler": {"steps": 4000}})
    editor.press_run()
    editor.said("ErasureText", "moon", RUN)
    editor.page.reload()
    editor.until(READY)
    editor.until("async () => (await (await app.api.fetchApi('/queue')).json()).queue_running.length")
    editor.until("() => new Promise(done => setTimeout(() => done(true), 1500))")
    assert editor.ask(SAID, editor.number("ErasureText")) != text
    assert editor.ask("async () => (await (await app.api.fetchApi('/queue')).json()).queue_running.length")
    editor.ask("() => app.api.interrupt()")


SCROLLED = """text => [...document.querySelectorAll(".dom-widget div")].filter(part => part.innerText.startsWith(text))
    .map(({scrollHeight, clientHeight}) => scrollHeight - clientHeight)"""


def test_in_the_classic_editor_a_text_has_the_room_that_it_needs(editor, info):
    editor.load(erasing(info))
    number = editor.number("ErasureText")
    editor.ask("id => app.graph.getNodeById(id).setSize([400, 300])", number)
    editor.fill_in({"ErasureText": {"concept": "circle, cirkle"}})
    editor.run()
    start = editor.said("ErasureText").splitlines()[0]
    editor.until(f"text => (cut => cut.length && cut.every(cut => cut <= 0))(({SCROLLED})(text))", start)
    editor.shot("room")
