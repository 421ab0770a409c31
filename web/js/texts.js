// What a node said stays to be seen: after undo, in another tab, in a subgraph that was closed while it spoke, and after a
// reload of the page. It is gone as soon as a run begins that runs the node again.
//
// The host sends texts of running nodes ("progress_text"), which the editor shows under a node of the graph that is
// open, and forgets with the node. The outputs of a run hold the last of them; the editor keeps those of a workflow, and
// the host those of its latest runs.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { allNodes, anyNodeOf, isInView, isOurs, locator, nodeOf, safely } from "./graph.js";
import { followRuns, forgetTexts, isElsewhere, isOursElsewhere, outputOf, recalled, textOf } from "./runs.js";

const WIDGET = "$$node-text-preview"; // the editor's name for the text under a node
const texts = new WeakMap(); // node -> what it says
const outputs = new WeakMap(); // node -> what it gave out when it last ran

/** Has the editor show what a node says as if the host had just sent it. */
function show(node) {
    if (!texts.has(node) || !isInView(node)) return;
    const detail = { nodeId: String(node.id), text: texts.get(node), again: true };
    api.dispatchEvent(new CustomEvent("progress_text", { detail }));
}

// The editor gives what a running node says, and gives out, to the node with its id in the tab that is open. The run may
// be one of another tab, to which the editor brings the outputs as well: then it is taken back from the node here.

/** Once the editor was told of a text: it goes, if it is of a node elsewhere. */
function takeBackText(id) {
    const node = isOursElsewhere(id) && anyNodeOf(id), widget = node && node.widgets?.find(({ name }) => name === WIDGET);
    if (!widget) return;
    if (texts.has(node)) widget.value = texts.get(node);
    else if (isOurs(node)) widget.value = "";
    else node.removeWidget?.(widget);
}

/** Once the editor was told of an output: it is kept as the node's own, or goes, if it is of a node elsewhere. */
function sortOutput(id, prompt) {
    const node = anyNodeOf(id), key = node && locator(node);
    if (!node || !app.nodeOutputs) return;
    if (!isElsewhere(prompt)) outputs.set(node, app.nodeOutputs[key]);
    else if (!isOurs(node) && !isOursElsewhere(id, prompt)) return;
    else if (outputs.get(node)) app.nodeOutputs[key] = outputs.get(node);
    else delete app.nodeOutputs[key];
}

function onText({ detail }) {
    if (detail.again) return;
    const node = nodeOf(detail.nodeId);
    if (isElsewhere()) queueMicrotask(safely(() => takeBackText(detail.nodeId)));
    else if (node) texts.set(node, detail.text);
}

function onExecuted({ detail }) {
    const id = detail.display_node ?? detail.node, node = nodeOf(id), text = textOf(detail.output);
    queueMicrotask(safely(() => sortOutput(id, detail.prompt_id)));
    if (isElsewhere(detail.prompt_id) || !node || !text) return;
    texts.set(node, text);
    // the last preview would stay in front of the result's own pictures, of which it is the first
    if (detail.output.images) delete app.nodePreviewImages?.[locator(node)];
    show(node);
}

/** A run begins: what nodes said that will run again no longer holds. */
function onCached({ detail }) {
    if (isElsewhere(detail.prompt_id)) return;
    const cached = new Set(detail.nodes.map(nodeOf));
    const again = allNodes().filter((node) => isOurs(node) && !cached.has(node));
    forgetTexts(again);
    for (const node of again) {
        texts.delete(node);
        const widget = node.widgets?.find(({ name }) => name === WIDGET);
        if (widget) widget.value = "";
    }
}

/** Nodes that were made anew, by undo or another tab, say what the outputs of their last run hold. */
function remind() {
    for (const node of allNodes()) outputs.set(node, app.nodeOutputs?.[locator(node)]);
    for (const node of allNodes().filter(isOurs)) {
        const text = textOf(outputOf(node));
        if (!texts.has(node) && text) texts.set(node, text);
        show(node);
    }
}

app.registerExtension({
    name: "ConceptErasure.Texts",
    setup: safely(() => {
        followRuns();
        api.addEventListener("progress_text", safely(onText));
        api.addEventListener("executed", safely(onExecuted));
        api.addEventListener("execution_cached", safely(onCached));
        app.canvas?.canvas?.addEventListener("litegraph:set-graph", () => setTimeout(safely(remind)));
    }),
    afterConfigureGraph() {
        recalled().then(() => setTimeout(safely(remind)));
    },
    onNodeOutputsUpdated: () => setTimeout(safely(remind)),
});
