"""Grids: sheets of bounded size, and labels that can be read in any script."""

import unicodedata

import pytest
import torch
from PIL import ImageFont

from concept_erasure.erasure.evaluation import lettering as letters
from concept_erasure.erasure.evaluation.grid import PIXELS, SIDE, SMALLEST, grid, lay_out, shrunk, within
from concept_erasure.erasure.evaluation.lettering import font_for, has, in_other_words, lettering

LONG = "a portrait of a knight in shining armour on a cliff above a stormy sea, " * 6
TAGS = "1girl,solo,long_hair,blue_eyes,school_uniform,looking_at_viewer,cherry_blossoms,outdoors,masterpiece"


def marked(rows: int, side: tuple[int, int] = (32, 32), each: int = 1) -> torch.Tensor:
    """Pictures as black as their row is far down, [rows * each, h, w, 3]."""
    shades = torch.linspace(0.8, 0.0, rows).repeat_interleave(each)
    return shades[:, None, None, None].expand(-1, *side, 3)


@pytest.mark.parametrize(
    "rows, columns, each, side",
    [
        (252, 2, 1, (256, 256)), (1000, 2, 2, (256, 256)), (5, 17, 64, (256, 256)), (300, 17, 4, (256, 256)),
        (10000, 2, 64, (64, 64)), (4, 2, 64, (16, 4096)), (4, 17, 64, (4096, 16)), (1, 1, 1, (4096, 4096)),
    ],
)  # fmt: skip
def test_no_sheet_and_not_all_of_them_are_too_large_whatever_is_asked_for(rows, columns, each, side):
    height, width = side
    layout = lay_out(rows, columns, each, width, height)
    shown = min(rows, layout.most_rows)
    assert layout.across_all <= SIDE and layout.top + layout.rows_each * layout.row <= SIDE
    assert shown * layout.row * layout.across_all <= PIXELS
    assert max(layout.width, layout.height) >= min(SMALLEST, *side)
    assert shown == rows or max(layout.width, layout.height) == SMALLEST  # nothing is left out that could be smaller


def test_many_rows_become_sheets_of_one_size_with_headings_on_each():
    sheets = grid([f"prompt {i}" for i in range(252)], ["before", "after"], [marked(252, (64, 64))] * 2)
    assert sheets.shape[0] > 1 and max(sheets.shape[1:3]) <= SIDE and float(sheets.max()) == 1
    heads = [sheet[:20, sheets.shape[2] // 2 :] for sheet in sheets]
    assert all(torch.equal(head, heads[0]) and float(head.min()) < 0.5 for head in heads)
    corners = [sheet[:20, :60] for sheet in sheets]  # which rows these are
    assert all(float(corner.min()) < 0.5 for corner in corners) and not torch.equal(corners[0], corners[1])


def test_every_picture_is_on_some_sheet_in_order():
    pictures = torch.zeros(300, 64, 64, 3)
    pictures[..., 1] = torch.linspace(0.2, 0.9, 300)[:, None, None]
    sheets = grid(["a"] * 300, ["b"], [pictures])
    red, green, blue = sheets.unbind(-1)
    colours = green[(red == 0) & (blue == 0)]
    asked = (pictures[:, 0, 0, 1] * 255).round() / 255
    assert torch.equal(colours.unique_consecutive(), asked.unique_consecutive())


def test_rows_that_still_do_not_fit_are_left_out(monkeypatch):
    monkeypatch.setattr("concept_erasure.erasure.evaluation.grid.PIXELS", 400_000)
    sheets = grid(["a"] * 5000, ["b"], [torch.zeros(5000, 8, 8, 3)])
    assert sheets.numel() / 3 < 500_000


def test_kept_pictures_take_little_memory_however_many_there_are():
    drawn = torch.rand(4, 512, 512, 3)
    few, many = shrunk(drawn, 8), shrunk(drawn, 100_000)
    assert few.shape == (4, 256, 256, 3) and few.dtype == torch.uint8
    assert many[0].numel() * 100_000 <= 3.1 * max(PIXELS, 100_000 * SMALLEST**2)
    assert torch.equal(shrunk(drawn[:, :64, :64]), (drawn[:, :64, :64] * 255).round().byte())  # never larger
    assert within(torch.rand(16, 4096, 3), 512).size == (512, 2)


def test_a_label_stays_in_its_margin_beside_its_own_row():
    """Long prompts, and tags without spaces, which once ran over other rows or widened the margin."""
    labels = [LONG, LONG.replace("knight", "queen"), TAGS, TAGS.replace(",", "_"), "x" * 5000]
    [long] = grid(labels, ["b"], [torch.zeros(5, 128, 128, 3)])
    [short] = grid(["a"] * 5, ["b"], [torch.zeros(5, 128, 128, 3)])
    assert long.shape == short.shape
    is_margin = (short == 1).all(2).all(0)
    margin = int((~is_margin).nonzero()[-128])  # where pictures begin
    inked = (long[:, : margin - 4] < 1).any(2)
    assert not inked[:, :2].any()  # nothing is cut off
    top = int((short[:, margin] < 1).all(1).nonzero()[0])
    for r in range(5):
        between = inked[top + r * 132 + 128 : top + r * 132 + 132]
        assert not between.any(), f"row {r} runs into the next"


def test_a_text_is_broken_between_words_and_behind_commas_and_else_anywhere():
    font = ImageFont.load_default(12)
    for text in (LONG, TAGS, TAGS.replace(",", "_"), "一只可爱的猫坐在窗台上" * 20, "a\tb\nc"):
        found = lettering(text, 12, 120, 100)
        assert all(found.font.getlength(line) <= 120 for line in found.lines)
        whole = "".join(c if has(found.font, c) else in_other_words(c) for c in text)
        assert "".join("".join(found.lines).split()) == "".join(whole.split())
    assert lettering(TAGS, 12, 120, 3).lines[:2] == ("1girl,solo,long_hair,", "blue_eyes,")
    assert lettering("white shirt", 12, int(font.getlength("white shi")), 3).lines == ("white", "shirt")


def test_a_text_that_is_too_long_ends_in_an_ellipsis():
    found = lettering(LONG, 12, 120, 4)
    assert len(found.lines) == 4 and found.lines[-1].endswith("…")
    assert all(found.font.getlength(line) <= 120 for line in found.lines)
    assert lettering("a circle", 12, 120, 1).lines == ("a circle",)
    assert lettering("", 12, 120, 1).lines == ()
    assert len(lettering("x" * 100_000, 12, 120, 4).lines) == 4


def test_a_character_that_no_font_has_is_written_in_another_way(monkeypatch):
    monkeypatch.setattr(letters, "FONTS", ())
    monkeypatch.setattr(letters, "_file", lambda name, size: None)
    said = {
        "Beyoncé": "Beyonce", "grüner Würfel": "gruner Wurfel", "猫": r"\u732b", "🐱": "[cat face]", "①": "1",
        "½": r"\xbd", "e\u0301": "e", "\u202ea\ud800\u200b": "a", "Ａ": "A",
    }  # fmt: skip
    for text, readable in said.items():
        assert " ".join(lettering(text, 12, 300, 9).lines) == readable


def test_no_character_is_drawn_as_a_box():
    """Whatever fonts this machine has, in every script."""
    for text in ("一只可爱的猫", "窓辺の猫", "кошка", "고양이", "Beyoncé", "แมว", "قطة", "बिल्ली", "🐱", "\U0010fffe"):
        found = lettering(text, 18, 400, 9)
        for c in unicodedata.normalize("NFC", "".join(found.lines)):
            assert c.isspace() or letters._drawn(found.font, c) != letters._drawn(found.font, letters.NO_CHARACTER)


def test_the_first_font_that_has_all_of_a_text_is_taken(monkeypatch):
    fonts = {size: ImageFont.load_default(size) for size in (10, 11, 12)}
    knows = {10: "ab", 11: "abc", 12: "abcd"}
    monkeypatch.setattr(letters, "_fonts", lambda text, size: fonts.values())
    monkeypatch.setattr(letters, "has", lambda font, c: c in knows[font.size])
    assert [font_for(text, 12).size for text in ("ab", "abc", "cab", "abcd", "xcd", "x")] == [10, 11, 11, 12, 12, 10]


def test_system_fonts_are_asked_for_only_when_they_are_needed(monkeypatch):
    monkeypatch.setattr(letters, "_file", lambda name, size: pytest.fail(name))
    assert lettering("a red circle, 50% [x] \\(fate\\)", 12, 300, 3).lines
