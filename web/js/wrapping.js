// What a node says keeps its lines, and its words and numbers stay whole: "12 of 12" must not read "12 of 1".
//
// The classic editor breaks the text below a node anywhere; Nodes 2.0 read it as Markdown, where lines run together. Both
// are styles of the element that shows it. It is styled for our nodes only: in Nodes 2.0 by the id that the editor gives
// the element of a node; the classic editor gives none, so there an element is known by what it says.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { alsoDo, allNodes, isInView, isOurs, nodeOf, safely } from "./graph.js";

const WIDGET = "$$node-text-preview"; // the editor's name for the text under a node
const CLASSIC = ".dom-widget .break-all";
const LATER = 300; // ms until an editor that is busy has drawn a text

const sheet = document.head.appendChild(document.createElement("style"));

function styleNodes() {
    const nodes = allNodes().filter((node) => isOurs(node) && isInView(node));
    const places = nodes.map(({ id }) => `[data-node-id="${CSS.escape(id)}"] .comfy-markdown-content p`);
    sheet.textContent = places.length ? `${places.join(", ")} { white-space: pre-line; }` : "";
}

const bare = (text) => text.replace(/\s/g, "");

/** In the classic editor: breaks what a node says between words, once it is drawn. */
function keepWords(node) {
    const text = bare(String(node?.widgets?.find(({ name }) => name === WIDGET)?.value ?? ""));
    if (!text || LiteGraph.vueNodesMode) return;
    for (const element of document.querySelectorAll(CLASSIC)) {
        if (bare(element.textContent) !== text) continue;
        element.style.wordBreak = "normal";
        element.style.overflowWrap = "anywhere";
        for (const inner of element.children) inner.style.wordBreak = "inherit";
    }
}

function keepWordsSoon(id) {
    for (const wait of [0, LATER]) setTimeout(safely(() => keepWords(nodeOf(id))), wait);
}

app.registerExtension({
    name: "ConceptErasure.Wrapping",
    setup: safely(() => {
        api.addEventListener("progress_text", safely(({ detail }) => keepWordsSoon(detail.nodeId)));
        app.canvas?.canvas?.addEventListener("litegraph:set-graph", () => setTimeout(safely(styleNodes)));
    }),
    nodeCreated: safely((node) => isOurs(node) && alsoDo(node, "onAdded", () => setTimeout(safely(styleNodes)))),
    afterConfigureGraph: safely(styleNodes),
});
