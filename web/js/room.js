// In the classic editor the text below a node has room for two lines, whatever it says. Here it gets as much as it needs, up
// to MOST lines: text boxes of the node give up theirs, and then the node grows, as far as no other node is in the way. The
// rest can be scrolled. Nodes 2.0 do so themselves.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { nodeOf, safely } from "./graph.js";

const WIDGET = "$$node-text-preview"; // the editor's name for the text under a node
const MOST = 10, LINE = 16, AROUND = 42; // lines; pixels of a line, and above and below them
const APART = 12; // pixels that stay free between nodes
const LETTER = 6.5, BESIDE = 48; // pixels of a letter, and left and right of a line
const WIDE = /[\u1100-\u11ff\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff\uff00-\uff60]/gu; // letters as wide as two

/** How many lines a text takes in a width of so many letters. */
export function linesOf(text, letters) {
    const length = (line) => line.length + (line.match(WIDE)?.length ?? 0);
    return text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(length(line) / letters)), 0);
}

/** Pixels between a node and the nearest one below it. */
function below(node) {
    const [left, top] = node.pos, right = left + node.size[0], bottom = top + node.size[1];
    const isBelow = ({ pos, size }) => pos[1] > top && pos[0] < right && left < pos[0] + size[0];
    const others = (node.graph?.nodes ?? []).filter((other) => other !== node && isBelow(other));
    return Math.max(0, Math.min(...others.map(({ pos }) => pos[1])) - LiteGraph.NODE_TITLE_HEIGHT - bottom - APART);
}

function makeRoom(node) {
    const widget = node.widgets?.find(({ name }) => name === WIDGET);
    if (!widget?.options || widget.options.madeRoom) return;
    const before = widget.options.getMinHeight;
    widget.options.madeRoom = true;
    widget.options.getMinHeight = () => {
        const least = before?.() ?? 0, letters = Math.max(8, Math.floor((node.size[0] - BESIDE) / LETTER));
        if (LiteGraph.vueNodesMode || !widget.value) return least;
        const wanted = AROUND + LINE * Math.min(MOST, linesOf(String(widget.value), letters));
        return Math.max(least, Math.min(wanted, (widget.computedHeight ?? least) + below(node)));
    };
    app.canvas?.setDirty(true, true);
}

app.registerExtension({
    name: "ConceptErasure.Room",
    setup: safely(() => {
        api.addEventListener("progress_text", safely(({ detail }) => queueMicrotask(safely(() => {
            const node = nodeOf(detail.nodeId);
            if (node && node.type !== "ErasureLoad") makeRoom(node); // its card says the same above
        }))));
    }),
});
