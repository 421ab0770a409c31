// In the classic editor a text box that is filled does not say what it is for: its name is written above it.
// Nodes 2.0 do so themselves.

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

app.registerExtension({
    name: "ConceptErasure.Captions",
    nodeCreated: safely((node) => {
        if (isOurs(node) || /^Erasure/.test(node.comfyClass)) alsoDo(node, "onDrawForeground", drawCaptions);
    }),
});
