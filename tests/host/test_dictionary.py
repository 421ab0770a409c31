"""Concept dictionaries on the toy world: made, kept in files, and erased with; the same however pictures are drawn."""

import json

import comfy.sample
import pytest
import torch
import torch.nn.functional as F

from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.combine import combine
from concept_erasure.erasure.dictionaries import Plan, train_dictionary
from concept_erasure.erasure.dictionary.autoencoder import Fit
from concept_erasure.erasure.dictionary.files import load_dictionary, save_dictionary
from concept_erasure.erasure.dictionary.picking import Picking
from concept_erasure.erasure.evaluation.attacks import ATTACKS
from concept_erasure.erasure.files import load_erasure, save_erasure
from concept_erasure.erasure.from_dictionary import Drawing, erase_with_dictionary
from concept_erasure.erasure.host import attach, recording
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.host.trajectories import Sampling
from concept_erasure.nodes.report import ErasureReport
from concept_erasure.nodes.stress import ErasureStressTest
from tests import families
from tests.host.test_report import HOW
from tests.host.test_stress import inputs
from toyworld.dictionary import FILE
from toyworld.node.judge import of_toy_world
from toyworld.scoring import plan

PICKED_BY = Drawing(16, Sampling(steps=8))
PROMPTS = ["a red circle on a plain background", "blue circle, striped background", "dotted green disc"]


@pytest.fixture(scope="module")
def dictionary():
    return load_dictionary(FILE)


@pytest.fixture(scope="module")
def erase(toys, dictionary):
    known = {}

    def erased(concept="circle", **how):
        key = (concept, *sorted(how.items()))
        if key not in known:
            kept = "\n".join(text for text in plan(concept.split()[0])["preserve"])
            with torch.inference_mode():
                known[key] = erase_with_dictionary(
                    toys.model, toys.clip, dictionary, concept, kept, Picking(**how), PICKED_BY
                )[0]
        return known[key]

    return erased


@torch.inference_mode()
def draw(toys, model, texts, sampler="euler", steps=8, side=64, cfg=3.0, batch=24):
    """Pictures [n, 3, 64, 64], texts in turn."""
    out = []
    for start in range(0, 24, batch):
        rows = [texts[i % len(texts)] for i in range(start, start + batch)]
        noise = torch.randn(len(rows), 4, side // 8, side // 8, generator=torch.Generator().manual_seed(start))
        latents = comfy.sample.sample(
            model, noise, steps, cfg, sampler, "normal", toys.conditioning(rows), toys.encode(""),
            torch.zeros_like(noise), seed=0, disable_pbar=True,
        )  # fmt: skip
        out.append(toys.vae.decode(latents).permute(0, 3, 1, 2))
    return F.interpolate(torch.cat(out), (64, 64), mode="area").clone()


def shown(toys, pictures, concept="circle"):
    """The share of pictures that show a concept."""
    return sum(rank == 0 for rank in toys.judge.ranks(pictures, [concept] * len(pictures))) / len(pictures)


def stars(texts=PROMPTS):
    return [text.replace("circle", "star").replace("disc", "star") for text in texts]


@pytest.mark.parametrize(("mode", "most"), [("negative", 0.05), ("replace", 0.7)])
def test_a_concept_goes_and_others_stay(toys, erase, mode, most):
    """What ``replace`` leaves has no shape, and the judge, which has no word for that, calls half of it a circle."""
    model = attach.erase(toys.model, erase(mode=mode))
    assert shown(toys, draw(toys, toys.model, PROMPTS)) > 0.9
    assert shown(toys, draw(toys, model, PROMPTS)) <= most
    assert shown(toys, draw(toys, model, stars()), "star") > 0.9


@pytest.mark.parametrize(
    "how",
    [{"sampler": "dpmpp_2m"}, {"sampler": "uni_pc"}, {"steps": 30}, {"side": 96}, {"cfg": 1.0}, {"cfg": 5.0},
     {"batch": 1}, {"batch": 3}],
    ids=str,
)  # fmt: skip
def test_it_erases_however_pictures_are_drawn(toys, erase, how):
    model = attach.erase(toys.model, erase())
    assert shown(toys, draw(toys, model, PROMPTS, **how)) <= 0.05


def test_off_is_off(toys, erase):
    before = draw(toys, toys.model, PROMPTS, steps=2)
    assert attach.erase(toys.model, erase(), 0.0) is toys.model
    changed = draw(toys, attach.erase(toys.model, erase()), PROMPTS, steps=2)
    assert not torch.equal(changed, before)
    assert torch.equal(draw(toys, toys.model, PROMPTS, steps=2), before)


def test_a_batch_gives_what_its_pictures_give_alone(toys, erase):
    model = attach.erase(toys.model, erase())
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def latents(rows, z):
        return comfy.sample.sample(
            model, z, 4, 3.0, "euler", "normal", toys.conditioning(rows), toys.encode(""), torch.zeros_like(z), seed=0,
            disable_pbar=True,
        )  # fmt: skip

    together = latents(PROMPTS, noise)
    alone = torch.cat([latents([text], z[None]) for text, z in zip(PROMPTS, noise, strict=True)])
    assert torch.allclose(together, alone, atol=1e-3)


def test_a_file_of_a_few_kilobytes_draws_the_same(toys, erase, tmp_path):
    erasure = erase()
    save_erasure(erasure, tmp_path / "circle.safetensors")
    assert (tmp_path / "circle.safetensors").stat().st_size < 80_000
    again = load_erasure(tmp_path / "circle.safetensors")
    pictures = [draw(toys, attach.erase(toys.model, one), PROMPTS, steps=2) for one in (erasure, again)]
    assert torch.equal(*pictures)


def test_two_concepts_go_together(toys, erase):
    model = attach.erase(toys.model, combine([erase(), erase("star")]))
    assert shown(toys, draw(toys, model, PROMPTS)) < 0.1
    assert shown(toys, draw(toys, model, stars()), "star") < 0.2


def test_a_dictionary_of_another_model_is_refused(model, clip, dictionary):
    with pytest.raises(ErasureError, match="made on a ToyWorld model|another checkpoint"):
        erase_with_dictionary(model, clip, dictionary, "circle", "square", Picking(), PICKED_BY)


def test_families_whose_blocks_cannot_be_steered_are_refused(erase):
    model = families.load(families.TINY["Z-Image"])
    with pytest.raises(ErasureError, match="cannot be steered on .* models: use Erase Concept"):
        recording.points_of(model)
    [part, *_] = erase().parts
    with pytest.raises(ErasureError, match="blocks of another kind of model"):
        part.join({}, subject(model).family, 1.0, lambda options: True)


def test_a_recording_goes_on_where_it_stopped(toys, tmp_path, monkeypatch):
    small = Plan(
        6, together=2, expansion=2, vectors=6000, blocks=("middle",), sampling=Sampling(steps=2),
        fit=Fit(active=4, batch=64, epochs=1),
    )  # fmt: skip
    drawn, real = [], recording.draw
    monkeypatch.setattr(recording, "draw", lambda *a: drawn.append(a[2]) or real(*a))

    def stopping(text, done, total):
        if text.startswith("Drawing") and done == 2:
            raise KeyboardInterrupt

    def train(on_progress):
        with torch.inference_mode():
            return train_dictionary(toys.model, toys.clip, PROMPTS, small, tmp_path / "work", on_progress)

    with pytest.raises(KeyboardInterrupt):
        train(stopping)
    assert len(drawn) == 2
    dictionary = train(lambda *a: None)
    assert len(drawn) == 3
    save_dictionary(dictionary, tmp_path / "one.safetensors")
    again = load_dictionary(tmp_path / "one.safetensors")
    assert again.identity() == dictionary.identity()
    assert list(again.quality) == ["diffusion_model.middle_block.1"]


def test_a_report_and_a_stress_test_count_what_it_draws(toys, erase, output):
    """Through the nodes, with an attack that learns on the steered model and one that learns it away."""
    after = attach.erase(toys.model, erase())
    asked = "\n".join(f"{text} | circle" for text in PROMPTS), "\n".join(f"{text} | star" for text in stars())
    how = {**HOW, "pictures": 2, "steps": 8}
    learned = ("by name", "soft prompt", "relearning")
    attacks = {f"run_{name.replace(' ', '_')}": name in learned for name in ATTACKS}
    small = {**inputs(**attacks), "among": "star\nsquare", "steps": 8, "pictures": 2, "relearning_steps": 2}
    with torch.inference_mode():
        ErasureReport.execute(toys.model, after, toys.clip, toys.vae, *asked, **how, judge=of_toy_world())
        ErasureStressTest.execute(toys.model, after, toys.clip, toys.vae, **small, judge=of_toy_world())
    saved = json.loads((output / "erasures" / "report_00001.json").read_text())
    before, steered = (row["esr"]["1"]["hits"] for row in saved["rows"])
    assert before == 0 and steered == 6 and saved["rows"][1]["psr"]["1"]["hits"] == 6
    trials = {trial["attack"]: trial for trial in json.loads(next(output.rglob("stress_*.json")).read_text())["trials"]}
    assert set(trials) == set(learned)
    assert trials["by name"]["back"]["after"]["hits"] == 0 < trials["by name"]["back"]["before"]["hits"]
