"""Measures against values worked out by hand, and the zero-shot judge on a CLIP made of colours."""

import math
from itertools import groupby

import pytest
import torch

from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.evaluation.grid import GAP, grid
from concept_erasure.erasure.evaluation.judges import ClipJudge
from concept_erasure.erasure.evaluation.metrics import Share, cosine, drift, erasing, places, preserving, psnr, wilson
from concept_erasure.erasure.evaluation.sequence import Stage, sequence


@pytest.mark.parametrize(
    "hits, count, low, high", [(8, 10, 0.4902, 0.9433), (0, 24, 0.0, 0.1380), (24, 24, 0.8620, 1.0)]
)
def test_wilson_intervals_are_those_of_the_tables(hits, count, low, high):
    assert wilson(hits, count) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_nothing_counted_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0) and math.isnan(Share(0, 0).value) and str(Share(0, 0)) == "–"


def test_erasing_and_preserving_count_opposite_places():
    ranks = [0, 0, 1, 4]
    assert (erasing(ranks, 1).hits, erasing(ranks, 3).hits) == (2, 1)
    assert (preserving(ranks, 1).hits, preserving(ranks, 3).hits) == (2, 3)
    assert str(erasing(ranks)) == "0.500 [0.150, 0.850] of 4"


def test_places_count_what_scores_higher():
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 5.0, 5.0]])
    assert places(scores, [2, 1]) == [2, 0]


def test_drift_is_the_share_of_pictures_that_show_something_else():
    assert drift("aabb", "abab") == 0 and drift("aabb", "cccc") == 1
    assert drift(["dog", "dog", "cat", "owl"], ["cat"] * 2) == pytest.approx(0.75)


def test_pictures_are_compared_row_by_row():
    a = torch.zeros(2, 4, 4, 3)
    b = torch.stack([a[0], a[1] + 0.1])
    assert psnr(a, b) == [math.inf, pytest.approx(20.0, abs=1e-4)]
    assert cosine(torch.eye(2), torch.tensor([[2.0, 0.0], [1.0, 0.0]])).tolist() == [1.0, 0.0]


def test_a_sequence_tells_what_relapses_and_what_suffers():
    """A model is what was erased from it: the third erasure brings the first one back in one of two pictures, and
    takes the canary along."""

    def shown(erased: tuple[str, ...], name: str) -> list[bool]:
        relapse = name == "a" and len(erased) == 3
        lost = name in erased or (name == "canary" and len(erased) == 3)
        return [relapse or not lost, not lost]

    stages = sequence((), ["a", "b", "c"], lambda erased, name: (*erased, name), shown, ["canary"], ["far"], [2])
    assert stages == [
        Stage(2, gone=Share(4, 4), relapsed=Share(0, 2), canary=Share(2, 2), far=Share(2, 2)),
        Stage(3, gone=Share(5, 6), relapsed=Share(1, 4), canary=Share(0, 2), far=Share(2, 2)),
    ]


COLOURS = {
    "red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0), "black": (0, 0, 0), "white": (1, 1, 1)
}  # fmt: skip


class Vision:
    """Embeds a picture as its mean colour."""

    def encode_image(self, image):
        return {"image_embeds": image.mean((1, 2)) - 0.5}


class Words:
    """Embeds a text as the colour it names."""

    cond_stage_model = torch.nn.Module()

    def tokenize(self, text):
        return text

    def encode_from_tokens(self, text, return_pooled):
        named = [[value - 0.5 for value in colour] for name, colour in COLOURS.items() if name in text]
        return None, torch.tensor([[0.01, 0.02, 0.03], *named]).sum(0, keepdim=True)


class Mirrored(Words):
    """Half of another CLIP of the same width: every colour is where its opposite should be."""

    def encode_from_tokens(self, text, return_pooled):
        return None, -super().encode_from_tokens(text, return_pooled)[1]


def picture(*colour) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.float).expand(1, 6, 6, 3)


def test_the_zero_shot_judge_places_what_a_picture_shows():
    judge = ClipJudge(Vision(), Words())
    pictures = torch.cat([picture(1, 0.2, 0), picture(0, 0.2, 1), picture(0.5, 1, 0.2)] * 20)
    assert judge.ranks(pictures, ["red", "red", "red"] * 20, ["red", "green", "blue"]) == [0, 2, 1] * 20
    assert float(judge.label("red").norm()) == pytest.approx(1.0)


def test_halves_that_do_not_belong_together_are_refused():
    class Wide(Words):
        def encode_from_tokens(self, text, return_pooled):
            return None, torch.ones(1, 768)

    class Silent(Words):
        def encode_from_tokens(self, text, return_pooled):
            return None, None

    for clip, said in ((Wide(), "width 768"), (Silent(), "no text embedding")):
        with pytest.raises(ErasureError, match=said):
            ClipJudge(Vision(), clip).ranks(picture(1, 0, 0), ["red"], ["red"])
    with pytest.raises(ErasureError, match="both halves"):
        ClipJudge(None, Words())


def test_a_judge_that_cannot_name_colours_is_doubted():
    assert ClipJudge(Vision(), Words()).doubt() == ""
    assert ClipJudge(Vision(), Mirrored()).doubt().startswith("Do not rely on this judge, it names 0 of 6 plain")


@pytest.mark.parametrize("left_over", [[0.0, 0.0, 0.0], [0.0, 1e-4, 0.0], [0.3, float("nan"), 0.2]])
def test_a_text_encoder_without_its_projection_is_refused(left_over):
    """What comes out of a layer that was never loaded, as seen with the host's loader."""

    class Missing(Words):
        def encode_from_tokens(self, text, return_pooled):
            return None, torch.tensor([left_over])

    with pytest.raises(ErasureError, match="lacks the projection"):
        ClipJudge(Vision(), Missing()).text("red")


def test_headings_never_run_into_each_other():
    black = torch.zeros(1, 32, 32, 3)
    sheet = grid(["row"], ["a_heading_wider_than_its_picture", "1. another in several words", "b"], [black] * 3)[0]
    is_blank = (sheet == 1).all(2).all(0).tolist()
    gaps = [blank for blank, run in groupby(is_blank) if blank and len(list(run)) >= 2 * GAP]
    assert len(gaps) == 4  # behind the row's label, twice between columns, and behind the last
