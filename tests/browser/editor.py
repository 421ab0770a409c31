"""ComfyUI's editor in a browser: mouse and keyboard for what a user does, the page's own ``app`` for what is read."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import Locator, Page, TimeoutError, expect

from scripts.make_workflows import TOY_SIZE

PACK, TOY_PACK = "concept-erasure", "toy-world"
SECONDS = 1000
AT_ONCE, RUN = 60 * SECONDS, 600 * SECONDS
"""How long to wait for what the editor does by itself, and for what the server computes, on a busy machine."""
TRIES = 10
READY = "() => window.app?.vueAppReady && window.app.canvas && window.app.graph?.nodes.length"
"""The graph that the editor begins with is there; what is put on the canvas before is lost."""
LISTEN = """() => {
    window.ended = [];
    for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
        app.api.addEventListener(kind, ({detail}) => window.ended.push({kind, ...detail}));
    const queue = app.api.queuePrompt.bind(app.api);
    app.api.queuePrompt = (...all) => queue(...all).catch(error => {
        window.ended.push({kind: "refused", error: String(error)});
        throw error;
    });
}"""
"""Keeps how every run ended: what the server tells the editor, which shows it in its own way."""
LOOK_AT = """([x, y]) => {
    const {scale, offset} = app.canvas.ds, before = {scale, offset: [...offset], links: app.canvas.links_render_mode};
    Object.assign(app.canvas.ds, {scale: 1, offset: [150 - x, 100 - y]});
    app.canvas.links_render_mode = LiteGraph.HIDDEN_LINK;
    app.canvas.setDirty(true, true);
    return before;
}"""
LOOK_BACK = """({scale, offset, links}) => {
    Object.assign(app.canvas.ds, {scale, offset});
    app.canvas.links_render_mode = links;
    app.canvas.setDirty(true, true);
}"""
BOX = """id => {
    const {pos, size, widgets} = app.graph.getNodeById(id), shown = widgets?.find(({name}) => name.startsWith("$$"));
    return [pos[0], pos[1], pos[0] + size[0], pos[1] + size[1], pos[1] + (shown?.y ?? 0)];
}"""
ON_SCREEN = "place => app.canvasPosToClientPos(place)"
SEARCHING = "() => document.activeElement?.matches('[role=search] [role=combobox]')"
NEW = "before => app.graph.nodes.find(node => !before.includes(node.id))"
SLOT = """([id, slot, isInput]) => {
    const node = app.graph.getNodeById(id);
    const [x, y] = isInput ? node.getInputPos(node.findInputSlot(slot)) : node.getOutputPos(node.findOutputSlot(slot));
    return app.canvasPosToClientPos([x, y]);
}"""
LINK = """([source, output, target, input]) => {
    const node = app.graph.getNodeById(target);
    const link = app.graph.links.get(node.inputs[node.findInputSlot(input)].link);
    return link?.origin_id == source && link.origin_slot == app.graph.getNodeById(source).findOutputSlot(output);
}"""
SHOWN = """id => {
    const shown = app.graph.getNodeById(id).imgs ?? [], files = app.nodeOutputs[id]?.images ?? [];
    const isOfThisRun = ({src}, i) => src.startsWith("blob:") || src.includes(encodeURIComponent(files[i].filename));
    return shown.length > 0 && shown.length == files.length && shown.every(isOfThisRun)
        && shown.every(image => image.naturalWidth > 0);
}"""
"""The editor shows a run's last preview, a blob, in front of the file that comes with the node's result."""
SAID = "id => app.graph.getNodeById(id).widgets.find(widget => widget.name == '$$node-text-preview')?.value"
MARK = """([id, name]) => {
    app.graph.getNodeById(id).widgets.find(widget => widget.name == name).element.dataset.box = `${id} ${name}`;
}"""
STANDS_STILL = """() => {
    const {scale, offset} = app.canvas.ds, before = window.view;
    window.view = String([scale, ...offset]);
    return window.view == before;
}"""
DRAWN = """async () => {
    const ends = animation => animation.effect?.getComputedTiming().endTime != Infinity;
    const ended = document.getAnimations().filter(ends).map(animation => animation.finished.catch(() => null));
    await Promise.race([Promise.all(ended), new Promise(done => setTimeout(done, 3000))]);
    app.canvas.setDirty(true, true);
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""
FILL_IN = """([values, size]) => app.graph.nodes.forEach(node => {
    for (const [name, value] of Object.entries({width: size, height: size, ...values[node.type]})) {
        const widget = node.widgets?.find(widget => widget.name == name);
        if (widget) widget.value = value;
    }
})"""
ADD = """([kind, place]) => {
    const node = LiteGraph.createNode(kind);
    node.pos = place;
    app.graph.add(node);
}"""


class Box(NamedTuple):
    """A node's place in the graph; ``shown``: where that begins which it says and shows, below its inputs."""

    left: float
    top: float
    right: float
    bottom: float
    shown: float


class Editor:
    """One open page; ``pictures`` is the folder for what ``shot`` takes."""

    def __init__(self, page: Page, address: str, pictures: Path) -> None:
        self.page = page
        self.address = address
        self.pictures = pictures
        page.set_default_timeout(AT_ONCE)
        expect.set_options(timeout=AT_ONCE)

    def open(self) -> None:
        """Open the editor, and wait until it is ready for a user."""
        self.page.goto(self.address)
        self.until(READY)
        self.ask(LISTEN)
        expect(self.part("queue-button")).to_be_enabled()
        self.settle()

    def shot(self, name: str) -> None:
        """Save what is to be seen now as ``NAME.png``, once everything has faded in and the canvas is drawn."""
        self.ask(DRAWN)
        self.page.screenshot(path=self.pictures / f"{name}.png")

    def close_up(self, name: str, part: tuple[float, float, float, float]) -> None:
        """Save a part of the graph (left, top, right, bottom) as ``NAME.png``, at its own size and without links."""
        left, top, right, bottom = part
        before = self.ask(LOOK_AT, [left, top])
        self.settle()
        self.ask(DRAWN)
        x, y = self.ask(ON_SCREEN, [left, top])
        clip = {"x": x, "y": y, "width": right - left, "height": bottom - top}
        self.page.screenshot(path=self.pictures / f"{name}.png", clip=clip)
        self.ask(LOOK_BACK, before)

    # ---------------------------------------------------------------- reading

    def ask(self, expression: str, argument: Any = None) -> Any:
        """What a JavaScript expression says in the page."""
        return self.page.evaluate(expression, argument)

    def until(self, expression: str, argument: Any = None, timeout: float = AT_ONCE) -> None:
        """Wait until a JavaScript expression is true in the page."""
        self.page.wait_for_function(expression, arg=argument, timeout=timeout)

    def part(self, test_id: str) -> Locator:
        """A part of the page, by the name that the editor's own tests have for it."""
        return self.page.get_by_test_id(test_id)

    def number(self, name: str) -> str:
        """The id of the only node with a title, of a type, or with this very id."""
        named = "name => app.graph.nodes.filter(n => [n.title, n.type, n.id].includes(name)).map(n => n.id)"
        [number] = self.ask(named, name)
        return str(number)

    def shows(self, name: str) -> None:
        """Wait until a node shows the pictures of its latest run."""
        self.until(SHOWN, self.number(name))

    def images(self, name: str) -> list[bytes]:
        """The files of the pictures that a node shows, once it does."""
        self.shows(name)
        sources = self.ask("id => app.graph.getNodeById(id).imgs.map(image => image.src)", self.number(name))
        return [self.page.request.get(source).body() for source in sources]

    def said(self, name: str, pattern: str = ".", timeout: float = AT_ONCE) -> str:
        """The text that a node shows under itself, once it has what a pattern asks for."""
        number = self.number(name)
        self.until(f"([id, pattern]) => ({SAID})(id)?.match(pattern)", [number, pattern], timeout)
        return str(self.ask(SAID, number))

    def text_box(self, name: str, node: str = "ErasureText") -> Locator:
        """The text box of an input, as the classic editor or Nodes 2.0 shows it."""
        number = self.number(node)
        if self.ask("() => LiteGraph.vueNodesMode"):
            return self.page.locator(f"[data-node-id='{number}']").get_by_label(name, exact=True)
        self.ask(MARK, [number, name])
        return self.page.locator(f"[data-box='{number} {name}']")

    def box(self, name: str) -> Box:
        """Where a node is."""
        return Box(*self.ask(BOX, self.number(name)))

    def prompt(self) -> dict[str, Any]:
        """What the editor would send to the server now."""
        found: dict[str, Any] = self.ask("async () => (await app.graphToPrompt()).output")
        return found

    # ---------------------------------------------------------------- doing

    def look_at(self, name: str) -> None:
        """Bring what a node shows into view."""
        box = self.box(name)
        self.ask(LOOK_AT, [box.left, box.shown])
        self.settle()
        self.ask(DRAWN)

    def load(self, workflow: dict[str, Any], name: str = "workflow") -> None:
        """Show a workflow, as the editor does with a file that is dropped on it."""
        self.ask("([workflow, name]) => app.loadGraphData(workflow, true, true, name)", [workflow, name])
        self.settle()

    def settle(self) -> None:
        """Wait until the view stands still: places on the screen hold only then."""
        self.page.wait_for_function(STANDS_STILL, polling=200)

    def add(self, kind: str, at: tuple[float, float]) -> str:
        """Put a node on the canvas without further ado; returns its id."""
        self.ask(ADD, [kind, at])
        return self.number(kind)

    def fill_in(self, values: dict[str, dict[str, Any]]) -> None:
        """Set widgets by node type and name, and every picture size to that of the toy world."""
        self.ask(FILL_IN, [values, TOY_SIZE])

    def remove(self, number: str) -> None:
        """Take a node away."""
        self.ask("id => app.graph.remove(app.graph.getNodeById(id))", number)

    def begin(self) -> None:
        """Begin an empty workflow."""
        self.page.get_by_role("button", name="Create a new blank workflow").click()
        self.until("() => app.graph.nodes.length == 0")
        self.settle()

    def browse_templates(self, pack: str = PACK) -> Locator:
        """Open the dialog of templates at those of a pack; returns the dialog."""
        self.page.get_by_role("button", name="Templates", exact=True).click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_text(pack, exact=True).click()
        return dialog

    def open_template(self, name: str, pack: str = TOY_PACK) -> None:
        """Choose a template in the dialog of templates: one of the toy world, if no pack is named."""
        dialog = self.browse_templates(pack)
        dialog.get_by_test_id(f"template-workflow-{name}").click()
        expect(dialog).to_be_hidden()
        self.settle()

    def open_app(self, name: str) -> None:
        """Choose a template of the toy world that opens as an app, without a graph to be seen."""
        dialog = self.browse_templates(TOY_PACK)
        dialog.get_by_test_id(f"template-workflow-{name}").click()
        expect(dialog).to_be_hidden()

    def insist(self, do: Callable[[], None], expression: str, argument: Any = None) -> None:
        """Do something until it shows: on a busy machine the editor misses a double click that comes too slowly."""
        for _ in range(TRIES):
            do()
            with contextlib.suppress(TimeoutError):
                return self.until(expression, argument, AT_ONCE / TRIES)
        raise AssertionError(f"{TRIES} tries did not bring about {expression}")

    def search(self, words: str, at: tuple[float, float]) -> Locator:
        """Double-click the canvas at a place of the graph and type; returns what is found."""
        self.insist(lambda: self.page.mouse.dblclick(*self.ask(ON_SCREEN, at)), SEARCHING)
        self.page.keyboard.type(words)
        return self.page.get_by_role("search").get_by_role("option")

    def place(self, found: Locator, title: str, at: tuple[float, float]) -> str:
        """Choose a node of ours, and put it down with the middle of its title at ``at``; returns its id."""
        before = self.ask("() => app.graph.nodes.map(node => node.id)")
        found.and_(self.page.get_by_role("option", name=re.compile(f"^{re.escape(title)} ({PACK}|Blueprint)"))).click()
        self.until(f"before => ({NEW})(before)", before)
        number = self.ask(f"before => ({NEW})(before).id", before)
        # It follows the mouse until a click.
        self.insist(lambda: self.click(*at), "id => !app.graph.getNodeById(id).flags.ghost", number)
        return str(number)

    def click(self, x: float, y: float) -> None:
        """Move the mouse to a place of the graph and click."""
        x, y = self.ask(ON_SCREEN, [x, y])
        self.page.mouse.move(x, y, steps=4)
        self.page.mouse.click(x, y)

    def connect(self, source: str, output: str, target: str, input: str) -> None:
        """Drag a link from an output to an input."""
        start, end = self.ask(SLOT, [source, output, False]), self.ask(SLOT, [target, input, True])
        self.insist(lambda: self.drag(start, end), LINK, [source, output, target, input])

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at one place of the screen and let it go at another."""
        self.page.mouse.move(*start)
        self.page.mouse.down()
        self.page.mouse.move(*((a + b) / 2 for a, b in zip(start, end, strict=True)), steps=5)
        self.page.mouse.move(*end, steps=5)
        self.page.mouse.up()

    def select(self, number: str) -> None:
        """Click a node's title."""
        x, y = self.ask("id => [...app.graph.getNodeById(id).pos]", number)
        selected = "id => app.canvas.selectedItems.has(app.graph.getNodeById(id))"
        self.insist(lambda: self.click(x + 60, y - 15), selected, number)

    def press_run(self) -> Callable[[], dict[str, Any]]:
        """Press Run; returns what waits for the end of that run, and says how it ended."""
        wait = self.awaiting()
        self.part("queue-button").click()
        return wait

    def awaiting(self) -> Callable[[], dict[str, Any]]:
        """What waits for the end of the next run, and says how it ended."""
        before = self.ask("() => window.ended.length")

        def wait() -> dict[str, Any]:
            self.until("before => window.ended.length > before", before, RUN)
            ended: dict[str, Any] = self.ask("before => window.ended[before]", before)
            return ended

        return wait

    def run(self) -> None:
        """Press Run, and wait until everything is done and nothing failed."""
        ended = self.press_run()()
        assert ended["kind"] == "execution_success", ended
        expect(self.part("error-overlay")).to_be_hidden()
