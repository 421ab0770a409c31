// What our nodes gave out when they last ran. The editor keeps it with each workflow, but not when the page is loaded
// anew; the host keeps it of its latest runs.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { executionId, isOurs, locator, rootGraph, safely } from "./graph.js";

const LATEST = 8; // runs that the host is asked for
const earlier = new Map(); // a workflow's id -> outputs of its last run before the page was loaded
const prompts = new Map(); // a prompt's id -> its workflow's id, and which of its nodes are ours
let asked, running; // running: the id of the prompt that runs

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

/** Whether a prompt was made from another workflow than the one in this tab; of no prompt: the one that runs. */
export function isElsewhere(prompt = running) {
    const { workflow } = prompts.get(prompt) ?? {};
    return Boolean(workflow && workflow !== rootGraph()?.id);
}

/** Whether a node of ours is in a prompt that was made from another workflow. */
export function isOursElsewhere(node, prompt = running) {
    return isElsewhere(prompt) && prompts.get(prompt).ours.has(String(node));
}

/** Asks the host which workflows the prompts in its queue were made from. */
async function lookUp() {
    const queue = await (await api.fetchApi("/queue")).json();
    for (const [, id, nodes, extra] of [...queue.queue_running, ...queue.queue_pending]) {
        const ours = Object.keys(nodes).filter((key) => isOurs({ type: nodes[key].class_type }));
        prompts.set(id, { workflow: extra?.extra_pnginfo?.workflow?.id, ours: new Set(ours) });
    }
    running = queue.queue_running[0]?.[1] ?? running;
}

/** Follows which prompt runs, for texts of running nodes do not say it. */
export function followRuns() {
    const look = () => lookUp().catch((error) => console.error("Concept Erasure:", error));
    api.addEventListener("promptQueued", look);
    api.addEventListener("execution_start", safely(({ detail }) => {
        running = detail.prompt_id;
        if (!prompts.has(running)) look();
    }));
}

async function recall() {
    await lookUp();
    const answer = await api.fetchApi(`/history?max_items=${LATEST}`);
    for (const { prompt, outputs } of Object.values(await answer.json())) { // the latest is the last
        const workflow = prompt?.[3]?.extra_pnginfo?.workflow?.id;
        if (workflow) earlier.set(workflow, outputs);
    }
    earlier.delete(prompts.get(running)?.workflow); // what it said no longer holds
}
