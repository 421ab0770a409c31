"""Every node runs on every trained world: transformers, encoders that are not CLIP, latents of films."""

from functools import partial

import pytest
import torch

from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.closed_form import CLOSED_FORM
from concept_erasure.erasure.evaluation.attacks import ATTACKS, Budget
from concept_erasure.erasure.host.latents import latent_shape
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.methods import LEARNED
from concept_erasure.erasure.texts.encoder import Encoder
from concept_erasure.nodes.instant import ErasureInstant, ErasureText
from concept_erasure.nodes.report import ErasureReport
from concept_erasure.nodes.strength import ErasureFindStrength
from concept_erasure.nodes.stress import ErasureStressTest
from concept_erasure.nodes.use import ErasureApply
from tests import worlds as loading
from tests.host.test_worlds import TRAINED
from tests.host.tools import execute, sample
from toyworld.node.judge import of_toy_world
from toyworld.worlds import WORLDS

KNOWN = "square\nheart"
PROMPTS = {
    "erase": "a red circle on a plain background | circle",
    "keep": "a blue square on a dotted background | square",
}
DRAWING = {"pictures": 1, "steps": 2, "sampler": "euler", "scheduler": "simple", "width": 64, "height": 64}
LITTLE = {"search_tried": 4, "search_generations": 2, "learned_steps": 2, "relearning_steps": 2}
FEW = partial(Budget, completed=(0.5,), denoised=(0.8,), noises=(1.0, 1.04), etas=(1.0,))
"""One picture of each attack that draws on from a picture, and two noises, where a user draws many."""


@pytest.fixture(scope="module", params=TRAINED)
def world(request):
    """(MODEL, CLIP, VAE, an erasure of "circle" made by Instant Erasure)."""
    model, clip, vae = loading.load(WORLDS[request.param].checkpoint)
    erasure = call(ErasureInstant, model=model, clip=clip, concepts="circle", preserve=KNOWN).result[0]
    return model, clip, vae, erasure


@pytest.fixture(scope="module")
def erased(world):
    model, *_, erasure = world
    return ErasureApply.execute(model, erasure).result[0]


@torch.inference_mode()
def call(node, **given):
    """A node's output, with its defaults where nothing is given."""
    defaults = {i.id: getattr(i, "default", None) for i in node.define_schema().inputs}
    return node.execute(**{name: value for name, value in {**defaults, **given}.items() if value is not None})


def encoded(clip, text: str) -> list:
    with torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def test_what_is_typed_is_erased(world):
    model, clip, *_ = world
    out = call(ErasureText, model=model, clip=clip, concept="circle", preserve=KNOWN)
    assert out.ui.as_dict()["text"][0].startswith("✓ circle →")


@pytest.mark.parametrize("method", CLOSED_FORM)
def test_every_closed_form_erases_from_the_tokens_and_the_pooled_text(world, method):
    model, clip, *_ = world
    erasure = call(ErasureInstant, model=model, clip=clip, concepts="circle", preserve=KNOWN, method=method).result[0]
    here = subject(model)
    pooled = here.family.pooled_entry(model.model)
    assert {*here.entry, *([pooled] if pooled else [])} == erasure.delta.keys()


def test_a_window_acts_within_it_alone(world):
    """What is drawn before it begins is the unedited model's to the bit."""
    model, clip, _, erasure = world
    conds = encoded(clip, "a red circle"), encoded(clip, "")
    sampling = model.get_model_object("model_sampling")
    drawn = {
        "sigmas": torch.tensor([float(sampling.percent_to_sigma(share)) for share in (0.01, 0.3, 0.6)]),
        "noise": torch.randn(1, *latent_shape(model, 64, 64), generator=torch.Generator().manual_seed(0)),
    }
    windows = [{"start_percent": 0.7, "end_percent": 1.0}, {"start_percent": 0.0, "end_percent": 0.5}]
    later, early = (call(ErasureApply, model=model, erasure=erasure, **window).result[0] for window in windows)
    unedited = sample(model, *conds, **drawn)
    assert torch.equal(sample(later, *conds, **drawn), unedited)
    assert not torch.equal(sample(early, *conds, **drawn), unedited)


@pytest.mark.parametrize("method", LEARNED)
def test_a_method_learns_or_says_why_not(world, method):
    model, clip, *_ = world
    try:
        erasure = execute(model, clip, method=method, weights="keys+values", steps=2, preserve=KNOWN)[0]
    except ErasureError as error:
        assert "choose another method" in str(error) or not subject(model).family.learns
        return
    assert erasure.parts


def test_report_counts(world, erased):
    """Here the unedited model is the judge; nodes that draw more take the toy world's, which is sooner done."""
    model, clip, vae, _ = world
    out = call(ErasureReport, model_before=model, model_after=erased, clip=clip, vae=vae, **PROMPTS, **DRAWING)
    assert "everything else" in out.result[1]


def test_a_strength_is_looked_for(world):
    model, clip, vae, erasure = world
    given = {"model": model, "erasure": erasure, "clip": clip, "vae": vae, "judge": of_toy_world()}
    out = call(ErasureFindStrength, **given, **PROMPTS, **DRAWING)
    assert "Unedited: gone in" in out.result[3]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_runs_or_is_left_out(world, erased, attack, monkeypatch):
    monkeypatch.setattr("concept_erasure.nodes.stress.Budget", FEW)
    model, clip, vae, _ = world
    names = [i.id for i in ErasureStressTest.define_schema().inputs if i.id.startswith("run_")]
    wanted = "run_" + attack.replace(" ", "_")
    assert wanted in names
    given = {
        "model_before": model, "model_after": erased, "clip": clip, "vae": vae, "concept": "circle",
        "other_names": "disc", "among": KNOWN, "judge": of_toy_world(),
        **{name: name == wanted for name in names}, **DRAWING, **LITTLE,
    }  # fmt: skip
    try:
        out = call(ErasureStressTest, **given)
    except ErasureError as error:
        why = ATTACKS[attack].misfit(Encoder(clip), subject(model).family)
        assert why and why in str(error)
        return
    assert ATTACKS[attack].title in out.result[1]
