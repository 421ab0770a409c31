"""Texts of any script as lines of a given width, in a font that this machine has for them.

Pillow brings one font, which knows the letters of English. For all others the usual fonts of Windows, macOS and Linux
are looked for, by name and only when they are needed. A character that none of them has is written in another way
instead of as a box.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from PIL import ImageFont

FONTS = (
    # Latin, Greek, Cyrillic, and more
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "segoeui.ttf", "arial.ttf", "Arial.ttf", "LiberationSans-Regular.ttf",
    # Chinese, Japanese, Korean
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "SourceHanSans-Regular.ttc", "wqy-microhei.ttc",
    "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "msyh.ttc", "YuGothM.ttc", "msgothic.ttc", "malgun.ttf",
    "PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc", "NanumGothic.ttf",
    # nearly everything, signs
    "Arial Unicode.ttf", "FreeSans.ttf", "Nirmala.ttc", "Nirmala.ttf", "LeelawUI.ttf", "seguisym.ttf", "seguiemj.ttf",
    "Apple Symbols.ttf", "NotoSansSymbols2-Regular.ttf", "NotoEmoji-Regular.ttf", "Symbola.ttf", "unifont.otf",
    "unifont.ttf",
)  # fmt: skip
"""Files, the most pleasant first; Pillow knows the folders of each system."""
NO_CHARACTER = "\U0010fffe"
"""Which no font has, so that it is drawn as a font draws what it lacks."""
PIECE = r"\s*(?:\\\w+|[^\s,，、\\]+|\\)?[,，、]?"
"""What stays together where a line has room for it: a word, with a comma behind it; a character's number."""
LONGEST = 1000
"""Characters of a text that are looked at; no label has room for more."""


@dataclass(frozen=True)
class Lettering:
    """Lines to be drawn in a font."""

    lines: tuple[str, ...]
    font: ImageFont.FreeTypeFont


def lettering(text: str, size: int, width: int, most: int) -> Lettering:
    """A text in letters of ``size`` pixels, as at most ``most`` lines of at most ``width`` pixels.

    It is broken before spaces and behind commas, within a word only where that has no line of its own, and ends in an
    ellipsis where it is too long.
    """
    text = "".join(c for c in unicodedata.normalize("NFC", text[:LONGEST]) if c.isspace() or is_drawn(c))
    font = font_for(text, size)
    text = "".join(c if has(font, c) else in_other_words(c) for c in text)
    return Lettering(tuple(_shortened(text, most, lambda line: font.getlength(line) <= width)), font)


def is_drawn(character: str) -> bool:
    """Whether a character is to be seen: control characters, joiners and halves of a character are not."""
    return not unicodedata.category(character).startswith("C")


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The first font that has all characters of a text; if there is none, the one that lacks the fewest."""
    characters, best, fewest = sorted(set(text)), _default(size), len(text) + 1
    for font in _fonts(text, size):
        lacking = sum(not has(font, c) for c in characters)
        if lacking < fewest:
            best, fewest = font, lacking
        if not lacking:
            break
    return best


def _fonts(text: str, size: int) -> Iterator[ImageFont.FreeTypeFont]:
    yield _default(size)
    scripts = dict.fromkeys(unicodedata.name(c, "").split(" ")[0].title() for c in text if not c.isascii())
    for name in (*FONTS, *(f"NotoSans{script}-Regular.ttf" for script in scripts)):
        font = _file(name, size)
        if font is not None:
            yield font


@lru_cache(maxsize=100)
def _default(size: int) -> ImageFont.FreeTypeFont:
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


@lru_cache(maxsize=1000)
def _file(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    """A font by its file's name; None where this machine has none, or none of this size (coloured emoji)."""
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@lru_cache(maxsize=10000)
def has(font: ImageFont.FreeTypeFont, character: str) -> bool:
    """Whether a font has a character. Pillow does not say; but it draws all that a font lacks alike."""
    return character.isspace() or _drawn(font, character) != _drawn(font, NO_CHARACTER)


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> tuple:
    # by itself: the other engine puts a circle under an accent
    mask = _plain(font).getmask(character)
    return mask.size, bytes(mask)


@lru_cache(maxsize=1000)
def _plain(font: ImageFont.FreeTypeFont) -> ImageFont.FreeTypeFont:
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC)


def in_other_words(character: str) -> str:
    """A character in those of English: without its accents, a sign by its name, else as its number."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    if plain and plain.isascii():
        return plain
    if unicodedata.category(character).startswith("S"):
        return f"[{unicodedata.name(character, 'sign').lower()}]"
    return character.encode("unicode_escape").decode()


def _shortened(text: str, most: int, fits: Callable[[str], bool]) -> list[str]:
    lines: list[str] = []
    for line in _lines(text, fits):
        if len(lines) == most:
            lines[-1] = _with_ellipsis(lines[-1], fits)
            break
        lines.append(line)
    return lines


def _with_ellipsis(line: str, fits: Callable[[str], bool]) -> str:
    while line and not fits(f"{line}…"):
        line = line[:-1]
    return f"{line.rstrip()}…"


def _lines(text: str, fits: Callable[[str], bool]) -> Iterator[str]:
    line = ""
    for piece in re.findall(PIECE, text):
        if fits((line + piece).strip()):
            line = (line + piece).lstrip()
            continue
        if line:
            yield line.rstrip()
        line = piece.lstrip()
        while not fits(line.rstrip()) and len(line) > 1:
            end = next(n for n in range(2, len(line) + 1) if not fits(line[:n])) - 1
            yield line[:end]
            line = line[end:]
    if line.strip():
        yield line.rstrip()
