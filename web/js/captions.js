// In the classic editor a text box that is filled does not say what it is for: its name is written above it.
// Nodes 2.0 do so themselves, but do not say what an empty one is for: that is put into the box.

import { app } from "../../../scripts/app.js";
import { alsoDo, isOurs, safely } from "./graph.js";

const INSET = 14, SIZE = 9;

function drawCaptions(context) {
    if (this.flags?.collapsed || app.canvas.low_quality || LiteGraph.vueNodesMode) return;
    context.save();
    context.font = `${SIZE}px Inter, Arial, sans-serif`;
    context.fillStyle = LiteGraph.WIDGET_SECONDARY_TEXT_COLOR;
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    for (const widget of this.widgets ?? []) {
        const isShown = widget.element instanceof HTMLTextAreaElement && widget.isVisible?.();
        if (isShown) context.fillText(widget.label ?? widget.name, INSET, widget.y + SIZE - 1);
    }
    context.restore();
}

/** Gives a text box of Nodes 2.0 the placeholder that its widget has. */
function putPlaceholder(box) {
    const place = box.closest("[data-node-id]")?.dataset.nodeId;
    const node = place && app.canvas?.graph?.getNodeById(place);
    if (!isOurs(node)) return;
    const label = box.labels?.[0]?.textContent;
    const widget = node.widgets?.find((one) => (one.label || one.name) === label);
    if (!box.placeholder && widget?.element?.placeholder) box.placeholder = widget.element.placeholder;
}

const watchBoxes = safely((changes) => {
    if (!LiteGraph.vueNodesMode) return;
    for (const { addedNodes } of changes) {
        for (const added of addedNodes) {
            if (added instanceof HTMLElement) added.querySelectorAll("textarea").forEach(putPlaceholder);
        }
    }
});

app.registerExtension({
    name: "ConceptErasure.Captions",
    setup: safely(() => new MutationObserver(watchBoxes).observe(document.body, { childList: true, subtree: true })),
    nodeCreated: safely((node) => {
        if (isOurs(node) || /^Erasure/.test(node.comfyClass)) alsoDo(node, "onDrawForeground", drawCaptions);
    }),
});
