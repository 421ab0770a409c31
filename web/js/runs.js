// What our nodes gave out when they last ran. The editor keeps it with each workflow, but not when the page is loaded
// anew; the host keeps it of its latest runs.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { executionId, locator, rootGraph } from "./graph.js";

const LATEST = 8; // runs that the host is asked for
const earlier = new Map(); // a workflow's id -> outputs of its last run before the page was loaded
let asked;

/** The outputs of a node's last run. */
export function outputOf(node) {
    return app.nodeOutputs?.[locator(node)] ?? earlier.get(rootGraph()?.id)?.[executionId(node)];
}

/** What a node says in outputs; "" for nothing. */
export function textOf(output) {
    return [output?.text ?? []].flat().join("\n");
}

/** A run begins that runs these nodes again: what they said no longer holds. */
export function forgetTexts(nodes) {
    earlier.delete(rootGraph()?.id);
    for (const node of nodes) delete app.nodeOutputs?.[locator(node)]?.text;
}

/** Asks the host, once a page, what its latest runs gave out. */
export function recalled() {
    asked ??= recall().catch((error) => console.error("Concept Erasure:", error));
    return asked;
}

async function recall() {
    const answer = await api.fetchApi(`/history?max_items=${LATEST}`);
    for (const { prompt, outputs } of Object.values(await answer.json())) { // the latest is the last
        const workflow = prompt?.[3]?.extra_pnginfo?.workflow?.id;
        if (workflow) earlier.set(workflow, outputs);
    }
}
