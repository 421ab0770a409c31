// A template that is opened has its note and its titles in the editor's language, and so has an empty text box what belongs
// there; the host's own files have no place for these.
//
// web/notes/LANGUAGE.json has every line of them (scripts/notes.py), and is asked for when a graph with a note is opened, or
// a node of ours is made. A note with a line that is not there is someone's own: it stays as it is.

import { app } from "../../../scripts/app.js";
import { isOurs, safely } from "./graph.js";
import { language } from "./words.js";

const NOTE = "MarkdownNote", NUMBER = /^\d+\. /;
const PATIENCE = 3000; // ms that a graph waits for it
const known = new Map(); // language -> its lines, which come

/** @returns {Promise<Map<string, string>>} The lines in a language by the English ones; none where they cannot be had. */
function linesIn(spoken) {
    if (!known.has(spoken)) {
        const file = new URL(`../notes/${spoken}.json`, import.meta.url);
        const answer = fetch(file, { signal: AbortSignal.timeout(PATIENCE) }).then((response) => response.json());
        known.set(spoken, answer.then((lines) => new Map(Object.entries(lines))));
        known.get(spoken).catch(() => known.delete(spoken)); // the next graph asks again
    }
    return known.get(spoken);
}

/** A text with every line in another language, numbers in front of them kept; undefined where one is not known. */
function translated(text, lines) {
    const others = text?.split?.("\n").map((line) => {
        const [number] = NUMBER.exec(line) ?? [""], other = lines.get(line.slice(number.length));
        return other && number + other;
    });
    return others?.every(Boolean) ? others.join("\n") : undefined;
}

async function translate(graph) {
    const notes = graph?.nodes?.filter(({ type }) => type === NOTE) ?? [], spoken = language();
    if (!notes.length || spoken === "en") return;
    const lines = await linesIn(spoken);
    const ours = notes.filter((note) => translated(note.widgets_values?.[0], lines));
    for (const note of ours) note.widgets_values[0] = translated(note.widgets_values[0], lines);
    for (const shown of ours.length ? [...graph.nodes, ...(graph.groups ?? [])] : []) {
        shown.title = translated(shown.title, lines) ?? shown.title;
    }
}

/** What stands in the empty text boxes of a node. */
async function translateBoxes(node) {
    const boxes = (node.widgets ?? []).filter(({ element, options }) => element?.placeholder || options?.placeholder);
    if (!boxes.length || language() === "en") return;
    const lines = await linesIn(language());
    for (const { element, options } of boxes) {
        const other = lines.get(element?.placeholder || options.placeholder);
        if (other && element) element.placeholder = other;
        if (other && options?.placeholder) options.placeholder = other;
    }
}

app.registerExtension({
    name: "ConceptErasure.Notes",
    nodeCreated: safely((node) => {
        const isOne = isOurs(node) || /^Erasure/.test(node.comfyClass);
        if (isOne) translateBoxes(node).catch((error) => console.warn("Concept Erasure:", error));
    }),
    /** What is to be opened is the editor's own copy, so a graph is not changed by this but begins like it. */
    beforeConfigureGraph: (graph) => translate(graph).catch((error) => console.warn("Concept Erasure:", error)),
});
