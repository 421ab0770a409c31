"""What people type into a field of concepts, targets or preserved texts -> the names they mean. Standard library only.

A field holds names, one a line or separated by signs that separate in any script. A name may stand in brackets,
quotes, bullets, a weight or a phrase such as "a photo of …"; all of these are taken off, because a text encoder would
read them as part of the name. A line can say more than a name::

    Van Gogh -> painting        what takes the name's place; nothing behind the arrow means nothing takes it
    circle : 0.8                how strongly it is erased
    # circle                    a comment
    #off circle                 a name that is switched off, as the editor's rows write it
    file: names.txt             the names in a text file of the host's input folder

Names come back as a prompt would say them: brackets that belong to a name are escaped, as in ``saber \\(fate\\)``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from ..artifact import ErasureError

MOST_QUOTED = 8
"""Names that are quoted in a message; of more, only the number is said."""
LONGEST_LINE = 20_000
"""Letters of a line."""
LONGEST_NAME = 1_000
"""Letters of a name, with its decoration; no text encoder of today reads as many at once."""
LONGEST_QUOTE = 60
"""Letters of a name in a message."""
STRONGEST = 2.0
"""The largest strength that a line can give."""

SEPARATORS = ",;\t，、；،؛|｜՝፣꓾︐︑︔﹐﹑﹔､"
"""Signs between names, beside the ends of lines."""
ARROWS = r" ?(?:[-–—−‒―]+>|=+>|~+>|[→⇒➔➜⟶⇨➡↦⟹➝➞])\ufe0f? ?"
BRACKETS = dict(zip("([{（［｛【〔〖<《〈「『｢", ")]}）］｝】〕〗>》〉」』｣", strict=True))
QUOTES = "\"'`´“”„‟‘’‚‛«»‹›〝〞〟＂＇「」『』"
ENDS = ".。．｡!！?？¿¡:：…‥·・/\\~～_=^¦।॥"
"""Signs that no name needs at its ends."""
BULLETS = r"(?:\[[ xX]\]\s+|[-–—−‐‑‒―*•●○◦‣▪▫■□►▶➤➢✓✔☐☑✗✘·∙⁃+>]+\s*|\d{1,3}[.\]:](?=\s*\D|\s+\d{1,3}[.)\]:]\s)\s*)"
NUMBERS = re.compile(
    r"(?<![\w\\.:])\(?\d{1,3}\)\s*(?=[^\s)\d:.,;]|\d{1,3}[.)\]]\s)|(?:^|(?<=[,;]))\s*[a-zA-Z]\)\s+(?=\S)"
)
"""Numbers of a list with a bracket, which would be taken for one of a prompt weight."""
IN_ONE_LINE = re.compile(r"(?:^|\s)(?:\((\d{1,3})\)|(\d{1,3})[.)])\s+(?=\S)")
"""Numbers of a list that has lost its ends of lines: "1. circle 2. star"."""
LEADS = re.compile(
    r"(?:(?:an?|the|one|some)\s+)?(?:[\w-]+\s+){0,2}?"
    r"(?:photos?|photographs?|pictures?|images?|paintings?|drawings?|portraits?|illustrations?|sketch(?:es)?|renders?|"
    r"renderings?|depictions?|artworks?|art|works?|style|close-?up|shot)\s+"
    r"(?:of|by|in\s+the\s+styles?\s+of|in\s+style\s+of|in\s+the\s+manner\s+of)\s+"
    r"|in\s+the\s+styles?\s+of\s+|in\s+the\s+manner\s+of\s+|by\s+the\s+artist\s+|by\s+|the\s+concept\s+of\s+"
    r"|(?:please\s+)?(?:remove|erase|delete|unlearn|suppress|exclude|censor)\s+(?:(?:all|any|every)\s+(?:of\s+)?)?"
    r"|(?:please\s+)?(?:no|without|forget|ban|block|avoid|hide)\s+(?:any\s+|all\s+)?(?:more\s+|of\s+)?(?=(?:the|an?)\s)"
    r"|(?:no|without)\s+(?:any\s+more|more|any)\s+|(?:forget|ban|block|avoid|hide)\s+(?:all|any|every)\s+"
    r"|an?\s+|the\s+",
    re.IGNORECASE,
)
"""What stands in front of a name and is no part of it, such as "a photo of" and "remove the"; "no hats" and "block
party" stay, because they may be names."""
LORA_TAG = re.compile(r"<\s*(?:lora|lyco|hypernet)\s*:[^>]*>?", re.IGNORECASE)
BREAK = re.compile(r"(?<!\w)(?:BREAK|AND)(?!\w)")
"""Words in capitals that other programs take for the end of a chunk or of a prompt."""
FILE = re.compile(r"file\s*:\s*(.+)", re.IGNORECASE)
OFF = re.compile(r"#off\s+(.+)")
STRENGTH = re.compile(r"(.*\S)\s*[:：]\s*([-+]?(?:\d{1,2}|\d{0,2}[.,]\d+)|\d{1,3}\s?%)", re.DOTALL)
"""A number behind a colon; one of more digits, as a year, is part of the name."""
NO_NAMES = (
    (re.compile(r"<\s?-+|<\s?=+|[←⇐↔⇔⟵⟷]"), "an arrow leads from a name to what takes its place, 'name -> target'"),
    (re.compile(rf"{ARROWS}.*{ARROWS}"), "a name has one arrow, from it to what takes its place"),
    (re.compile(r"\bNOT\s+\S"), "NOT excludes nothing here: type what must stay into 'preserve'"),
    (re.compile(r"\w+://\S"), "an address is no name: type what the picture shows"),
    (re.compile(r"""["']\s*:\s*["'\[{]"""), "that is JSON: type the names alone, one a line"),
)
"""What people type that cannot be meant as a name, each with a sentence on what to type instead."""
EMBEDDING = "embedding:"
FILLERS = frozenset(("the", "and", "with", "for", "from", "not", "his", "her", "its", "are", "one", "two"))
FULL_WIDTH = "！～"
"""The first and last of the wide copies of ASCII's signs and letters."""
JOINERS = "\u200c\u200d"
"""Invisible characters that belong to a word of some scripts, or to an emoji."""


@dataclass(frozen=True)
class Name:
    """One name of a field. ``target``: what its line says takes its place; None when the line says nothing of that,
    empty for nothing. ``strength``: how strongly it is erased, as a multiple of the node's own strength."""

    text: str
    target: str | None = None
    strength: float = 1.0


@dataclass(frozen=True)
class Names:
    """The names of a field, in order and each once, and sentences on what was read in another way than typed.

    ``off``: names that stand there and are not read, for their line is switched off or their strength is 0.
    ``weights``: prompt weights other than 1, as in "(circle:1.4)", which nothing uses.
    """

    entries: tuple[Name, ...] = ()
    notes: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()

    @property
    def are_off(self) -> bool:
        """Whether there are names, and all of them are switched off."""
        return bool(self.off) and not self.entries

    @property
    def texts(self) -> list[str]:
        """The names alone."""
        return [entry.text for entry in self.entries]


def read_field(text: str, open_file: Callable[[str], str] | None = None) -> Names:
    """The names in a text field.

    ``open_file(name)`` returns a text file of the host's input folder; without it, lines that ask for a file raise
    ErasureError, as do lines of which nothing is left to read.
    """
    reader = _Reader(open_file)
    for line in visible(text).splitlines():
        reader.line(line)
    weights = tuple(dict.fromkeys(weight for weight in reader.weights if float(weight) != 1))
    notes = [*reader.notes, *([f"Prompt weights are not used here: {listed(weights)}."] if weights else [])]
    return Names(tuple(reader.entries.values()), tuple(dict.fromkeys(notes)), tuple(reader.off), weights)


class _Reader:
    """Collects the names of a field, line by line."""

    def __init__(self, open_file: Callable[[str], str] | None):
        self.open_file = open_file
        self.entries: dict[str, Name] = {}
        self.notes: list[str] = []
        self.off: list[str] = []
        self.weights: list[str] = []

    def line(self, line: str) -> None:
        line = re.sub(" {2,}", " ", line.strip())
        if len(line) > LONGEST_LINE:
            raise ErasureError(f"A line of {len(line)} letters is too long: put each name on its own line.")
        if line.startswith("#"):
            if match := OFF.fullmatch(line):
                self.off.append(match[1])
                self.notes.append(f"Switched off: {quoted([match[1]])}.")
            elif comment := line.lstrip("# "):
                self.notes.append(f"Left out as a comment: {quoted([comment])}.")
            return
        if match := FILE.fullmatch(line):
            self.file(match[1].strip(QUOTES + " "))
            return
        line = NUMBERS.sub("", numbered(line))
        line = re.sub(r"\s#\s.*", "", line)  # "C# " and "#1" are no comments
        for part in split_outside_brackets(self.without_syntax(line)):
            self.name(part)

    def file(self, name: str) -> None:
        if self.open_file is None:
            raise ErasureError(f"Names cannot be read from the file '{name}' here: type them into the field.")
        text, self.open_file, own = self.open_file(name), None, self.open_file  # a file cannot ask for another file
        before = len(self.entries)
        for line in visible(text).splitlines():
            self.line(line)
        self.open_file = own
        self.notes.append(f"{len(self.entries) - before} names come from the file '{name}'.")

    def without_syntax(self, line: str) -> str:
        """The line without what other nodes and programs read as commands; separators take their place."""
        if tags := LORA_TAG.findall(line):
            self.notes.append(f"{quoted(tags)} loads a LoRA and is no name; it was left out.")
            line = LORA_TAG.sub("", line)
        if BREAK.search(line):
            self.notes.append("BREAK and AND separate names here, as a comma does.")
            line = BREAK.sub(",", line)
        line = re.sub(r"\[([^\[\]:]+):([^\[\]:]+):\s*[\d.]+\s*\]", r"\1,\2", line)  # [from:to:when]
        if re.search(r"\{[^{}]*\|[^{}]*\}", line):
            self.notes.append("A choice in braces was read as all of its names: nothing is drawn by lot here.")
            line = re.sub(r"\{([^{}]*)\}", lambda match: match[1].replace("|", ","), line)
        if wildcards := re.findall(r"__[\w\-/]+__", line):
            self.notes.append(f"{quoted(wildcards)} is no wildcard here, but a name.")
        return without_weights(line, self.weights.append)

    def name(self, part: str) -> None:
        if len(part) > LONGEST_NAME:
            raise ErasureError(f"A name of {len(part)} letters is too long: put each name on its own line.")
        for signs, advice in NO_NAMES:
            if signs.search(part):
                raise ErasureError(f"No name can be read in '{short(part.strip())}': {advice}.")
        named, *rest = re.split(ARROWS, part, maxsplit=1)
        entry = read_name(named)
        if rest:
            goal = read_name(rest[0])
            entry = replace(entry, target=goal.text, strength=goal.strength if goal.strength != 1 else entry.strength)
        if not entry.text:
            if rest or re.search(r"\w", part):
                raise ErasureError(f"No name can be read in '{part.strip()}': type the name alone.")
            return
        if entry.strength == 0:
            self.off.append(entry.text)
            self.notes.append(f"Left out, because its strength is 0: {quoted([entry.text])}.")
            return
        self.entries.setdefault(spelled(entry.text), entry)


def visible(text: str) -> str:
    """The text without invisible characters, and in composed form (NFC)."""
    text = unicodedata.normalize("NFC", text)
    letters = []
    for i, letter in enumerate(text):
        if letter in JOINERS:
            around = text[i - 1 : i] + text[i + 1 : i + 2]
            if len(around) == 2 and min(map(ord, around)) > 127:
                letters.append(letter)
        elif unicodedata.category(letter) == "Zs":
            letters.append(" ")
        elif FULL_WIDTH[0] <= letter <= FULL_WIDTH[1]:
            letters.append(chr(ord(letter) - ord(FULL_WIDTH[0]) + ord("!")))
        elif unicodedata.category(letter) not in ("Cf", "Cc", "Cs") or letter in "\n\r\t\v\f\x85":
            letters.append(letter)
    return "".join(letters)


def numbered(line: str) -> str:
    """A line that is a whole numbered list, 1 and 2 at least, with commas for its numbers; any other as it is."""
    found = list(IN_ONE_LINE.finditer(line))
    numbers = [int(one[1] or one[2]) for one in found]
    if len(found) < 2 or found[0].start() or numbers != list(range(1, len(found) + 1)):
        return line
    if any(re.search(f"{ARROWS}$", line[: one.start()]) for one in found):
        return line
    return IN_ONE_LINE.sub(", ", line)


def split_outside_brackets(line: str) -> list[str]:
    """The parts between separators. One inside of brackets that weigh several names separates them, too."""
    line = re.sub(r"(?<!\d)[,，](?!\d)|[,，](?=\s)|(?<=\d)[,，](?=\D)|(?<=\D)[,，](?=\d)", "\n", line)
    parts = re.split(f"[\n{re.escape(SEPARATORS.replace(',', '').replace('，', ''))}]", line)
    return [part for part in parts if part.strip()]


def read_name(part: str) -> Name:
    """One name without its decoration, and the strength behind its colon."""
    strength, before = 1.0, None
    text = " ".join(part.split())
    while text != before:
        before = text
        text = re.sub(rf"^{BULLETS}(?=\S)", "", text) if not text.casefold().startswith(EMBEDDING) else text
        text, weight = _without_brackets(text)
        if weight is None and (match := STRENGTH.fullmatch(text)):
            text, strength = match[1], _strength(match)
        text = text.strip(" " + QUOTES + ",，")
        text = _without_signs(text)
        if any(text.count(left) != text.count(right) for left, right in ("[]", "{}", "<>")):
            text = text.strip("[]{}<> ")
        if match := LEADS.match(text):
            text = text[match.end() :] or text
        text = re.sub(r"(?<=\S)\s?['’´`ʼ]s$", "", text)
    return Name(without_weights(text).strip(), None, strength)


def _strength(match: re.Match[str]) -> float:
    """The strength that a line gives behind its colon. Raises ErasureError for one that no erasure can have."""
    number = match[2].replace(",", ".")
    strength = float(number[:-1]) / 100 if number.endswith("%") else float(number)
    if not 0 <= strength <= STRONGEST:
        raise ErasureError(
            f"The strength of '{short(plain(match[1]))}' is {number}: type a number from 0 to {STRONGEST:g} behind the "
            "colon."
        )
    return strength


def _without_signs(text: str) -> str:
    """The text without signs at its ends; a backslash and an escaped bracket at its end belong to it."""
    if text.casefold().startswith(EMBEDDING):
        return text.rstrip(ENDS.replace("_", "").replace("\\", "") + " ")
    end = text.rstrip(ENDS + " ") if not re.search(r"\\[()]$", text) else text
    return end.lstrip(ENDS.replace("\\", "") + " ") if not re.match(r"\\[()]", end) else end


def _without_brackets(text: str) -> tuple[str, float | None]:
    """The text without brackets around all of it, and their prompt weight, if they have one."""
    weight = None
    if len(text) > 1 and text[0] in BRACKETS and not text.endswith(f"\\{BRACKETS[text[0]]}"):
        inner = text[1:-1] if text.endswith(BRACKETS[text[0]]) else None
        if inner is not None and _balanced(inner, text[0], BRACKETS[text[0]]):
            text = inner.strip()
            if match := re.fullmatch(r"(.*\S)\s*[:：]\s*[-+]?\d*\.?\d+", text):
                text, weight = match[1], 1.0
    return text, weight


def _balanced(text: str, left: str, right: str) -> bool:
    depth = 0
    for letter in text:
        depth += (letter == left) - (letter == right)
        if depth < 0:
            return False
    return depth == 0


def without_weights(line: str, on_weight: Callable[[str], None] = lambda weight: None) -> str:
    """The line without the round brackets of prompt weights, and without the weights; escaped brackets stay.

    ``on_weight`` is called with each weight.
    """
    open_parts: list[list[str]] = []
    parts: list[str] = []
    for piece in re.findall(r"\\.|[()]|[^()\\]+|\\", line, re.DOTALL):
        if piece == "(":
            open_parts.append(parts)
            parts = []
        elif piece == ")" and open_parts:
            inner = "".join(parts)
            if match := re.search(r"\s*:\s*([-+]?\d*\.?\d+)\s*$", inner):
                on_weight(match[1])
                inner = inner[: match.start()]
            parts = [*open_parts.pop(), " ", inner, " "]
        else:
            parts.append(" " if piece == ")" else piece)
    for outer in reversed(open_parts):
        parts = [*outer, " ", *parts]
    return "".join(parts)


def prompt_lines(text: str) -> list[str]:
    """The prompts of a field, one a line, each once: commas and weights are theirs, comments are left out."""
    return [line for line in lines(visible(text)) if not line.startswith("#")]


def files_in(text: str) -> list[str]:
    """The files that a field asks for."""
    matches = (FILE.fullmatch(line.strip()) for line in visible(text).splitlines())
    return [match[1].strip(QUOTES + " ") for match in matches if match]


def lines(text: str) -> list[str]:
    """The non-empty lines of a text, in order, each once."""
    return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


# ---------------------------------------------------------------- comparing names


def spelled(name: str) -> str:
    """What spellings of one name have in common: text encoders read lower case, and an article tells them little."""
    return re.sub(r"^(an?|the) ", "", " ".join(name.casefold().split()))


@lru_cache(4096)
def letters(name: str) -> str:
    """A name's letters and digits alone, without case, accents and umlauts: "Café" and "cafe", "ice cream" and
    "ice-cream" are the same."""
    plain = unicodedata.normalize("NFKD", spelled(name).replace("ß", "ss"))
    return "".join(c for c in plain if unicodedata.category(c)[0] in "LNS")


def words(name: str) -> list[str]:
    """The words of a name as ``letters`` has them."""
    return [word for part in re.split(r"[\W_]+", name) if (word := letters(part))]


def forms(name: str) -> set[str]:
    """A name and its plurals, right or wrong ones: "cats" must not become "cat"."""
    word = letters(name)
    ends = [("man", "men"), ("y", "ies"), ("f", "ves"), ("fe", "ves")]
    return {word, word + "s", word + "es", *(word.removesuffix(a) + b for a, b in ends if word.endswith(a))}


def is_form_of(a: str, b: str) -> bool:
    """Whether two names are one in another form: spelled otherwise, singular or plural."""
    return spelled(a) == spelled(b) or bool(letters(a) and forms(a) & forms(b))


def is_said(name: str, text: str) -> bool:
    """Whether a text says a name, in any form, as words of their own."""
    text_words, name_words = words(text), words(name)
    starts = range(len(text_words) - len(name_words) + 1) if name_words else ()
    windows = [text_words[i : i + len(name_words)] for i in starts]
    return is_form_of(name, text) or any(all(map(is_form_of, window, name_words)) for window in windows)


def telling_words(name: str) -> list[str]:
    """The words of a name that tell what it is: not "of", "the", "and"."""
    return [word for word in words(name) if len(word) > 2 and word not in FILLERS]


def others(candidates: Iterable[str], names: Iterable[str]) -> list[str]:
    """The candidates, each once, that neither are one of the names nor have a telling word in common with one."""
    taken: set[str] = set()
    spellings = set()
    for name in names:
        spellings.add(spelled(name))
        taken |= forms(name).union(*map(forms, telling_words(name))) - {"", "s", "es"}
    return [
        text
        for text in dict.fromkeys(candidates)
        if spelled(text) not in spellings and not taken & forms(text).union(*map(forms, telling_words(text)))
    ]


def quoted(names: Sequence[str]) -> str:
    """Names in quotation marks with commas, as people write them; long ones are cut."""
    return ", ".join(f'"{short(plain(name))}"' for name in names)


def listed(texts: Sequence[str]) -> str:
    """Texts with commas; of many, the first ones."""
    return ", ".join(texts[:MOST_QUOTED]) + (", …" if len(texts) > MOST_QUOTED else "")


def short(text: str) -> str:
    """The text, or as much of it as a message has room for."""
    return text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 1].rstrip()}…"


def plain(name: str) -> str:
    """A name without the backslashes that prompts need."""
    return re.sub(r"\\([()])", r"\1", name)


def listing(names: Sequence[str], one: str = "name", several: str = "names") -> str:
    """How many names there are, and which, unless they are too many to quote."""
    count = f"{len(names)} {one if len(names) == 1 else several}"
    return f"{count}: {quoted(names)}" if len(names) <= MOST_QUOTED else f"{count}: {quoted(names[:3])}, …"
