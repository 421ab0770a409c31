"""Reports: the same noise for every model, what is counted, and what the nodes leave behind."""

import json
from types import SimpleNamespace

import comfy.utils
import folder_paths
import pytest
import torch
import torch.nn.functional as F

from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.evaluation import report
from concept_erasure.erasure.evaluation.grid import CELL, SIDE
from concept_erasure.erasure.evaluation.judges import ClipJudge
from concept_erasure.erasure.evaluation.report import Drawing, Prompt, compare, draw, read_prompts
from concept_erasure.erasure.evaluation.subject import Subject
from concept_erasure.erasure.evaluation.wording import NOT_COUNTED
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.texts.encoder import Encoder
from concept_erasure.nodes import report as nodes
from concept_erasure.nodes.report import THUMBNAIL, ErasureCompare, ErasureReport
from tests.host.test_fit import sentence
from tests.host.tools import make_erasure
from tests.unit.test_evaluation import Mirrored, Vision, Words

SMALL = Drawing(seeds=(3, 4), steps=2, width=64, height=64)
HOW = {
    "pictures": 2, "seed": 3, "steps": 2, "cfg": 3.0, "sampler": "euler", "scheduler": "normal", "width": 64,
    "height": 64, "filename_prefix": "erasures/report", "negative": "",
}  # fmt: skip


class OtherWords(Words):
    """Half of another CLIP."""

    def encode_from_tokens(self, text, return_pooled):
        return None, torch.ones(1, 5)


class Always:
    """A judge that sees the same label in every picture."""

    def __init__(self, seen: str):
        self.seen = seen

    def ranks(self, pictures, labels, among):
        assert pictures.shape[1:] == (64, 64, 3) and 0 <= float(pictures.min()) <= float(pictures.max()) <= 1
        return [0 if label == self.seen else 1 + list(among).index(label) for label in labels]


class Knows:
    """A judge that refuses all labels but one."""

    def __init__(self, known: str):
        self.known = known

    def ranks(self, pictures, labels, among):
        unknown = [label for label in among if label != self.known]
        if unknown:
            raise ErasureError(f"This judge does not know '{unknown[0]}': type another label.")
        return [0 for _ in labels]


def test_prompts_come_with_labels():
    found = read_prompts("a church in snow | church\nchapel", "a red barn|barn\n\n")
    assert found == [
        Prompt("a church in snow", "church", True),
        Prompt("chapel", "chapel", True),
        Prompt("a red barn", "barn", False),
    ]


@pytest.mark.parametrize("erase, keep, word", [(" ", "\n", "no prompts"), ("x | a", "y | a", "'a'")])
def test_prompts_that_cannot_be_used_are_refused(erase, keep, word):
    with pytest.raises(ErasureError) as caught:
        read_prompts(erase, keep)
    assert word in sentence(caught)


def test_a_seed_draws_the_same_picture_alone_and_in_company(model, clip, world):
    encode = Encoder(clip)
    with torch.inference_mode():
        conds = encode("circle").cond, encode("").cond
        both = draw(model, world[2], *conds, SMALL)
        alone = draw(model, world[2], *conds, Drawing(seeds=(4,), steps=2, width=64, height=64))
    assert both.shape == (2, 64, 64, 3) and not torch.equal(both[0], both[1])
    torch.testing.assert_close(both[1], alone[0], atol=2e-3, rtol=0)


@torch.inference_mode()
def test_what_is_counted_is_what_the_judge_saw(model, clip, world):
    prompts = read_prompts("a circle | circle", "a square | square\nred")
    erased = attach.erase(model, make_erasure(model, clip))
    seen = []
    models = {"before": model, "again": model, "after": erased}
    found = compare(models, clip, world[2], prompts, SMALL, Always("square"), lambda *step: seen.append(step[:2]))
    assert seen == [(i, 9) for i in range(1, 10)]
    before, again, after = found.rows
    assert (before.esr[1].hits, before.esr[1].count) == (2, 2)
    assert (before.psr[1].hits, before.psr[1].count) == (2, 4)
    assert before.identical is None
    assert (again.identical.hits, again.identical.count, again.psnr) == (4, 4, float("inf"))
    assert after.identical.count == 4 and not torch.equal(found.pictures[0][:2], found.pictures[2][:2])
    assert "ESR-1 1.000 [0.342, 1.000] of 2" in found.text()


@torch.inference_mode()
def test_the_grid_shows_every_picture_under_its_model(model, clip, world):
    prompts = read_prompts("a circle in a very long prompt that does not fit into one line of a label", "square")
    found = compare({"before": model, "after": model}, clip, world[2], prompts, SMALL)
    sheet = found.grid()
    assert sheet.shape[0] == 1 and sheet.shape[1] > 2 * 64 and sheet.shape[2] > 4 * 64
    assert float(sheet.min()) >= 0 and float(sheet.max()) == 1.0
    assert found.rows[0].esr == {} and json.loads(found.json())["rows"][1]["psnr"] is None


@pytest.fixture
def quick(monkeypatch):
    """Pictures that nobody draws, another one for every model and seed."""

    def draw(model, vae, positive, negative, how):
        shades = torch.tensor([(seed % 7 + model) / 20 for seed in how.seeds])
        return shades[:, None, None, None].expand(-1, how.height, how.width, 3).clone()

    monkeypatch.setattr(report, "Encoder", lambda clip: lambda text: SimpleNamespace(cond=text))
    monkeypatch.setattr(report, "draw", draw)
    monkeypatch.setattr(nodes, "subject_of", lambda *_: Subject())


@pytest.mark.parametrize(
    "prompts, size", [(300, (256, 256)), (3, (4096, 2048)), (3, (16, 4096))], ids=["many", "large", "tall"]
)
def test_nothing_that_the_editor_gets_is_larger_than_it_can_take(quick, monkeypatch, output, prompts, size):
    """A preview of more than 65,500 pixels a side ended the host's process."""
    previews = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda done, total, shown, node_id: previews.append(shown))
    width, height = size
    how = {**HOW, "pictures": 1, "width": width, "height": height, "count": False}
    out = ErasureReport.execute(1, 2, None, None, "\n".join(f"a circle {i}" for i in range(prompts)), "", **how)
    sheets, *_ = out.result
    assert len(previews) == 2 * prompts + 1
    assert all(max(image.size) <= THUMBNAIL and limit is None for _, image, limit in previews[:-1])
    assert max(previews[-1][1].size) <= SIDE and max(sheets.shape[1:3]) <= SIDE
    assert len(out.ui["images"]) == len(sheets) and (prompts < 300 or len(sheets) > 1)
    assert out.ui["text"][0].startswith(NOT_COUNTED) and out.ui["text"][0].endswith("erasures/report_00001.json.")


def test_no_full_sized_picture_is_kept(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    prompts = read_prompts("a circle", "\n".join(f"square {i}" for i in range(20)))
    found = compare({"a": 1, "b": 2}, None, None, prompts, Drawing(seeds=(3, 4), width=640, height=320))
    assert all(part.shape == (42, CELL // 2, CELL, 3) and part.dtype == torch.uint8 for part in found.pictures)
    assert found.rows[1].identical.count == 40 and found.rows[1].psnr == pytest.approx(26.02, abs=0.01)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("judge", [Always("square"), ClipJudge(Vision(), Words())], ids=["another", "clip"])
def test_the_scores_are_the_same_however_many_pictures_are_judged_at_a_time(quick, monkeypatch, judge):
    prompts = read_prompts("red | red\nblack | black", "blue | blue\nwhite | white\nsquare | square")

    def rows(held):
        monkeypatch.setattr(report, "HELD", held)
        return compare({"a": 1, "b": 2, "c": 1}, None, None, prompts, SMALL, judge).rows

    together, apart = rows(10**9), rows(1)
    assert together[2].identical.hits == 6 and together[1].identical.hits == 0
    for one, other in zip(together, apart, strict=True):
        assert (one.esr, one.psr, one.psnr) == (other.esr, other.psr, other.psnr)
        assert one.clip_score == pytest.approx(other.clip_score) and one.clip_i == pytest.approx(other.clip_i)


def test_the_report_node_saves_json_and_counts_with_clip(model, clip, world, output):
    erased = attach.erase(model, make_erasure(model, clip))
    with torch.inference_mode():
        out = ErasureReport.execute(
            model, erased, clip, world[2], "a red thing | red", "a blue thing | blue", **HOW,
            clip_vision=Vision(), judge_clip=Words(),
        )  # fmt: skip
    grid, text, _ = out.result
    saved = json.loads((output / "erasures" / "report_00001.json").read_text())
    assert [row["name"] for row in saved["rows"]] == ["before", "after"]
    assert saved["drawing"]["seeds"] == [3, 4] and saved["prompts"][0]["label"] == "red"
    assert set(saved["rows"][1]["esr"]) == {"1"} and saved["rows"][1]["clip_i"] is not None
    assert set(saved["rows"][0]["clip_score"]) == {"erased", "kept"}
    assert grid.ndim == 4 and "report_00001.json" in text and "PSR-1" in text


def test_erasures_are_compared_beside_the_unedited_model(model, clip, world, output):
    erasures = {"erasure0": make_erasure(model, clip), "erasure1": make_erasure(model, clip, seed=2), "erasure2": None}
    with torch.inference_mode():
        ErasureCompare.execute(model, clip, world[2], "circle", "square", erasures, **HOW, count=False)
    saved = json.loads((output / "erasures" / "report_00001.json").read_text())
    assert [row["name"] for row in saved["rows"]] == ["unedited", "circle (kpop)", "circle (kpop) (2)"]


def test_a_judge_of_another_kind_counts(model, clip, world, output):
    with torch.inference_mode():
        out = ErasureReport.execute(model, model, clip, world[2], "circle", "square", **HOW, judge=Always("circle"))
    assert "ESR-1 0.000" in out.result[1] and "PSR-1 0.000" in out.result[1] and "CLIP" not in out.result[1]


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"judge": Knows("star")}, "'circle'"),
        ({"judge": Always("star"), "clip_vision": Vision(), "judge_clip": Words()}, "two judges"),
        ({"filename_prefix": "../report"}, "not in the output folder"),
        ({"clip_vision": Vision(), "judge_clip": OtherWords()}, "belongs to the CLIP Vision model"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_drawn(model, clip, world, output, monkeypatch, wrong, words):
    monkeypatch.setattr(report, "draw", lambda *_: pytest.fail("drawn"))
    with pytest.raises(ErasureError) as caught:
        ErasureReport.execute(model, model, clip, world[2], "circle", "star", **{**HOW, **wrong})
    assert words in sentence(caught)


class Wide:
    """Half of a CLIP as wide as the toy world's text encoder."""

    def encode_image(self, image):
        return {"image_embeds": torch.ones(len(image), 96)}


@pytest.fixture
def projection(clip):
    """The last layer of CLIP's text half, which nothing that draws pictures uses; afterwards as it was."""
    weight = clip.cond_stage_model.clip_l.transformer.text_projection.weight
    before = weight.detach().clone()
    yield weight.data
    weight.data.copy_(before)


def test_texts_are_judged_behind_the_projection_that_the_host_leaves_out(clip, projection):
    projection.copy_(torch.randn(projection.shape, generator=torch.Generator().manual_seed(0)))
    _, pooled = clip.encode_from_tokens(clip.tokenize("circle"), return_pooled=True)
    found = ClipJudge(Wide(), clip).text("circle")
    torch.testing.assert_close(found, F.normalize(pooled[0] @ projection.float().T, dim=0))


def test_a_text_encoder_that_came_without_its_projection_is_refused(clip, projection):
    projection.zero_()
    with pytest.raises(ErasureError, match="lacks the projection"):
        ClipJudge(Wide(), clip).text("circle")


def test_a_doubtful_judge_is_said_above_the_scores(model, clip, world, output):
    with torch.inference_mode():
        out = ErasureReport.execute(
            model, model, clip, world[2], "red", "blue", **HOW, clip_vision=Vision(), judge_clip=Mirrored()
        )
    assert out.result[1].startswith("Do not rely on this judge")
    assert json.loads((output / "erasures" / "report_00001.json").read_text())["doubt"]


def test_half_a_judge_is_refused(model, clip, world):
    with pytest.raises(ErasureError) as caught:
        ErasureReport.execute(model, model, clip, world[2], "circle", "", **HOW, clip_vision=Vision())
    assert "both halves" in sentence(caught)
