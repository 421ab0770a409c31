"""Find Strength: which strengths are tried, which of them erases, and what the node gives out."""

import json

import pytest
import torch

from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.evaluation import strength as strength_module
from concept_erasure.erasure.evaluation.curve import Value, curve
from concept_erasure.erasure.evaluation.metrics import Share
from concept_erasure.erasure.evaluation.report import Drawing, Prompt, Row, read_prompts
from concept_erasure.erasure.evaluation.strength import (
    How,
    Point,
    StrengthReport,
    between,
    find_strength,
    read_strengths,
)
from concept_erasure.erasure.files import load_erasure
from concept_erasure.nodes.strength import ErasureFindStrength
from tests.host.test_fit import sentence
from tests.host.test_report import HOW
from tests.host.test_schema import REPO
from tests.host.tools import make_erasure, only_prompt
from toyworld.node.judge import of_toy_world

ERASE, KEEP = "a red circle | circle\na blue circle | circle", "a red star | star"
PROMPTS = read_prompts(ERASE, KEEP)


def point(strength: float, gone: int | None = None, kept: int = 3, moved: float | None = None) -> Point:
    esr = {} if gone is None else {1: Share(gone, 4)}
    psr = {} if gone is None else {1: Share(kept, 3)}
    row = Row(f"{strength:g}", esr, psr, psnr=40.0 if strength else None)
    return Point(strength, row, moved, torch.zeros(len(PROMPTS), 8, 8, 3, dtype=torch.uint8))


def report(*points: Point, enough: float = 1.0) -> StrengthReport:
    return StrengthReport(points, How(enough=enough), PROMPTS, Drawing((0,)))


@pytest.mark.parametrize("text, strengths", [("1, 0.5", [0.5, 1]), ("0\n.25;2 | 2", [0.25, 2]), ("1", [1])])
def test_strengths_are_read_in_order_and_once(text, strengths):
    assert read_strengths(text) == strengths


@pytest.mark.parametrize("text", ["", "0", "half", "3", "-1", "nan", " ".join(str(i / 100) for i in range(1, 40))])
def test_what_are_no_strengths_is_refused(text):
    with pytest.raises(ErasureError) as caught:
        read_strengths(text)
    assert "'strengths'" in sentence(caught)


def test_the_next_strength_lies_between_the_last_that_fails_and_the_first_that_erases():
    assert between([point(0, 0), point(0.5, 1), point(1, 4)], 1.0) == 0.75
    assert between([point(0, 4), point(0.5, 4)], 1.0) == 0.25
    assert between([point(0, 0), point(0.5, 1), point(1, 3)], 1.0) is None
    assert between([point(0, 0), point(0.5, 1), point(1, 3)], 0.75) == 0.75
    assert between([point(0, 0), point(0.5, 1), point(0.51, 4)], 1.0) is None


def test_the_smallest_strength_that_erases_is_said_first_and_doubts_after_it():
    result = report(point(0, 0), point(0.5, 4, kept=2), point(1, 3))
    assert result.strength == 0.5
    assert result.headline() == (
        "✓ 0.5 is the smallest strength that erases: gone in 4 of 4, everything else kept in 2 of 3 (unedited 3)."
    )
    assert "at 1 it is back" in result.text() and "Strength 1: gone in 3 of 4 [" in result.text()
    assert "does not show it in 3 of 4" in report(point(0, 3), point(1, 4)).text()


def test_where_none_erases_the_nearest_is_given_and_said():
    result = report(point(0, 0), point(0.5, 2), point(1, 2))
    assert result.strength == 0.5 and result.headline().startswith("✗ No strength up to 1 erases. 0.5 comes nearest")
    assert not json.loads(result.json())["erases"]


def test_without_a_judge_the_way_that_the_concept_moved_decides():
    result = report(point(0, moved=0.0), point(0.5, moved=0.4), point(1, moved=0.9))
    assert result.strength == 1 and "moved 90 % of the way; no judge" in result.headline()
    unknown = report(point(0), point(1))
    assert "have it counted" in unknown.headline() and unknown.curve().ndim == 4


def test_a_curve_marks_the_strength_and_rises_with_the_share():
    line = [Value(0, 0, 0, 0.4), Value(1, 1, 0.6, 1)]
    plain, marked = curve("t", "strength", {"gone": line}), curve("t", "strength", {"gone": line}, 0.5)
    assert plain.shape == marked.shape and float(plain.min()) >= 0 and float(plain.max()) == 1
    changed = (plain != marked).any(-1)[0].nonzero()
    assert 440 < changed[:, 1].float().median() < 540  # half way across
    colour = (plain[0] * 255).round() == torch.tensor([200.0, 50, 40])
    red = colour.all(-1).nonzero().float()
    left, right = (red[(red[:, 1] > low) & (red[:, 1] < low + 15), 0].mean() for low in (80, 925))
    assert left > 400 > 200 > right


@pytest.fixture(scope="module")
def found(toys):
    """The node on the toy world, with an erasure that was trained."""
    erasure = load_erasure(REPO / "toyworld" / "erasures" / "circle.safetensors")
    how = {**HOW, "pictures": 1, "steps": 8, "filename_prefix": "erasures/strength"}
    return lambda **more: ErasureFindStrength.execute(
        toys.model, erasure, toys.clip, toys.vae, ERASE, KEEP, "0.2, 1", 1, 1.0, **{**how, **more}
    )


def test_the_smallest_strength_is_found_on_the_toy_world(found, output):
    with torch.inference_mode():
        out = found(judge=of_toy_world())
    strength, sheet, picture, text, scores = out.result
    told = json.loads(scores)
    assert [p["strength"] for p in told["points"]] == [0, 0.2, 0.6, 1]
    assert told["points"][0]["gone"]["hits"] == 0 and told["points"][-1]["gone"]["hits"] == 2
    assert 0.2 < strength <= 1
    assert text.startswith(f"✓ {strength:g} is the smallest strength that erases: gone in 2 of 2")
    assert "The judge is Toy World Judge." in text
    assert len(out.ui["images"]) == 1 + len(sheet) and picture.shape[0] == 1
    assert json.loads((output / "erasures" / "strength_00001.json").read_text(encoding="utf-8")) == told


def test_what_is_wrong_is_said_before_anything_is_drawn(model, clip, world, monkeypatch):
    monkeypatch.setattr(strength_module, "draw", lambda *_: pytest.fail("drawn"))
    erasure = make_erasure(model, clip)
    with pytest.raises(ErasureError, match="no prompts that ask for the concept"):
        find_strength(model, erasure, clip, world[2], [Prompt("star", "star", False)], Drawing((0,)))
    key = make_erasure(model, clip, role="key", delta=False)
    with pytest.raises(ErasureError, match="only a key"):
        find_strength(model, only_prompt(key), clip, world[2], PROMPTS, Drawing((0,)))
