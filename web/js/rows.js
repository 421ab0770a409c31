// Rows of switch, target and strength below the concepts of a node, one for each line of the text box.
//
// They are read from the text and written to it, and to nothing else: without this file a node is the same. What a line
// became, and the nearest words that it could become, is known after a run (nodes/messages.py, "erasure_targets").

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { allNodes, alsoDo, isInView, nodeOf, safely } from "./graph.js";
import { STEP, STRONGEST, WEAKEST, changed, isWritable, readable, rowOf, rowsOf, toggled } from "./lines.js";
import { openMenu } from "./choices.js";
import { outputOf, recalled } from "./runs.js";
import { say } from "./words.js";

const FIELDS = { ErasureText: "concept", ErasureInstant: "concepts" };
const SETTING = "ConceptErasure.Rows";
const WIDGET = "erasure_rows";
const TALL = 26, MARGIN = 10, MOST_IN_VIEW = 6, MOST = 60; // pixels of a row, and around the rows; rows

/** @typedef {import("./lines.js").Row} Row */

/** The rows of one node. */
class Rows {
    constructor(node, field) {
        this.node = node;
        this.field = field;
        this.root = element("div", { className: "erasure-rows" });
        this.root.dataset.captureWheel = "true";
        for (const kind of ["pointerdown", "dblclick"]) this.root.addEventListener(kind, (event) => event.stopPropagation());
        this.root.addEventListener("keydown", keepKeys);
        this.root.addEventListener("wheel", (event) => this.passWheel(event));
        this.widget = node.addDOMWidget(WIDGET, "erasure_rows", this.root, {
            serialize: false, hideInPanel: true, margin: MARGIN, selectOn: [],
        });
        this.widget.serialize = false;
        this.widget.computeLayoutSize = undefined; // as tall as its rows, and never taller
        this.widget.computeSize = (width) => [Math.min(width ?? 0, 200), this.tall() + MARGIN];
        this.moveBelow(field);
        alsoDo(field, "callback", () => this.follow());
        alsoDo(node, "onConnectionsChange", () => this.draw());
        alsoDo(node, "onConfigure", () => this.draw());
        alsoDo(node, "onSerialize", closeGaps);
        this.draw();
    }

    moveBelow(field) {
        const { widgets } = this.node, own = widgets.indexOf(this.widget);
        widgets.splice(own, 1);
        widgets.splice(widgets.indexOf(field) + 1, 0, this.widget);
    }

    /** Whether the text comes through a link, or nobody wants rows. */
    isOff() {
        const input = this.node.inputs?.find(({ widget }) => widget?.name === this.field.name);
        return input?.link != null || app.extensionManager?.setting?.get(SETTING) === false;
    }

    tall() {
        return Math.min(this.root.childElementCount, MOST_IN_VIEW) * TALL;
    }

    /** The text has changed: a node that is in use makes room for more rows, and gives it back. */
    follow() {
        const before = this.tall(), { node } = this;
        this.draw();
        const more = this.tall() - before, isInUse = node.graph && !app.configuringGraph;
        if (more && isInUse && !LiteGraph.vueNodesMode) node.setSize([node.size[0], node.size[1] + more]);
    }

    draw() {
        const rows = this.isOff() ? [] : rowsOf(String(this.field.value ?? ""));
        const focus = this.root.contains(document.activeElement) && document.activeElement.dataset.key;
        const parts = rows.slice(0, MOST).map((row) => this.part(row));
        if (rows.length > MOST) parts.push(element("div", { className: "more", textContent: `${rows.length - MOST} ${say("more")}` }));
        this.root.replaceChildren(...parts);
        this.root.style.setProperty("--tall", `${this.tall()}px`);
        if (focus) this.root.querySelector(`[data-key="${focus}"]`)?.focus();
        this.widget.hidden = !rows.length;
        app.canvas?.setDirty(true, true);
        requestAnimationFrame(() => this.mount());
    }

    /** After undo, and in another tab, Nodes 2.0 go on showing the rows of the node that was there before. */
    mount() {
        if (!isInView(this.node)) return;
        const stale = document.querySelector(`.lg-node[data-node-id="${this.node.id}"] .erasure-rows`);
        if (stale && stale !== this.root) stale.replaceWith(this.root);
    }

    /** @param {Row} row */
    part(row) {
        const part = element("div", { className: `row${row.off ? " off" : ""}` }, this.toggle(row));
        const isUnknown = this.outcome(row)?.unknown, name = `${isUnknown ? "⚠ " : ""}${readable(row.name)}`;
        part.append(element("span", { className: "name", textContent: name, title: isUnknown ? say("unknown") : name }));
        if (row.plain) part.title = say("plain");
        else part.append(this.chip(row), this.stepper(row));
        return part;
    }

    toggle(row) {
        const toggle = button("switch", "", `${say("onOff")}: ${readable(row.name)}`, `${row.index}:switch`);
        toggle.setAttribute("role", "switch");
        toggle.setAttribute("aria-checked", String(!row.off));
        toggle.onclick = () => this.write(toggled(this.field.value, row));
        return toggle;
    }

    // ------------------------------------------------------------ strength

    stepper(row) {
        const input = element("input", { value: row.strength.toFixed(2), inputMode: "decimal", autocomplete: "off" });
        input.title = say("strength");
        input.setAttribute("aria-label", `${say("strength")}: ${readable(row.name)}`);
        input.dataset.key = `${row.index}:strength`;
        input.onfocus = () => input.select();
        input.onchange = () => this.strengthen(row, Number(input.value.replace(",", ".")));
        input.onkeydown = ({ key }) => {
            const steps = { ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[key];
            if (steps) this.strengthen(row, row.strength + steps * STEP);
            if (key === "Enter") input.blur();
        };
        const less = button("less", "−", say("weaker")), more = button("more", "+", say("stronger"));
        less.onclick = () => this.strengthen(row, row.strength - STEP);
        more.onclick = () => this.strengthen(row, row.strength + STEP);
        less.tabIndex = more.tabIndex = -1; // the arrow keys do the same
        return element("div", { className: "stepper" }, less, input, more);
    }

    strengthen(row, value) {
        if (!Number.isFinite(value)) return this.draw();
        const strength = Math.round(Math.min(STRONGEST, Math.max(WEAKEST, value)) * 100) / 100;
        return this.write(changed(this.field.value, row, { strength }));
    }

    // ------------------------------------------------------------ target

    /** What the last run said of a row: {target, nearest}. */
    outcome(row) {
        const same = ({ line }) => rowOf(line)?.name.toLowerCase() === row.name.toLowerCase();
        return outputOf(this.node)?.erasure_targets?.find(same);
    }

    chip(row) {
        const outcome = this.outcome(row), target = row.target ?? outcome?.target;
        const text = target === undefined ? "…" : target || say("nothing");
        const label = `${say("target")}: ${target === undefined ? say("auto") : text}`;
        const chip = button(`chip${row.target === null ? " own" : ""}`, "", label, `${row.index}:target`);
        chip.append(element("span", { textContent: `→ ${text}` }));
        chip.setAttribute("aria-haspopup", "menu");
        chip.onclick = () => openMenu(chip, this.choices(row, outcome, chip));
        return chip;
    }

    choices(row, outcome, chip) {
        const set = (target) => () => this.write(changed(this.field.value, row, { target }));
        const words = (outcome?.nearest ?? []).filter(isWritable);
        return [
            ...words.map((word) => ({ text: word, chosen: row.target === word, choose: set(word) })),
            ...(words.length ? [null] : []),
            { text: say("nearest"), chosen: row.target === null, choose: set(null) },
            { text: say("nothing"), chosen: row.target === "", choose: set("") },
            { text: say("type"), choose: () => this.type(row, chip) },
        ];
    }

    /** Lets a target be typed where the chip is. */
    type(row, chip) {
        const input = element("input", { className: "chip", value: row.target ?? "", placeholder: say("target") });
        const end = (accept) => {
            input.onblur = null;
            if (accept && input.value.trim()) this.write(changed(this.field.value, row, { target: input.value.trim() }));
            else this.draw();
            this.root.querySelector(`[data-key="${row.index}:target"]`)?.focus();
        };
        input.onblur = () => end(true);
        input.onkeydown = (event) => {
            if (event.key !== "Enter" && event.key !== "Escape") return;
            event.preventDefault(); // or it would press the chip that takes the input's place
            end(event.key === "Enter");
        };
        chip.replaceWith(input);
        input.select();
    }

    // ------------------------------------------------------------ writing

    /** Puts a text into the box as if it had been typed, as one step to undo. */
    write(text) {
        app.canvas.emitBeforeChange?.();
        this.field.value = text;
        app.canvas.emitAfterChange?.();
        this.draw();
    }

    /** In the classic editor the canvas lies behind the rows, and the wheel is for it, unless the rows scroll. */
    passWheel(event) {
        if (this.root.scrollHeight > this.root.clientHeight && !event.ctrlKey) return event.stopPropagation();
        if (!this.root.closest(".dom-widget")) return undefined;
        event.preventDefault();
        return app.canvas.processMouseWheel(event);
    }
}

/** Keys that are meant for a row are not shortcuts of the editor; with Ctrl they are. */
function keepKeys(event) {
    if (!event.ctrlKey && !event.metaKey) event.stopPropagation();
}

/** The editor saves values by place, and leaves an empty one for a widget that is not saved; it reads them without. */
function closeGaps(saved) {
    if (saved.widgets_values) saved.widgets_values = saved.widgets_values.filter(() => true);
}

function element(tag, properties, ...parts) {
    const part = Object.assign(document.createElement(tag), properties);
    part.append(...parts);
    return part;
}

function button(className, textContent, label, key = "") {
    const part = element("button", { type: "button", className, textContent, title: label });
    part.setAttribute("aria-label", label);
    part.dataset.key = key;
    return part;
}

// ---------------------------------------------------------------- the editor

const rowsOn = new WeakMap(); // node -> Rows

function drawAll() {
    for (const node of allNodes()) rowsOn.get(node)?.draw();
}

document.head.append(element("link", { rel: "stylesheet", href: new URL("rows.css", import.meta.url).href }));

app.registerExtension({
    name: "ConceptErasure.Rows",
    settings: [
        {
            id: SETTING,
            name: "Rows below concepts",
            tooltip: "A row for each line of Erase Concept and Instant Erasure: on or off, what takes its place, strength.",
            category: ["Concept Erasure", "Nodes", "Rows"],
            type: "boolean",
            defaultValue: true,
            onChange: safely(() => setTimeout(drawAll)),
        },
    ],
    nodeCreated: safely((node) => {
        const field = node.widgets?.find(({ name }) => name === FIELDS[node.comfyClass]);
        if (field && node.addDOMWidget) rowsOn.set(node, new Rows(node, field));
    }),
    onNodeOutputsUpdated: safely(drawAll),
    afterConfigureGraph() {
        recalled().then(safely(drawAll));
    },
    setup: safely(() => {
        app.canvas?.canvas?.addEventListener("litegraph:set-graph", () => setTimeout(safely(drawAll)));
        const draw = ({ detail }) => rowsOn.get(nodeOf(detail.display_node ?? detail.node))?.draw();
        api.addEventListener("executed", safely((event) => setTimeout(() => draw(event)))); // the editor keeps it first
    }),
});
