// Load Erasure shows what its file is before any run, offers files that fit the connected model, and knows new ones.
//
// The server says what each file holds (nodes/library.py). Without it, or with a graph that does not tell the model,
// the list is the whole one that the host gave, and nothing is shown.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { linesOf } from "./room.js";

const ROUTE = "/concept_erasure/erasures";
const LOAD = "ErasureLoad";
const LOADERS = { ckpt_name: "checkpoints", unet_name: "diffusion_models" }; // widget -> the host's folder
const PICTURE = /^data:image\/(jpeg|png|webp);base64,[A-Za-z0-9+/=]+$/;
const PICTURE_SIDE = 128, LINE = 17, GAP = 4;
const MARGINS = 24; // that the editor leaves above and below
const LETTER = 6, BESIDE = 40; // pixels of a letter, and left and right of a line
const FARTHEST = 50; // nodes between Load Erasure and the model's loader
const PAUSE = 150; // ms in which changes of the graph are taken together
const known = new Map(); // address -> what the server answered

// ---------------------------------------------------------------- the server

/** What the server says to a request, asked once until something is saved. Nothing when it cannot be reached. */
function ask(address) {
    if (!known.has(address)) {
        const answer = api.fetchApi(address).then((response) => (response.ok ? response.json() : undefined));
        known.set(address, answer.catch(() => undefined));
    }
    return known.get(address);
}

function askErasures(model) {
    return ask(model ? `${ROUTE}?${new URLSearchParams(model)}` : ROUTE);
}

/** The picture in a file, from the host's own view of its metadata. */
async function askPicture(name) {
    const strings = await ask(`/view_metadata/erasures?${new URLSearchParams({ filename: name })}`);
    const picture = strings?.["modelspec.thumbnail"] ?? "";
    return PICTURE.test(picture) ? picture : undefined;
}

// ---------------------------------------------------------------- the graph

function allNodes(graph) {
    return (graph?.nodes ?? []).flatMap((node) => [node, ...allNodes(node.subgraph)]);
}

function linkOf(graph, id) {
    return graph?.links?.get?.(id) ?? graph?.links?.[id];
}

/** The nodes that read what a node gives. */
function readers(node) {
    const links = (node.outputs ?? []).flatMap((output) => output.links ?? []).map((id) => linkOf(node.graph, id));
    return links.map((link) => link && node.graph.getNodeById(link.target_id)).filter(Boolean);
}

/** The node that a node's model comes from. */
function modelSource(node) {
    const input = node.inputs?.find(({ type, link }) => link != null && (type === "MODEL" || type === "*"));
    const link = input && linkOf(node.graph, input.link);
    return link && node.graph.getNodeById(link.origin_id);
}

/** The first node behind a Load Erasure that takes a model, too. */
function userOf(node) {
    const queue = [node], seen = new Set(queue);
    for (const current of queue) {
        if (current !== node && current.inputs?.some(({ type }) => type === "MODEL")) return current;
        if (seen.size > FARTHEST) return undefined;
        for (const next of readers(current)) if (!seen.has(next)) seen.add(next) && queue.push(next);
    }
}

/** Folder and file of the model that a Load Erasure's erasure goes onto; nothing where the graph does not tell. */
function modelOf(node) {
    let current = userOf(node);
    for (let i = 0; current && i < FARTHEST; i++) {
        const widget = current.widgets?.find(({ name, value }) => name in LOADERS && typeof value === "string");
        if (widget) return { folder: LOADERS[widget.name], model: widget.value };
        current = modelSource(current);
    }
}

// ---------------------------------------------------------------- the list

function fileOf(node) {
    return node.widgets?.find(({ name }) => name === "file");
}

/** Offers the files that fit, and the chosen one; all of them when none fits. */
function offer(widget, erasures) {
    const fitting = erasures.filter(({ fits }) => fits !== false);
    const offered = (fitting.length ? erasures : []).filter((one) => fitting.includes(one) || one.name === widget.value);
    const values = (offered.length ? offered : erasures).map(({ name }) => name);
    if (!values.length) return;
    if (String(widget.options.values) !== String(values)) widget.options.values = values;
    if (!/\.safetensors$/i.test(widget.value)) widget.value = values[0]; // "no erasures yet"
}

// ---------------------------------------------------------------- the card

function part(tag, style, parent) {
    const element = Object.assign(document.createElement(tag), { style });
    parent?.append(element);
    return element;
}

function addCard(node) {
    const box = part("div", `display:flex; flex-direction:column; gap:${GAP}px; overflow:hidden; pointer-events:none;`);
    const text = part("div", `font-size:12px; line-height:${LINE}px; color:var(--input-text); white-space:pre-line;`, box);
    const picture = part("img", `display:none; max-height:${PICTURE_SIDE}px; max-width:100%; object-fit:contain;`, box);
    const card = { text, picture, height: 0 };
    const height = () => card.height;
    const options = { serialize: false, hideOnZoom: false, getMinHeight: height, getMaxHeight: height };
    const widget = node.addDOMWidget("erasure_card", "erasure_card", box, options);
    widget.serialize = false; // it is no value of the graph
    return card;
}

const cards = new WeakMap(); // node -> its card

async function fill(node, erasures) {
    const card = cards.get(node), name = fileOf(node).value, one = erasures.find((each) => each.name === name);
    const picture = one?.has_picture ? await askPicture(name) : undefined;
    if (!card || fileOf(node).value !== name) return; // another was chosen meanwhile
    const lines = one ? [one.line ?? "This file holds no erasure.", [one.method, one.date].filter(Boolean).join(" · ")] : [];
    if (one?.fits === false) lines.push("⚠ Made for another kind of model than the connected one.");
    if (!one && /\.safetensors$/i.test(name)) lines.push("⚠ This file is not here: choose another.");
    card.text.textContent = lines.filter(Boolean).join("\n");
    card.picture.style.display = picture ? "block" : "none";
    if (picture) card.picture.src = picture;
    const letters = Math.max(8, Math.floor((node.size[0] - BESIDE) / LETTER));
    const tall = linesOf(card.text.textContent, letters) * LINE;
    card.height = lines.length ? tall + MARGINS + (picture ? PICTURE_SIDE + GAP : 0) : 0;
    const [width, height] = node.computeSize();
    if (height > node.size[1]) node.setSize([Math.max(width, node.size[0]), height]);
    node.graph?.setDirtyCanvas(true, true);
}

// ---------------------------------------------------------------- when

async function update(node) {
    const erasures = await askErasures(modelOf(node));
    if (!Array.isArray(erasures) || !fileOf(node)) return;
    offer(fileOf(node), erasures);
    await fill(node, erasures);
}

let waiting;

/** Looks again at every Load Erasure. ``anew``: what the server said may have changed. */
function refresh(anew) {
    if (anew) known.clear();
    clearTimeout(waiting);
    waiting = setTimeout(() => {
        for (const node of allNodes(app.rootGraph ?? app.graph)) if (node.type === LOAD) update(node);
    }, PAUSE);
}

/** Looks again when the editor has called what an object has under a name. */
function refreshAfter(object, name) {
    const own = object[name];
    object[name] = function (...all) {
        refresh(false);
        return own?.apply(this, all);
    };
}

app.registerExtension({
    name: "ConceptErasure.Library",
    setup() {
        for (const kind of ["execution_success", "execution_error", "execution_interrupted"]) {
            api.addEventListener(kind, () => refresh(true));
        }
        api.addEventListener("graphChanged", () => refresh(false));
    },
    nodeCreated(node) {
        if (node.comfyClass !== LOAD) return;
        cards.set(node, addCard(node));
        refreshAfter(fileOf(node), "callback");
        refreshAfter(node, "onConnectionsChange");
        refresh(false);
    },
    afterConfigureGraph: () => refresh(false),
    refreshComboInNodes: () => refresh(true),
});
