// What a node said stays to be seen: after a reload of the page, and in a subgraph that was closed while it spoke.
//
// The host sends texts of running nodes ("progress_text"), which the editor shows under a node of the graph that is
// open. A node whose result is kept does not run; of it the host sends the outputs ("executed"), which hold the text.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const OURS = /^Erasure/;
const WIDGET = "$$node-text-preview"; // the editor's name for the text under a node
const said = new WeakMap(); // node -> what "progress_text" says of it

/** The node with an execution id: "5", or "3:5" for node 5 in the subgraph that is node 3. */
function nodeOf(id) {
    let graph = app.rootGraph ?? app.graph, node;
    for (const part of String(id).split(":")) {
        node = graph?.getNodeById(part);
        graph = node?.subgraph;
    }
    return OURS.test(node?.type) ? node : undefined;
}

function isInView(node) {
    return node?.graph === app.canvas?.graph;
}

/** Has the editor show a text as if the host had just sent it. */
function show(detail) {
    api.dispatchEvent(new CustomEvent("progress_text", { detail }));
}

function keep({ detail }) {
    const node = nodeOf(detail.nodeId);
    if (node) said.set(node, { nodeId: detail.nodeId, text: detail.text });
}

function onExecuted({ detail }) {
    const nodeId = String(detail.display_node ?? detail.node), node = nodeOf(nodeId);
    const text = [detail.output?.text ?? []].flat().join("\n");
    if (!node || !text) return;
    said.set(node, { nodeId, text });
    // the last preview would stay in front of the result's own pictures, of which it is the first
    if (detail.output.images) delete app.nodePreviewImages?.[locator(node)];
    if (isInView(node)) show(said.get(node));
}

/** The editor's key of a node's outputs and previews. */
function locator(node) {
    return node.graph === (app.rootGraph ?? app.graph) ? String(node.id) : `${node.graph.id}:${node.id}`;
}

/** A run begins: what nodes said that will run again no longer holds. */
function onCached({ detail }) {
    const cached = new Set(detail.nodes.map(nodeOf));
    for (const node of allNodes(app.rootGraph ?? app.graph)) {
        if (!OURS.test(node.type) || cached.has(node)) continue;
        said.delete(node);
        const widget = node.widgets?.find(({ name }) => name === WIDGET);
        if (widget) widget.value = "";
    }
}

function allNodes(graph) {
    return (graph?.nodes ?? []).flatMap((node) => [node, ...allNodes(node.subgraph)]);
}

/** Another graph is opened: its nodes say what they said meanwhile. */
function onGraph() {
    setTimeout(() => {
        for (const node of app.canvas?.graph?.nodes ?? []) if (said.has(node)) show(said.get(node));
    });
}

app.registerExtension({
    name: "ConceptErasure.Said",
    setup() {
        api.addEventListener("progress_text", keep);
        api.addEventListener("executed", onExecuted);
        api.addEventListener("execution_cached", onCached);
        app.canvas?.canvas?.addEventListener("litegraph:set-graph", onGraph);
    },
});
