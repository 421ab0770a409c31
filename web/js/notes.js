// A template that is opened has its note and the titles of its groups in the editor's language.
//
// web/notes/LANGUAGE.json has every line of them (scripts/notes.py), and is asked for when a graph with a note is opened.
// A note with a line that is not there is someone's own: it stays as it is.

import { app } from "../../../scripts/app.js";
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
    for (const shown of ours.length ? [...ours, ...(graph.groups ?? [])] : []) {
        shown.title = translated(shown.title, lines) ?? shown.title;
    }
}

app.registerExtension({
    name: "ConceptErasure.Notes",
    /** What is to be opened is the editor's own copy, so a graph is not changed by this but begins like it. */
    beforeConfigureGraph: (graph) => translate(graph).catch((error) => console.warn("Concept Erasure:", error)),
});
