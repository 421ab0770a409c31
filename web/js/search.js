// The search for nodes: a word that people type for erasing leads to Erase Concept, as its name does.
//
// The editor ranks by names. A node that only one of its aliases fits comes after all those whose names resemble the
// word, so "nsfw" finds LatentApplyOperation first. A definition may weigh the scores that its node gets, and this one
// does: where exactly one of its aliases is typed, that counts as its name. Anything else, such as "remove background",
// is ranked as before. No other node's scores are touched.

import { app } from "../../../scripts/app.js";

const NODE = "ErasureText";
const NAMED = 0; // the editor's first score of a node whose name was typed

/** What is typed in the search that is asked: the field that has the focus. */
function typed() {
    return document.activeElement?.value?.trim?.().toLowerCase();
}

app.registerExtension({
    name: "ConceptErasure.Search",
    beforeRegisterVueAppNodeDefs(definitions) {
        const definition = definitions.find(({ name }) => name === NODE);
        if (!definition) return;
        const aliases = new Set(definition.search_aliases?.map((alias) => alias.toLowerCase()));
        definition.postProcessSearchScores = ([first, ...rest]) => [aliases.has(typed()) ? NAMED : first, 0, ...rest];
    },
});
