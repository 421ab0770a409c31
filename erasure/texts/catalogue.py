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
PLACE = re.compile(r"\{(\d+)\}")
DEPTH = 3
"""Sentences within sentences that are looked for."""


class Catalogue:
    """Translates texts by the sentences of one language."""

    def __init__(self, sentences: Mapping[str, str]):
        by_length = sorted(sentences, key=lambda sentence: -len(PLACE.sub("", sentence)))
        self.patterns = [(_pattern(sentence), sentences[sentence]) for sentence in by_length]
        self.whole = [
            (re.compile(pattern.pattern + r"(?=\s|$)", re.DOTALL), translation)
            for (pattern, translation), sentence in zip(self.patterns, by_length, strict=True)
            if sentence.rstrip()[-1:] in ENDS
        ]

    def translate(self, text: str) -> str:
        """The text in the catalogue's language, line by line."""
        return "\n".join(self._line(line) for line in text.split("\n"))

    def _line(self, line: str) -> str:
        start = _start(line)
        return line[:start] + self._sentences(line[start:])

    def _sentences(self, text: str) -> str:
        """Sentences in a row. One that is not known is passed over, up to its full stop."""
        parts = []
        while text:
            matches = [pair for pattern in self.whole if (pair := _match(pattern, text))]
            if matches:
                # the first to end: others take two sentences for one
                known = min(matches, key=lambda pair: pair[0].end())
                match, translation = known
                parts.append(self._filled(translation, match, 1))
                end = match.end()
            else:
                stop = re.search(r"[.!?](?=\s)", text)
                end = stop.end() if stop else len(text)
                parts.append(self._part(text[:end], 1))
            space = len(text[end:]) - len(text[end:].lstrip())
            parts.append(text[end : end + space])
            text = text[end + space :]
        return "".join(parts)

    def _part(self, text: str, depth: int) -> str:
        """What fills a place of a sentence: a sentence or a piece of one that is known as a whole, or left alone."""
        if depth > DEPTH:
            return text
        for pattern, translation in self.patterns:
            if match := pattern.fullmatch(text):
                return self._filled(translation, match, depth)
        return text

    def _filled(self, translation: str, match: re.Match[str], depth: int) -> str:
        values = [self._part(value, depth + 1) for value in match.groups()]
        return PLACE.sub(lambda place: values[int(place[1])], translation)


def _start(line: str) -> int:
    match = MARKS.match(line)
    return match.end() if match else 0


def _match(pattern: tuple[re.Pattern[str], str], text: str) -> tuple[re.Match[str], str] | None:
    match = pattern[0].match(text)
    return None if match is None else (match, pattern[1])


def _pattern(sentence: str) -> re.Pattern[str]:
    """What finds a sentence, whatever stands in its places, each of which occurs once and in order."""
    pieces = PLACE.split(sentence)[::2]
    return re.compile("(.*?)".join(map(re.escape, pieces)), re.DOTALL)
