"""The sentences of a report."""

from types import SimpleNamespace

import pytest

from concept_erasure.erasure.evaluation.metrics import Share
from concept_erasure.erasure.evaluation.wording import accuracy, likeness, of_the_judge, sentences, too_few, verdict


def row(gone=None, same=None, name="after", psnr=None, identical=None):
    """``gone`` and ``same``: (hits, count)."""
    shares = ({1: Share(*pair)} if pair else {} for pair in (gone, same))
    return SimpleNamespace(name=name, esr=next(shares), psr=next(shares), psnr=psnr, identical=identical)


BEFORE = row((0, 12), (36, 36), "before")


@pytest.mark.parametrize(
    "after, text",
    [
        (row((12, 12), (36, 36)), "✓ Gone in 12 of 12 pictures; everything else kept in 36 of 36."),
        (row((9, 12), (36, 36)), "⚠ Gone in 9 of 12 pictures; everything else kept in 36 of 36."),
        (row((12, 12), (30, 36)), "⚠ Gone in 12 of 12 pictures; everything else kept in 30 of 36."),
        (row((2, 12), (36, 36)), "✗ Still there in 10 of 12 pictures; everything else kept in 36 of 36."),
        (row((12, 12)), "✓ Gone in 12 of 12 pictures; nothing else was looked at."),
        (row(None, (36, 36)), "✓ Everything else kept in 36 of 36 pictures."),
        (row(), ""),
    ],
)
def test_the_verdict_is_one_plain_sentence(after, text):
    assert verdict(after, BEFORE) == text


def test_what_the_judge_misses_in_the_unedited_model_too_is_not_held_against_the_erasure():
    assert verdict(row((12, 12), (30, 36)), row((0, 12), (30, 36))).startswith("✓")


def test_what_the_unedited_model_does_not_show_is_no_merit_of_the_erasure():
    before = row((9, 12), (36, 36))
    assert verdict(row((12, 12), (36, 36)), before).startswith("⚠ Gone in 12 of 12")
    said = "⚠ The unedited model itself does not show it in 9 of 12 pictures: take prompts that draw it."
    assert said in sentences([before, row((12, 12), (36, 36))], "CLIP", "", "")


def test_the_judges_own_accuracy_is_said_and_doubted():
    assert accuracy(BEFORE) == Share(48, 48) and accuracy(row()) is None
    assert of_the_judge("CLIP", row((1, 12), (36, 36))) == (
        "The judge is CLIP: it reads 47 of 48 pictures of the unedited model right."
    )
    assert of_the_judge("CLIP", row((6, 12), (20, 36))).startswith("⚠ The judge is CLIP: it reads 26 of 48")


@pytest.mark.parametrize(
    "psnr, words",
    [(44.5, "less than you can see (44.5 dB"), (33, "a little"), (25, "visibly"), (12, "other pictures"),
     (float("inf"), "same to the bit")],
)  # fmt: skip
def test_a_change_of_kept_pictures_is_said_in_words(psnr, words):
    assert words in likeness(row(psnr=psnr, identical=Share(12 if psnr > 99 else 0, 12)))
    assert likeness(row()) == ""


def test_several_models_are_named():
    rows = [BEFORE, row((12, 12), (36, 36), "a"), row((0, 12), (36, 36), "b")]
    lines = sentences(rows, "CLIP", "", "")
    assert lines[0].startswith("a: ✓ Gone") and lines[1].startswith("b: ✗ Still there")
    assert sentences([row(), row()], "", "Doubt.", "Not counted.") == ["Doubt.", "Not counted."]


def test_few_pictures_are_doubted():
    assert too_few(Share(0, 4)) == too_few(None) == ""
    rows = [row((0, 3), (9, 9), "before"), row((3, 3), (9, 9))]
    assert sentences(rows, "CLIP", "", "")[1].startswith("⚠ Too few pictures of the concept to be sure (3)")
