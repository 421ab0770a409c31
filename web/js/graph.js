// What the other files need to know of the editor's graph.

import { app } from "../../../scripts/app.js";

const OURS = /^Erasure/;

export function rootGraph() {
    return app.rootGraph ?? app.graph;
}

export function isOurs(node) {
    return OURS.test(node?.type ?? "");
}

/** The nodes of a graph and of the subgraphs in it. */
export function allNodes(graph = rootGraph()) {
    return (graph?.nodes ?? []).flatMap((node) => [node, ...allNodes(node.subgraph ?? {})]);
}

/** The node with an execution id: "5", or "3:5" for node 5 in the subgraph that is node 3. */
export function anyNodeOf(id) {
    let graph = rootGraph(), node;
    for (const part of String(id).split(":")) {
        node = graph?.getNodeById(part);
        graph = node?.subgraph;
    }
    return node;
}

/** Our node with an execution id. */
export function nodeOf(id) {
    const node = anyNodeOf(id);
    return isOurs(node) ? node : undefined;
}

/** The editor's key of a node's outputs and previews. */
export function locator(node) {
    return !node.graph || node.graph === rootGraph() ? String(node.id) : `${node.graph.id}:${node.id}`;
}

export function isInView(node) {
    return Boolean(node?.graph) && node.graph === app.canvas?.graph;
}

/** A function that never breaks the editor: what goes wrong in it is written to the console. */
export function safely(work) {
    return function (...all) {
        try {
            return work.apply(this, all);
        } catch (error) {
            console.error("Concept Erasure:", error);
            return undefined;
        }
    };
}

/** Has an object's method do something more, after what it did before. */
export function alsoDo(object, method, work) {
    const before = object[method], then = safely(work);
    object[method] = function (...all) {
        const result = before?.apply(this, all);
        then.apply(this, all);
        return result;
    };
}

/** A node's execution id: "5", or "3:5" in the subgraph that is node 3; of a subgraph used twice, the first. */
export function executionId(node, graph = rootGraph()) {
    for (const other of graph?.nodes ?? []) {
        if (other === node) return String(node.id);
        const inside = other.subgraph && executionId(node, other.subgraph);
        if (inside) return `${other.id}:${inside}`;
    }
    return undefined;
}
