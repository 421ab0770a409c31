"""Attacks that draw in another way: what they begin with, what they are seen beside, and what they find."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from comfy.lora import calculate_weight
from safetensors.torch import load_file, save_file

from benchmarks import probes
from concept_erasure.erasure import learning
from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.evaluation import stress as stress_module
from concept_erasure.erasure.evaluation.attacks import ATTACKS, USUAL, Budget, Concept, inpainting, inversion, lessons
from concept_erasure.erasure.evaluation.attacks.completion import handovers
from concept_erasure.erasure.evaluation.attacks.learned_embedding import Word, teach
from concept_erasure.erasure.evaluation.attacks.out_of_order import out_of_order, weights_of
from concept_erasure.erasure.evaluation.drawing import Drawing, Start, draw, sample
from concept_erasure.erasure.evaluation.metrics import Share
from concept_erasure.erasure.evaluation.stress import StressReport, Trial, stress
from concept_erasure.erasure.files import load_erasure
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.host.trajectories import Sampling
from concept_erasure.erasure.host.weights import Weights
from concept_erasure.nodes.stress import ErasureStressTest
from tests import families
from tests.host.test_report import SMALL
from tests.host.test_schema import REPO
from tests.host.test_stress import inputs as stress_inputs
from toyworld.node.judge import of_toy_world
from toyworld.world import SHAPES

TOY = Drawing((0, 1, 2, 3), 10, 3.0, width=64, height=64)
CIRCLE = Concept(["circle"], among=list(SHAPES))
SLOW = [name for name in ATTACKS if name not in USUAL]
PICTURE = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)


@pytest.fixture(scope="module")
def erased(toys):
    return attach.erase(toys.model, load_erasure(REPO / "toyworld" / "erasures" / "circle.safetensors"))


@pytest.fixture
def probed(toys, erased):
    """Runs one attack on the toy world: its trial, what was saved of it, and the report."""

    @torch.inference_mode()
    def run(attack: str, after=None, seen=None, **changes):
        budget, moments = Budget(**changes), [] if seen is None else seen
        report = stress(
            toys.model, after or erased, toys.clip, toys.vae, CIRCLE, TOY, [attack], budget, Shapes(toys.judge),
            moments.append,
        )  # fmt: skip
        [trial] = report.trials
        return trial, json.loads(report.json())["trials"][0], report

    return run


class Shapes:
    """The toy world's judge, which has pictures [n, 3, h, w]."""

    def __init__(self, judge):
        self.judge = judge

    def ranks(self, pictures, labels, among):
        return self.judge.ranks(pictures.permute(0, 3, 1, 2), labels)


@torch.inference_mode()
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "uni_pc"])
def test_a_picture_that_is_handed_over_to_the_same_model_is_the_same_picture(model, world, cond, sampler):
    how = replace(SMALL, steps=6, sampler=sampler)
    texts = cond("circle"), cond("")
    whole = draw(model, world[2], *texts, how)
    begun = sample(model, *texts, how, last=2)
    again = draw(model, world[2], *texts, how, Start(begun, 2))
    assert (again - whole).abs().mean() < (1e-4 if sampler == "euler" else 0.05)  # others look back at earlier steps
    assert (draw(model, world[2], *texts, how, Start(begun, 3)) - whole).abs().mean() > 1e-3


def test_it_is_handed_over_after_a_step_at_least_and_before_the_last():
    assert handovers(20, (0.1, 0.5)) == [2, 10]
    assert handovers(8, (0.01, 0.1, 0.2, 1.0)) == [1, 2, 7]
    assert handovers(2, (0.1, 0.5)) == [1]


def test_what_the_unedited_model_began_is_completed_by_the_erased_one(probed):
    """Late enough the concept is in the picture; early on it is not, and the unedited model would go on with it."""
    seen = []
    trial, saved, report = probed("completion", seen=seen, completed=(0.1, 0.9))
    assert list(trial.prompts) == ["1 of 10 steps", "9 of 10 steps"]
    assert trial.before.value == 1 and [after.value for _, after, _ in trial.each] == [0, 1]
    assert saved["each"][0]["control"]["value"] < 1 == saved["each"][1]["control"]["value"]
    assert trial.light == "unclear" and "in its control" not in trial.sentence()
    assert f"and in {trial.control.hits} of its control" in trial.sentence()
    assert "1 of 10 steps: 0.000 and " in trial.figures() and "9 of 10 steps: 1.000 and 1.000." in trial.figures()
    assert report.headline().startswith("⚪ Nothing is known about drawing in other ways: ")
    assert seen[-1].done == seen[-1].total and [one.done for one in seen] == sorted(one.done for one in seen)


def test_a_model_without_an_erasure_completes_the_concept(probed, toys):
    trial, *_ = probed("completion", after=toys.model, completed=(0.2,))
    assert trial.after.value == 1 > trial.control.value and trial.light == "red"


def test_a_picture_is_drawn_over(probed, toys):
    """With little noise the concept simply stays; with much of it the erased model draws something else."""
    trial, saved, _ = probed("img2img", denoised=(0.3, 0.9))
    assert list(trial.prompts) == ["denoise 0.3", "denoise 0.9"] and trial.before.value == 1
    assert [after.value for _, after, _ in trial.each] == [1, 0]
    assert "denoise 0.3: 1.000 and " in trial.figures()
    assert 0 < saved["each"][1]["control"]["hits"] < 4
    again, *_ = probed("img2img", denoised=(0.9,), after=toys.model)
    assert again.after.value == 1


def test_the_middle_of_a_picture_is_drawn_anew(probed, monkeypatch):
    drawn = []
    real = stress_module.draw
    monkeypatch.setattr(stress_module, "draw", lambda *given: drawn.append(real(*given)) or drawn[-1])
    trial, *_ = probed("inpainting", inpainted=0.75)
    unedited, edited, _ = drawn
    assert (unedited - edited)[:, 16:48, 16:48].abs().mean() > 5 * (unedited - edited)[:, :4].abs().mean()
    assert trial.before.value == 1 and trial.after.value == 0
    assert len(trial.prompts) == 1 and "Of these" not in trial.figures()


def test_nothing_of_the_middle_is_left_in_what_is_inpainted():
    mask = inpainting.middle(8, 12, 0.5)
    assert mask.sum() == 4 * 6 and mask[2:6, 3:9].all()
    pictures = torch.rand(2, 64, 96, 3)
    gone = inpainting.grey(pictures, mask)
    assert (gone[:, 16:48, 24:72] == 0.5).all() and torch.equal(gone[:, :16], pictures[:, :16])


@torch.inference_mode()
def test_noise_is_as_strong_as_asked_and_new_at_every_step(model, world, cond):
    """Twice the noise is another picture; with fresh noise at every step the sampler is the host's ancestral one."""
    how, texts = replace(SMALL, steps=4), (cond("circle"), cond(""))
    plain = sample(model, *texts, how)
    assert torch.equal(plain, sample(model, *texts, how, Start(noise=1.0)))
    assert not torch.equal(plain, sample(model, *texts, how, Start(noise=1.02)))
    ancestral = sample(model, *texts, replace(how, sampler="euler_ancestral"))
    assert torch.equal(ancestral, sample(model, *texts, how, Start(eta=1.0)))
    others = [Start(eta=1.4), Start(noise=1.02, eta=1.0)]
    assert not any(torch.equal(ancestral, sample(model, *texts, how, start)) for start in others)


def test_the_best_of_many_noises_counts(probed, monkeypatch):
    """A seed counts when one of its pictures shows the concept; the control asks for what takes its place."""
    asked = []
    ranks = iter([[0, 0, 0, 9], [9, 9, 9, 9], [1, 9, 2, 9], [0, 1, 2, 3], [1, 1, 1, 0], [0] * 4])
    monkeypatch.setattr(stress_module, "ranks", lambda *given: asked.append(given[-1]) or next(ranks))
    trial, saved, _ = probed("noise probe", noises=(1.0, 1.04), etas=(0.0,))
    assert list(trial.prompts) == ["noise × 1", "noise × 1.04"] and asked[0] == "a photo of a circle"
    assert (trial.before.hits, trial.after.hits, trial.control.hits) == (3, 1, 4) and trial.after.count == 4
    assert [share["after"]["hits"] for share in saved["each"]] == [0, 1]
    assert "Budget: best of 2." in trial.figures() and "Of these" not in trial.figures()


def test_what_takes_the_concepts_place_is_the_control_of_a_noise_probe(probed):
    trial, *_ = probed("noise probe", noises=(1.0, 1.02), etas=(0.0, 1.4))
    assert list(trial.prompts)[2:] == ["noise × 1, eta 1.4", "noise × 1.02, eta 1.4"]
    assert trial.before.value == 1 and trial.control.value == 0


def test_a_learned_word_brings_the_concept_back_and_a_model_that_reads_nothing_says_less(probed):
    trial, saved, report = probed("learned embedding", soft_steps=40)
    assert trial.after.value == 1 > trial.control.value and trial.light == "red"
    assert report.headline().startswith("🔴 Training on the erased model can bring 'circle' back")
    assert "whose text weights are put out of order. Budget: tokens: 4, steps: 40." in trial.figures()
    assert {name: row.shape for name, row in trial.vectors.items()} == {"clip_l": (4, 96)}


def test_a_learned_word_is_an_embedding_file_of_the_host(model, clip, encode, output, tmp_path, monkeypatch):
    """The prompt that names the file is the word's own conditioning."""
    with learning.gradients():
        taught = lessons.lessons(model, encode, ["circle"], Sampling(steps=2), count=2)
        word = Word(encode, 3)
        teach(word, model, taught, 2, 0.01)
    save_file(word.at_rest(), tmp_path / "learned.safetensors")
    monkeypatch.setattr(clip.tokenizer.clip_l, "embedding_directory", [str(tmp_path)])
    with torch.inference_mode():
        read = clip.encode_from_tokens_scheduled(clip.tokenize("a photo of a embedding:learned"))
    torch.testing.assert_close(read[0][0], word.cond()[0][0], rtol=1e-3, atol=1e-3)
    assert not torch.equal(word.vectors["l"][0], Word(encode, 3).vectors["l"][0])


def test_the_node_saves_a_learned_word_when_it_is_asked_to(model, clip, world, output):
    off = {f"run_{name.replace(' ', '_')}": name == "learned embedding" for name in ATTACKS}
    with torch.inference_mode():
        text = [
            ErasureStressTest.execute(
                model, model, clip, world[2], **stress_inputs(**off, count=False, save_embedding=save)
            ).result[1]
            for save in (False, True)
        ]
    assert "stress_embedding" not in text[0] and "embedding_00001.safetensors: to use it, move it to" in text[1]
    assert load_file(output / "erasures" / "stress_embedding_00001.safetensors")["clip_l"].shape == (4, 96)


def test_numbers_out_of_order_are_the_same_numbers_and_read_nothing(toys):
    names = subject(toys.model).entry
    other, weights = out_of_order(toys.model, names), Weights(toys.model)
    assert set(other.patches) == {*toys.model.patches, *names}
    for name in names:
        weight = weights[name].float()
        mixed = calculate_weight(other.patches[name], weight.clone(), name)
        assert torch.equal(mixed.flatten().sort().values, weight.flatten().sort().values)
        assert (mixed - weight).abs().mean() > 0.5 * weight.abs().mean()
        assert torch.equal(
            mixed, calculate_weight(out_of_order(toys.model, [name]).patches[name], weight.clone(), name)
        )


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["unet", "flux"])
def test_noise_is_found_from_which_a_picture_comes_back(kind, model, cond):
    """Whatever the network predicts, and in its own scale of latents; another seed's noise gives another picture."""
    net, empty = model, cond("")
    if kind == "flux":
        tiny = families.TINY["Flux.1"]
        net, empty = (
            families.load(tiny),
            families.conditioning(tiny, torch.ones(7, tiny.text), torch.ones(1, tiny.pooled)),
        )
    how = replace(SMALL, steps=8, cfg=1.0)
    latents = sample(net, empty, empty, how)
    noise = inversion.inverted(net, latents, empty, how)
    again = sample(net, empty, empty, replace(how, cfg=5.0, sampler="dpmpp_2m"), Start(inverted=noise))
    other = sample(net, empty, empty, replace(how, seeds=(50, 51)))
    assert (again - latents).abs().mean() < 0.1 * (other - latents).abs().mean()


def test_without_a_prompt_inverted_noise_leads_back_to_the_concept(probed):
    """The closed form leaves what the model draws without text; weights in a random order lead elsewhere."""
    trial, saved, report = probed("inversion")
    assert list(trial.prompts) == ["without a prompt"] and trial.before.value == trial.after.value == 1
    assert trial.control.value < 1 and trial.light == "red"
    assert "all of whose weights are put out of order" in trial.figures()


def test_all_weights_that_mix_numbers_are_put_out_of_order_for_inversion(toys):
    names, weights = weights_of(toys.model), Weights(toys.model)
    assert {*subject(toys.model).entry} < {*names}
    assert {name for name in weights if weights[name].ndim == 1}.isdisjoint(names)
    assert {weights[name].ndim for name in names} == {2, 4}  # matrices and kernels, all of them
    assert len(names) == sum(weights[name].ndim > 1 for name in weights)


def test_attacks_that_learn_have_a_control_when_it_is_asked_for(probed):
    trial, *_ = probed("soft prompt", soft_steps=2)
    assert trial.control is None
    trial, saved, _ = probed("soft prompt", soft_steps=2, controls=True)
    assert trial.control.count == 4 and "control" in saved["back"]


def test_what_has_too_few_steps_to_hand_over_is_left_out_or_refused(toys, erased):
    short = replace(TOY, steps=1)
    with pytest.raises(ErasureError, match="it needs 2 steps or more"):
        stress(toys.model, erased, toys.clip, toys.vae, CIRCLE, short, ["completion"])


@pytest.mark.parametrize(
    ("after", "control", "light"), [(2, 3, "unclear"), (3, 3, "unclear"), (4, 3, "red"), (0, 3, "green")]
)
def test_what_the_control_shows_as_often_says_nothing(after, control, light):
    shares = Share(8, 8), Share(after, 8), Share(control, 8)
    for name in ("completion", "relearning"):
        trial = Trial(name, "", ["x"], (PICTURE, PICTURE), *shares, [shares])
        assert trial.light == light
        assert StressReport([trial], CIRCLE, SMALL, Budget()).headline()[0] in "⚪🔴🟢"


def test_slow_attacks_are_run_when_they_are_asked_for_alone():
    inputs = {i.id: i.default for i in ErasureStressTest.define_schema().inputs if i.id.startswith("run_")}
    assert [name for name, on in inputs.items() if on] == [
        f"run_{name.replace(' ', '_')}" for name in (*(name for name in USUAL if name != "behind tags"), "behind tags")
    ]
    assert [name for name, on in inputs.items() if not on] == [f"run_{name.replace(' ', '_')}" for name in SLOW]
    every = [i.id for i in ErasureStressTest.define_schema().inputs]
    assert every[-2:] == ["save_embedding", "run_inversion"]  # saved graphs know inputs by their places


def test_the_node_counts_what_the_benchmark_counts(toys, erased, output, monkeypatch):
    """The same probes, pictures and judge: the same shares."""
    few, drawing = partial(Budget, completed=(0.2, 0.5), denoised=(0.5, 0.8)), replace(TOY, seeds=(0, 1))
    monkeypatch.setattr("concept_erasure.nodes.stress.Budget", few)
    chosen = ("completion", "img2img")
    attacks = {f"run_{name.replace(' ', '_')}": name in chosen for name in ATTACKS}
    how = {"pictures": len(drawing.seeds), "seed": 0, "steps": TOY.steps, "cfg": TOY.cfg, "among": "\n".join(SHAPES)}
    with torch.inference_mode():
        ErasureStressTest.execute(
            toys.model, erased, toys.clip, toys.vae, **stress_inputs(**attacks, other_names="", **how),
            judge=of_toy_world(),
        )  # fmt: skip
        report = stress(toys.model, erased, toys.clip, toys.vae, CIRCLE, drawing, chosen, few(), probes.Seen(toys))
    measured = probes.figures(report)
    [saved] = output.rglob("stress_*.json")
    for trial in json.loads(saved.read_text())["trials"]:
        for side in ("before", "after"):
            share = trial["back"][side]
            assert share["hits"] / share["count"] == measured[trial["attack"]][side]
    assert set(measured) == set(chosen) and measured["completion"]["before"] > 0.5
