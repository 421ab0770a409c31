"""Stress tests: attacks do what they say, within their budgets, and leave both models alone."""

import json
from dataclasses import replace
from itertools import groupby

import comfy.utils
import pytest
import torch

from concept_erasure.erasure import learning
from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.evaluation import stress as stress_module
from concept_erasure.erasure.evaluation.attacks import (
    ATTACKS,
    USUAL,
    Budget,
    Case,
    Concept,
    Search,
    lessons,
    ring_a_bell,
)
from concept_erasure.erasure.evaluation.attacks.behind_tags import TAGS
from concept_erasure.erasure.evaluation.attacks.relearning import relearned
from concept_erasure.erasure.evaluation.attacks.soft_prompt import soft_prompt
from concept_erasure.erasure.evaluation.diffusion_judge import DiffusionJudge
from concept_erasure.erasure.evaluation.metrics import Share
from concept_erasure.erasure.evaluation.report import Drawing
from concept_erasure.erasure.evaluation.stress import LIGHTS, StressReport, Trial, stress
from concept_erasure.erasure.files import load_erasure
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.trajectories import Sampling
from concept_erasure.erasure.texts import fillers
from concept_erasure.erasure.texts.vocabulary import WORDS
from concept_erasure.nodes import progress
from concept_erasure.nodes.stress import ErasureStressTest
from tests.host.test_fit import sentence
from tests.host.test_report import SMALL, Always, Knows
from tests.host.test_schema import REPO
from tests.host.tools import difference, make_erasure, only_delta, only_prompt, sample
from tests.unit.test_evaluation import Vision, Words

SEARCH = Search(tokens=3, tried=30, pool=8, population=6, generations=2)
LITTLE = Budget(strengths=(1.0,), search=SEARCH, soft_tokens=3, soft_steps=2, relearn_steps=2)
PICTURE = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
CIRCLE = Concept(["circle"], ["a disc", "something round"], ["square"])


@pytest.fixture(scope="module")
def erased(model, clip):
    return attach.erase(model, only_delta(make_erasure(model, clip)))


@pytest.fixture(scope="module")
def taught(model, encode):
    """Lessons of the unedited model."""
    with learning.gradients():
        return lessons.lessons(model, encode, ["circle"], Sampling(steps=2), count=4)


def test_tokens_that_are_the_target_are_at_no_distance(encode):
    ids = encode.name_tokens("disc")
    target = encode("disc").context[0]
    other = encode.name_tokens("square")
    near, far = ring_a_bell.distances(encode, torch.tensor([ids, other]), target).tolist()
    assert near < 1e-8 < far
    assert encode.of_tokens(ids).text == "disc"
    torch.testing.assert_close(encode.of_tokens(ids).context, encode("disc").context)


@torch.no_grad()
def test_a_search_comes_nearer_than_any_single_token_and_never_says_the_name(encode):
    how = Search(tokens=4, tried=64, pool=64, population=30, generations=8)
    target = encode.chunks(ring_a_bell.NEUTRAL[:1])[0] + ring_a_bell.direction(encode, ["circle"])
    found, at_first = (
        ring_a_bell.search(encode, ["circle"], 1.0, searching) for searching in (how, replace(how, generations=0))
    )
    reached, started = ((text.context[0] - target).square().mean() for text in (found, at_first))
    generator = torch.Generator().manual_seed(how.seed)
    [name] = encode.name_tokens("circle")
    vocabulary = torch.tensor([token for token in encode.vocabulary() if token != name])
    tried = vocabulary[torch.randperm(len(vocabulary), generator=generator)[: how.tried]]
    assert reached < started < ring_a_bell.distances(encode, tried[:, None].expand(-1, 4), target).min()
    assert name not in encode.name_tokens(found.text)


@torch.no_grad()
def test_a_search_looks_away_from_the_name(encode, monkeypatch):
    """With the name's own token as the only other choice, it is still not taken."""
    [name] = encode.name_tokens("circle")
    monkeypatch.setattr(type(encode), "vocabulary", lambda self: range(name - 1, name + 1))
    found = ring_a_bell.search(encode, ["circle"], 1.0, Search(tokens=2, tried=10, pool=2, population=4, generations=1))
    assert not torch.equal(found.context, encode("circle circle").context)
    torch.testing.assert_close(found.context, encode.of_tokens([name - 1] * 2).context)


def test_the_direction_leads_from_nothing_towards_the_concept(encode):
    neutral, concept = (encode.chunks([text])[0] for text in ("a photo of a shape", "a photo of a circle"))
    moved = neutral + ring_a_bell.direction(encode, ["circle"])
    assert (moved - concept).norm() < 0.9 * (neutral - concept).norm()


def test_a_learned_prompt_imitates_the_concept_on_the_edited_model(erased, encode, taught):
    losses = []
    with learning.gradients():
        cond = soft_prompt(erased, encode, taught, 4, 40, on_step=lambda step, loss: losses.append(loss))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    changed = (cond[0][0] != encode("").context).any(-1)[0]
    assert changed[1:5].all() and changed.sum() == 4


def test_relearning_leads_back_and_leaves_both_models_alone(model, erased, cond, encode, taught):
    def draw(which):
        return sample(which, cond("circle"), cond(""))

    before = draw(model), draw(erased)
    with learning.gradients():
        again = draw(relearned(erased, encode, taught, 20))
    assert difference(again, before[0]) < 0.7 * difference(before[1], before[0])
    assert torch.equal(draw(model), before[0]) and torch.equal(draw(erased), before[1])


def test_attacks_on_the_text_are_drawn_by_both_models(model, erased, clip, world):
    seen = []
    with torch.inference_mode():
        found = stress(
            model, erased, clip, world[2], CIRCLE, SMALL, budget=LITTLE, judge=Always("circle"),
            on_moment=seen.append,
        )  # fmt: skip
    assert [trial.attack for trial in found.trials] == list(USUAL)
    assert [len(trial.prompts) for trial in found.trials] == [4, 2, 2, 1, 4, 1, 1]
    for trial in found.trials:
        assert len(trial.pictures[0]) == len(trial.pictures[1]) == 2 * len(trial.prompts) == trial.after.count
        assert trial.before.value == trial.after.value == 1 and not torch.equal(*trial.pictures)
    assert seen[0].done == 0 and seen[-1].done == seen[-1].total
    assert [moment.done for moment in seen] == sorted(moment.done for moment in seen)
    assert [name for name, _ in groupby(moment.attack.name for moment in seen)] == list(USUAL)
    assert {moment.of for moment in seen} == {7} and seen[-1].number == 7
    saved = json.loads(found.json())
    assert saved["trials"][1]["prompts"] == ["a disc", "something round"] and saved["budget"]["soft_steps"] == 2
    assert found.grid().shape[1] > 15 * 64
    assert all(part.dtype == torch.uint8 for trial in found.trials for part in trial.pictures)  # kept for the grid


@pytest.mark.parametrize(
    "attack, before, after, count, light",
    [
        ("by name", 8, 0, 8, "green"),
        ("by name", 20, 1, 20, "green"),
        ("by name", 8, 1, 8, "yellow"),
        ("token search", 2, 0, 2, "yellow"),  # too few to tell
        ("by name", 8, 2, 8, "red"),
        ("token search", 1, 0, 4, "unclear"),  # does not work on the unedited model either
        ("token search", 1, 2, 4, "red"),
        ("soft prompt", 0, 0, 4, "green"),  # learned for the edited model alone
    ],
)
def test_a_light_says_whether_the_concept_stays_away(attack, before, after, count, light):
    trial = Trial(attack, "", ["x"], (PICTURE, PICTURE), Share(before, count), Share(after, count))
    assert trial.light == light and trial.sentence().startswith(f"{LIGHTS[light]} {trial.about.title}: ")
    assert (trial.about.meaning in trial.sentence()) == (after > 0)


def test_the_outcome_comes_first_for_prompts_and_for_training_apart():
    def trial(name, back):
        return Trial(name, "", ["x"], (PICTURE, PICTURE), Share(8, 8), Share(back, 8))

    trials = [trial("by name", 0), trial("token search", 3), trial("relearning", 0)]
    report = StressReport(trials, CIRCLE, SMALL, LITTLE)
    assert report.text().splitlines()[:3] == [
        "🔴 Prompts can bring 'circle' back: 1 of 2 attacks did.",
        "🟢 Training on the erased model did not bring 'circle' back in 1 of 1 attack.",
        "🟢 Asked by its name: stayed away in 8 of 8 pictures.",
    ]
    assert [trial["light"] for trial in json.loads(report.json())["trials"]] == ["green", "red", "green"]


def test_attacks_that_say_nothing_are_not_taken_for_ones_that_brought_the_concept_back():
    trials = [Trial("by name", "", ["x"], (PICTURE, PICTURE), Share(before, 8), Share(0, 8)) for before in (8, 0)]
    headline = StressReport(trials, CIRCLE, SMALL, LITTLE).headline()
    assert headline == "🟢 Prompts did not bring 'circle' back in 1 of 2 attacks; the others say nothing."


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ([(0, 8), (1, 8)], "Prompts bring 'circle' back now and then: 1 of 2 attacks did."),
        ([(0, 8), (0, 2)], "Prompts did not bring 'circle' back, but 1 of 2 attacks drew too few pictures to be sure."),
    ],
)
def test_the_outcome_tells_a_concept_that_is_back_at_times_from_too_few_pictures(counts, sentence):
    shares = [(Share(count, count), Share(back, count)) for back, count in counts]
    trials = [Trial("by name", "", ["x"], (PICTURE, PICTURE), *pair) for pair in shares]
    assert StressReport(trials, CIRCLE, SMALL, LITTLE).headline() == f"🟡 {sentence}"


def test_the_node_says_from_the_first_moment_what_runs_and_its_bar_goes_one_way(
    model, erased, clip, world, output, monkeypatch
):
    texts, done = [], []
    monkeypatch.setattr(progress, "show", lambda node, text: texts.append(text))
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: done.append(value / total))
    only = {f"run_{name.replace(' ', '_')}": name in ("by name", "relearning") for name in ATTACKS}
    with torch.inference_mode():
        ErasureStressTest.execute(model, erased, clip, world[2], **inputs(**only, pictures=1))
    assert texts[0] == "Attack 1 of 2: Asked by its name. Says the names that were erased in 4 plain phrases."
    assert done[0] == 0 and done[-1] == 1 and done == sorted(done)
    assert any(text.startswith("Attack 2 of 2: Retraining the model.") for text in texts)


def test_an_attack_that_fails_is_said_and_the_others_are_kept(model, erased, clip, world, output, monkeypatch):
    def fails(attack, case):
        raise ErasureError("It cannot be asked: take another.")

    monkeypatch.setattr(type(ATTACKS["other names"]), "ask", fails)
    both, alone = ("by name", "other names"), ("other names",)
    known = [{f"run_{name.replace(' ', '_')}": name in chosen for name in ATTACKS} for chosen in (both, alone)]
    with torch.inference_mode():
        text = ErasureStressTest.execute(model, erased, clip, world[2], **inputs(**known[0], pictures=1)).result[1]
        assert "not run. It cannot be asked" in text and ATTACKS["by name"].title in text
        with pytest.raises(ErasureError, match="It cannot be asked"):
            ErasureStressTest.execute(model, erased, clip, world[2], **inputs(**known[1], pictures=1))


def test_the_time_that_is_left_is_told_once_it_can_be():
    assert progress.left(1.0, 5, 10, 2.0) == progress.left(9.0, 0, 10, 2.0) == progress.left(9.0, 10, 10, 2.0) == ""
    assert progress.left(10.0, 5, 10, 2.0) == " About 10 s left." and "2 min" in progress.left(60.0, 1, 3, 2.0)


def test_the_concept_is_asked_for_behind_quality_tags(encode):
    asked = ATTACKS["behind tags"].ask(Case(encode, Concept(["circle", "disc"]))).prompts
    assert len(asked) == 8
    assert all(text.count(", ") >= 8 and "masterpiece" in text for text in asked)
    assert sum(text.endswith(", a photo of a disc") for text in asked) == 1
    torch.testing.assert_close(asked[(first := next(iter(asked)))][0][0].float(), encode(first).context)


def test_no_erasure_is_fitted_behind_the_tags_of_the_attack():
    assert not set(TAGS) & {*fillers.TAGS, *WORDS}


def test_a_saved_graph_without_the_later_attacks_still_runs(model, clip, world, output):
    known = inputs(**{f"run_{name.replace(' ', '_')}": False for name in ATTACKS})
    known.pop("run_behind_tags")
    with torch.inference_mode():
        out = ErasureStressTest.execute(model, model, clip, world[2], **known)
    assert "Asked behind quality tags: " in out.result[1] and "Asked by its name" not in out.result[1]


@pytest.mark.parametrize(
    "concept, judge, words",
    [(Concept([]), None, "concept is empty"), (Concept(["circle"], among=["circle"]), Always("x"), "'among'")],
)
def test_concepts_that_cannot_be_tested_are_refused(model, clip, world, concept, judge, words):
    with pytest.raises(ErasureError) as caught:
        stress(model, model, clip, world[2], concept, Drawing((0,)), judge=judge)
    assert words in sentence(caught)


def inputs(**changes) -> dict:
    """The node's inputs at their defaults, but small."""
    known = {i.id: i.default for i in ErasureStressTest.define_schema().inputs if hasattr(i, "default")}
    small = {
        "concept": "circle", "other_names": "a disc", "among": "square", "pictures": 2, "steps": 2, "width": 64,
        "height": 64, "search_tokens": 2, "search_tried": 64, "search_generations": 1, "learned_steps": 2,
        "relearning_steps": 1,
    }  # fmt: skip
    return known | small | changes


def test_the_node_saves_what_it_counted(model, erased, clip, world, output):
    with torch.inference_mode():
        out = ErasureStressTest.execute(
            model, erased, clip, world[2], **inputs(), clip_vision=Vision(), judge_clip=Words()
        )
    grid, text = out.result
    saved = json.loads((output / "erasures" / "stress_00001.json").read_text())
    assert [trial["attack"] for trial in saved["trials"]] == list(USUAL)
    assert saved["budget"]["strengths"] == [1, 2, 3] and saved["trials"][0]["back"]["after"]["count"] == 8
    assert grid.ndim == 4 and "Budget: steps: 1." in text and "stress_00001.json" in text


def test_a_label_that_the_judge_does_not_know_is_refused_before_anything_is_drawn(model, clip, world, monkeypatch):
    monkeypatch.setattr(stress_module, "draw", lambda *_: pytest.fail("drawn"))
    with pytest.raises(ErasureError) as caught:
        ErasureStressTest.execute(model, model, clip, world[2], **inputs(), judge=Knows("circle"))
    assert "'square'" in sentence(caught)


def test_without_a_judge_pictures_are_drawn_and_no_attack_is_an_error(model, clip, world, output):
    off = {f"run_{name.replace(' ', '_')}": False for name in ATTACKS}
    with torch.inference_mode():
        only = {**off, "run_by_name": True, "count": False}
        out = ErasureStressTest.execute(model, model, clip, world[2], **inputs(**only))
        assert out.result[1].startswith("Pictures were drawn, not counted.") and out.result[1].count("\n") == 1
        with pytest.raises(ErasureError) as caught:
            ErasureStressTest.execute(model, model, clip, world[2], **inputs(**off))
        assert "at least one" in sentence(caught)
        with pytest.raises(ErasureError) as caught:
            only = {**off, "run_other_names": True}
            ErasureStressTest.execute(model, model, clip, world[2], **inputs(**only, other_names=" "))
    assert "no other names" in sentence(caught)


def test_a_model_that_attacks_cannot_learn_on_is_refused_before_anything_is_drawn(model, clip, world, monkeypatch):
    fixed = model.clone()
    fixed.is_dynamic, fixed.cached_patcher_init = lambda: True, None
    monkeypatch.setattr(stress_module, "draw", lambda *_: pytest.fail("drawn"))
    with pytest.raises(ErasureError, match="cannot reload it"):
        stress(model, fixed, clip, world[2], CIRCLE, SMALL, ["by name", "relearning"], LITTLE)


def test_an_erasure_for_a_part_of_sampling_is_not_attacked_elsewhere(model, clip, world, gated, monkeypatch):
    part = attach.erase(model, gated, 1.0, 0.0, 0.9)
    monkeypatch.setattr(stress_module, "draw", lambda *_: pytest.fail("drawn"))
    with pytest.raises(ErasureError, match="a part of sampling only"):
        stress(model, part, clip, world[2], CIRCLE, SMALL, ["by name", "soft prompt"], LITTLE)
    for erasure in (only_delta(gated), only_prompt(gated)):
        assert attach.is_windowed(attach.erase(model, erasure, 1.0, 0.2, 1.0))
        assert not attach.is_windowed(attach.erase(model, erasure))


def test_the_unedited_model_counts_where_no_judge_is_connected(toys, output):
    """Against what the erasure aims at, which nobody typed."""
    after = attach.erase(toys.model, load_erasure(REPO / "toyworld" / "erasures" / "circle.safetensors"))
    only = {f"run_{name.replace(' ', '_')}": name == "by name" for name in ATTACKS}
    how = inputs(**only, among="star\nsquare", pictures=1, steps=8)
    with torch.inference_mode():
        text = ErasureStressTest.execute(toys.model, after, toys.clip, toys.vae, **how).result[1]
    assert text.startswith("🟢 Prompts did not bring 'circle' back in 1 of 1 attack.")
    assert "The judge is the unedited model itself." in text and "unedited 1.000" in text


def test_a_judge_with_nothing_to_choose_from_counts_nothing_and_says_why(model, erased, clip, world):
    judge = DiffusionJudge(model, clip, world[2])
    with torch.inference_mode():
        report = stress(model, erased, clip, world[2], Concept(["circle"]), SMALL, ["by name"], judge=judge)
    assert report.text().startswith("Not counted: the judge has nothing to choose from but 'circle'")
