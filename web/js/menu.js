// "Erase a concept here" on the menu of every node that gives a MODEL.

import { app } from "../../../scripts/app.js";
import { isInView, safely } from "./graph.js";
import { say } from "./words.js";

const NODE = "ErasureText";
const GAP = 40, TITLE = 30, TRIES = 80;
const LATER = 130; // that the node grows by, for rows and what it says

/** Puts Erase Concept behind a node: what read the node's MODEL reads the erased one. One step to undo. */
function eraseBehind(source) {
    const { graph } = source, slot = giving(source, "MODEL");
    app.canvas.emitBeforeChange?.();
    try {
        const erase = LiteGraph.createNode(NODE);
        erase.pos = placeFor(erase, source);
        graph.add(erase);
        const readers = (source.outputs[slot].links ?? []).map((id) => graph.getLink?.(id) ?? graph.links.get(id));
        for (const link of readers) moveLink(graph, link, erase);
        source.connect(slot, erase, "model");
        const clip = clipFor(source, erase);
        clip?.connect(giving(clip, "CLIP"), erase, "clip");
        app.canvas.selectNode(erase);
        return erase;
    } finally {
        app.canvas.emitAfterChange?.();
        app.canvas.setDirty(true, true);
    }
}

function moveLink(graph, link, erase) {
    const reader = link && graph.getNodeById(link.target_id);
    if (reader) erase.connect(0, reader, link.target_slot);
    else if (link) graph.outputNode?.slots[link.target_slot]?.connect(erase.outputs[0], erase); // of a subgraph
}

/** The first output of a type; -1 for none. */
function giving(node, type) {
    return node.outputs?.findIndex((output) => output.type === type) ?? -1;
}

/** The node that gives the CLIP: the source itself, or the one nearest to it. */
function clipFor(source, erase) {
    const away = ({ pos }) => Math.hypot(pos[0] - source.pos[0], pos[1] - source.pos[1]);
    const all = source.graph.nodes.filter((node) => node !== erase && giving(node, "CLIP") >= 0);
    return all.includes(source) ? source : all.sort((a, b) => away(a) - away(b))[0];
}

/** A free place at the right of a node, as near as can be. */
function placeFor(erase, source) {
    const [width, height] = erase.size, left = source.pos[0] + source.size[0] + GAP;
    const isFree = (top) => source.graph.nodes.every(({ pos, size }) =>
        pos[0] >= left + width || pos[0] + size[0] <= left || pos[1] - TITLE >= top + height + LATER || pos[1] + size[1] + GAP <= top - TITLE);
    for (let i = 0; i < TRIES; i++) {
        const top = source.pos[1] + (i % 2 ? -1 : 1) * Math.ceil(i / 2) * GAP;
        if (isFree(top)) return [left, top];
    }
    return [left, source.pos[1]];
}

/** Whether all of a node is on the screen. */
function isOnScreen({ pos, size }) {
    const [left, top, width, height] = app.canvas.visible_area;
    return pos[0] > left && pos[1] - 2 * TITLE > top && pos[0] + size[0] < left + width && pos[1] + size[1] < top + height;
}

/** The cursor goes where the concept is typed, once the editor shows it. */
function beginTyping(erase) {
    if (!isOnScreen(erase)) app.canvas.centerOnNode(erase);
    const box = erase.widgets?.find(({ name }) => name === "concept")?.element;
    setTimeout(() => {
        const shown = document.querySelector(`[data-node-id="${erase.id}"] textarea`) ?? box;
        if (isInView(erase)) shown?.focus();
    }, 200);
}

app.registerExtension({
    name: "ConceptErasure.Menu",
    getNodeMenuItems(node) {
        if (giving(node, "MODEL") < 0 || !LiteGraph.registered_node_types[NODE]) return [];
        return [null, { content: say("eraseHere"), callback: safely(() => beginTyping(eraseBehind(node))) }];
    },
});
