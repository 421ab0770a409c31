// A text box of concepts, line by line: what a row can show of a line, and the line again after a row was changed.
//
// The text is the only truth, and the node reads it (erasure/texts/names.py). This reads no more of it than rows need:
// "name", "name -> target", "name : 0.8", and "#off " in front of a line that is switched off. Every other line is plain.

/**
 * @typedef {object} Row
 * @property {number} index Which line of the text it is.
 * @property {boolean} off
 * @property {boolean} plain Whether the line says something that a row cannot change.
 * @property {string} name The name; of a plain row, the line.
 * @property {string | null} target What the line says takes the name's place; null for nothing said, "" for nothing.
 * @property {number} strength
 */

const OFF = /^(\s*)#off\s+(?=\S)/;
const LETTER = String.raw`(?:\\[()]|[^,;:|#<>=~\[\]{}()\\\t→，、；：､；،؛｜"“”「」])`;
const NUMBER = String.raw`(\d*\.?\d+(?:\s?%)?)`;
const LINE = new RegExp(
    String.raw`^\s*(${LETTER}+?)(?:\s*:\s*${NUMBER})?\s*(?:(?:->|→)\s*(${LETTER}*?)(?:\s*:\s*${NUMBER})?\s*)?$`,
);
const WORDS_OF_OTHERS = /(?<!\w)(?:BREAK|AND)(?!\w)|__/; // which other programs read as commands, and so does the node
export const WEAKEST = 0.05, STRONGEST = 2, STEP = 0.05;

/** @param {string} text @returns {Row[]} One for each line that is neither empty nor a comment. */
export function rowsOf(text) {
    return text.split("\n").flatMap((line, index) => rowOf(line, index) ?? []);
}

/** @param {string} line @param {number} index @returns {Row | undefined} */
export function rowOf(line, index = 0) {
    const off = OFF.test(line), content = line.replace(OFF, "$1");
    if (!content.trim() || /^\s*#/.test(content)) return undefined;
    const plain = { index, off, plain: true, name: content.trim(), target: null, strength: 1 };
    const [, name, before, target, behind] = LINE.exec(content) ?? [];
    const strength = numberOf(behind ?? before ?? "1");
    if (!name?.trim() || /-$/.test(name.trim()) || WORDS_OF_OTHERS.test(content)) return plain;
    if (target !== undefined && !target.trim() && behind !== undefined) return plain;
    if (strength > STRONGEST || strength < WEAKEST || (before && behind)) return plain;
    return { ...plain, plain: false, name: name.trim(), target: target?.trim() ?? null, strength };
}

/** @param {string} text A number, or one in percent. */
function numberOf(text) {
    return text.endsWith("%") ? parseFloat(text) / 100 : Number(text);
}

/** @param {string} text @param {Row} row @returns {string} The text with this line switched on or off. */
export function toggled(text, row) {
    return withLine(text, row.index, (line) => (row.off ? line.replace(OFF, "$1") : line.replace(/^\s*/, "$&#off ")));
}

/**
 * @param {string} text
 * @param {Row} row
 * @param {{target?: string | null, strength?: number}} change
 * @returns {string} The text with this line saying something else; all others stay to the letter.
 */
export function changed(text, row, change) {
    const { off, name, target, strength } = { ...row, ...change };
    const how = strength === 1 ? "" : ` : ${Number(strength.toFixed(2))}`;
    const where = target === null ? "" : ` -> ${target.replace(/\s+/g, " ")}`.trimEnd();
    return withLine(text, row.index, (line) => `${/^\s*/.exec(line)[0]}${off ? "#off " : ""}${name}${how}${where}`);
}

/** @param {string} text @param {number} index @param {(line: string) => string} change */
function withLine(text, index, change) {
    return text.split("\n").map((line, i) => (i === index ? change(line) : line)).join("\n");
}

/** @param {string} word Whether a row can write this as a target. */
export function isWritable(word) {
    return new RegExp(`^${LETTER}+$`).test(word);
}

/** @param {string} name @returns {string} The name without the backslashes that prompts need. */
export function readable(name) {
    return name.replace(/\\([()])/g, "$1");
}
