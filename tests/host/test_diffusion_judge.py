"""The unedited model as judge, on the toy world: pictures whose content is known, and whole reports."""

import json
import random
from dataclasses import replace

import pytest
import torch

from concept_erasure.erasure.evaluation.diffusion_judge import MOST, DiffusionJudge, chosen, phrases
from concept_erasure.nodes.instant import ErasureText
from concept_erasure.nodes.report import ErasureReport
from tests import worlds
from toyworld.train import CHECKPOINT
from toyworld.world import FULL_CAPTIONS, KINDS, SHAPES, Scene, caption, render

SCENES = (Scene("heart", "red", "dotted"), Scene("circle", "blue", "plain"), Scene("star", "green", "checked"))
DRAWING = {
    "pictures": 2, "seed": 3, "steps": 8, "cfg": 4.5, "sampler": "euler", "scheduler": "normal", "width": 64,
    "height": 64, "filename_prefix": "erasures/report", "negative": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def toy():
    """(MODEL, CLIP, VAE) of the toy world."""
    return worlds.load(CHECKPOINT)


@pytest.fixture(scope="module")
def pictures():
    rng = random.Random(5)
    return torch.stack([torch.from_numpy(render(scene, rng)) for scene in SCENES]).float() / 255


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("told", [True, False], ids=["told the prompts", "labels alone"])
def test_it_reads_pictures_whose_content_is_known(toy, pictures, kind, told):
    shown = [getattr(scene, kind) for scene in SCENES]
    texts = [caption(scene, FULL_CAPTIONS[0]) for scene in SCENES] if told else ()
    judge = DiffusionJudge(*toy)
    assert judge.ranks(pictures, shown, list(KINDS[kind]), texts) == [0, 0, 0]


def test_a_label_that_a_picture_does_not_show_is_behind_the_one_that_it_shows(toy, pictures):
    asked = [replace(scene, shape="moon") for scene in SCENES]
    texts = [caption(scene, FULL_CAPTIONS[0]) for scene in asked]
    assert min(DiffusionJudge(*toy).ranks(pictures, ["moon"] * 3, list(SHAPES), texts)) > 0


def test_labels_are_said_where_the_prompt_says_its_own():
    assert phrases("A Red barn, reddish", "red", ["red", "blue"]) == ["A red barn, reddish", "A blue barn, reddish"]
    assert phrases("a portrait", "Van Gogh", ["Van Gogh"]) == ["a picture of a Van Gogh"]
    many = [str(i) for i in range(30)]
    assert chosen("29", many) == ["29", *many[: MOST - 1]]


def test_a_report_without_a_judge_is_counted_by_the_unedited_model(toy, output):
    with torch.inference_mode():
        erased = ErasureText.execute(toy[0], toy[1], "circle").args[0]
        out = ErasureReport.execute(
            toy[0], erased, toy[1], toy[2], "a red circle on a plain background | circle",
            "a blue square on a dotted background | square", **DRAWING,
        )  # fmt: skip
    first, few, second, third, legend, fourth, *_ = out.result[1].splitlines()
    assert first == "✓ Gone in 2 of 2 pictures; everything else kept in 2 of 2."
    assert few.startswith("⚠ Too few pictures of the concept to be sure (2)")
    assert "the unedited model itself: it reads 4 of 4 pictures" in second
    assert third.startswith("Kept pictures") and legend.startswith("ESR-k: the share") and fourth == "after:"
    saved = json.loads((output / "erasures" / "report_00001.json").read_text())
    assert saved["verdict"][0] == first and saved["accuracy"]["hits"] == 4
    subject = saved["subject"]
    assert subject["model"] == "toyworld.safetensors" and subject["erasures"][0]["moves"].startswith("circle → ")


def test_one_label_alone_is_not_counted_and_said(toy, output):
    with torch.inference_mode():
        out = ErasureReport.execute(toy[0], toy[0], toy[1], toy[2], "circle", "", **{**DRAWING, "steps": 1})
    assert out.result[1].startswith("Not counted: the judge has nothing to choose from but 'circle'.")
