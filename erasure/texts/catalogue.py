"""Sentences in other languages: what a node says in English -> the same in another language. Standard library only.

Messages are put together where they arise, in English. A catalogue holds each sentence once, with numbers in the place
of what changes, ``"'{0}' is connected twice: take one of the two off."``, and its translation, which may have them in
another order. A text is taken apart by these sentences; what none of them fits stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MARKS = re.compile(r"\s*(?:[✓⚠✗🟢🟡🔴⚪•–-]\ufe0f?\s+)?")
"""What may stand in front of a line's first sentence."""
ENDS = ".:!?…"
WIDE = "。：！？"
"""Ends of sentences that bring their own space along."""
WIDE_LETTERS = re.compile("[\u3040-\u9fff]")
"""Japanese and Chinese ones, behind which signs are wide, too."""
PLACE = re.compile(r"\{(\d+)d?\}")
NUMBER = re.compile(r"\{\d+d\}")
"""A place that only a number fills, as in "{0d} names": other words would be taken for it."""
DEPTH = 3
"""Sentences within sentences that are looked for."""

Known = tuple[re.Pattern[str], str]


class Catalogue:
    """Translates texts by the sentences of one language."""

    def __init__(self, sentences: Mapping[str, str]):
        bare = {MARKS.sub("", text, count=1): MARKS.sub("", sentences[text], count=1) for text in sentences}
        self.pieces = _patterns({**bare, **sentences})
        self.sentences = _patterns({text: bare[text] for text in bare if text.rstrip()[-1:] in ENDS}, r"(?=\s|$)")
        self.last = _patterns({text: bare[text] for text in bare if re.search(r"\{\d+d?\}$", text)}, "$")
        self.titles = {text: bare[text] for text in bare if not PLACE.search(text)}

    def translate(self, text: str) -> str:
        """The text in the catalogue's language, line by line."""
        return "\n".join(self._line(line) for line in text.split("\n"))

    def _line(self, line: str) -> str:
        start = _start(line)
        return line[:start] + self._sentences(line[start:], 1)

    def _sentences(self, text: str, depth: int) -> str:
        """Sentences in a row. One that is not known is passed over, up to its full stop."""
        parts = []
        while text:
            translation, end = self._first(text, depth)
            space = len(text[end:]) - len(text[end:].lstrip())
            parts += [translation, "" if translation[-1:] in WIDE else text[end : end + space]]
            text = text[end + space :]
        return "".join(parts)

    def _first(self, text: str, depth: int) -> tuple[str, int]:
        """The translation of the first sentence of a text, and where that sentence ends."""
        title, colon, _ = text.partition(": ")
        if colon and title in self.titles:
            known = self.titles[title]
            return known + ("：" if WIDE_LETTERS.search(known) else ":"), len(title) + 1
        matches = [(match, known) for pattern, known in self.sentences if (match := pattern.match(text))]
        matches = matches or [(match, known) for pattern, known in self.last if (match := pattern.match(text))]
        if matches:
            # the first to end: others take two sentences for one
            match, known = min(matches, key=lambda pair: pair[0].end())
            return self._filled(known, match, depth), match.end()
        stop = re.search(r"[.!?](?=\s)", text)
        end = stop.end() if stop else len(text)
        return self._part(text[:end], depth), end

    def _part(self, text: str, depth: int) -> str:
        """What fills a place of a sentence: a piece that is known as a whole, a list of such, or left alone."""
        if depth > DEPTH or not text:
            return text
        for sign in (", ", "; "):
            pieces = [self._piece(piece, depth) for piece in text.split(sign)]
            if len(pieces) > 1 and None not in pieces:
                return sign.join(piece for piece in pieces if piece is not None)
        piece = self._piece(text, depth)
        return text if piece is None else piece

    def _piece(self, text: str, depth: int) -> str | None:
        for pattern, translation in self.pieces:
            if match := pattern.fullmatch(text):
                return self._filled(translation, match, depth)
        return None

    def _filled(self, translation: str, match: re.Match[str], depth: int) -> str:
        values = [self._part(value, depth + 1) for value in match.groups()]
        return PLACE.sub(lambda place: values[int(place[1])], translation)


def _start(line: str) -> int:
    match = MARKS.match(line)
    return match.end() if match else 0


def _patterns(sentences: Mapping[str, str], end: str = "") -> list[Known]:
    """What finds sentences, those with most letters first; each of their places occurs once and in order."""
    by_length = sorted(sentences, key=lambda sentence: -len(PLACE.sub("", sentence)))
    return [(re.compile(_expression(text) + end, re.DOTALL), sentences[text]) for text in by_length]


def _expression(sentence: str) -> str:
    places = [r"([\d.,]+)" if NUMBER.fullmatch(place[0]) else "(.*?)" for place in PLACE.finditer(sentence)]
    pieces = [re.escape(piece) for piece in PLACE.split(sentence)[::2]]
    return pieces[0] + "".join(place + piece for place, piece in zip(places, pieces[1:], strict=True))
