"""The card for a client: what stands on it, and that nothing typed can break it."""

import re
from datetime import date

import pytest
import torch
from PIL import Image

from concept_erasure.erasure.evaluation.card import ERASED, KEPT, card_of
from concept_erasure.erasure.evaluation.card_html import html
from concept_erasure.erasure.evaluation.card_picture import TALLEST, WIDTH, picture
from concept_erasure.erasure.evaluation.metrics import Share
from concept_erasure.erasure.evaluation.report import Drawing, Prompt, Report, Row
from concept_erasure.erasure.evaluation.subject import Entry, Subject
from concept_erasure.nodes.card import ErasureCard

SCRIPT = "<script>alert('丸')</script>"


def report(kept: int = 8, text: str = "a red circle", counted: bool = True, size=(40, 60)) -> Report:
    """Of four prompts for the concept and so many for other things, two seeds each."""
    prompts = [Prompt(f"{text} {i}", "circle", True) for i in range(4)]
    prompts += [Prompt(f"square {i}", f"square {i}", False) for i in range(kept)]
    each = 2 * len(prompts)
    shades = torch.arange(each, dtype=torch.uint8)[:, None, None, None].expand(-1, *size, 3)
    psr = {1: Share(2 * kept, 2 * kept)} if counted and kept else {}
    before = Row("before", {1: Share(0, 8)} if counted else {}, psr)
    after = Row("after", {1: Share(8, 8)} if counted else {}, psr, psnr=44.5, identical=Share(0, 16))
    subject = Subject("model.safetensors", "Stable Diffusion 1.x", [Entry(f"{text} → heart", "uce", "a_file", 0.8)])
    judge = "the unedited model itself" if counted else ""
    pictures = [shades, shades + 100]
    return Report([before, after], prompts, Drawing(seeds=(7, 8)), pictures, judge=judge, subject=subject)


def test_a_card_says_what_was_measured_and_what_was_not():
    card = card_of(report(), "For Ada", "A note.", date(2026, 11, 26))
    assert card.mark == "✓" and card.verdict == "Gone in 8 of 8 pictures; everything else kept in 16 of 16."
    assert card.about == "a red circle becomes heart · model.safetensors · 2026-11-26"
    facts = dict(card.facts)
    assert facts["Erasure"] == "a red circle becomes heart; method uce, file a_file, strength 0.8"
    assert "seeds 7 to 8" in facts["Pictures"] and "euler" in facts["Sampler"] and "24 of 24" in facts["Judge"]
    assert card.numbers[0][1:] == ("8 of 8 (68 to 100 %)", "0 of 8 (0 to 32 %)")
    assert card.untested[0].startswith("Attacks") and any("prompts, seeds" in text for text in card.untested)


def test_pictures_on_a_card_are_few_and_the_first_of_each_prompt():
    card = card_of(report())
    assert [len(pairs) for pairs in card.pairs] == [ERASED, KEPT] and "9 of 24 pairs" in card.shown
    shades = [pair.before.getpixel((0, 0))[0] for pair in card.pairs[0]]
    assert shades == [0, 2, 4] and card.pairs[0][1].after.getpixel((0, 0))[0] == 102


@pytest.mark.parametrize("kept, counted, words", [(0, True, "asked for other things"), (3, False, "look at")])
def test_a_card_does_not_claim_what_nobody_looked_at(kept, counted, words):
    card = card_of(report(kept, counted=counted))
    assert any(words in text for text in (card.verdict, *card.untested))
    assert counted or (card.mark == "" and not card.numbers)


def test_html_holds_all_it_shows_and_runs_nothing_that_was_typed():
    text = html(card_of(report(text=SCRIPT), f"Title {SCRIPT}", f"{SCRIPT}\n\"'&"))
    assert "<script" not in text and text.count("&lt;script&gt;") >= 5
    assert len(re.findall('src="data:image/jpeg;base64,', text)) == 2 * (ERASED + KEPT) == text.count("src=")
    assert "http" not in text.replace("http-equiv", "")


@pytest.mark.parametrize("size", [(40, 60), (8, 256), (256, 8)])
def test_a_picture_of_a_card_stays_within_its_bounds(size):
    page = picture(card_of(report(text="word " * 500, size=size), "title " * 500, "note\n" * 500))
    assert page.width == WIDTH and page.height < TALLEST


def test_the_node_saves_both_files_and_shows_the_page(output):
    out = ErasureCard.execute(report(), "For Ada", "", "erasures/card")
    saved = output / "erasures" / "card_00001.png"
    assert Image.open(saved).size == (out.result[0].shape[2], out.result[0].shape[1])
    assert "For Ada" in saved.with_suffix(".html").read_text(encoding="utf-8")
    assert out.ui["text"][0].startswith("✓ Gone in 8 of 8") and len(out.ui["images"]) == 1
