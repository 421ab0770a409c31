"""Training: under the conditions in which a host runs it, to the same result every time, leaving no trace."""

from dataclasses import fields

import comfy.model_management
import pytest
import torch
from comfy_extras.nodes_freelunch import FreeU_V2

from concept_erasure.erasure import learning
from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.closed_form.problem import Scales
from concept_erasure.erasure.files import load_erasure, save_erasure
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.trainable import plain_patcher
from concept_erasure.erasure.instant import Instant, erase_instantly
from concept_erasure.erasure.methods import LEARNED
from concept_erasure.erasure.parts.prompt import PromptTensors
from concept_erasure.erasure.texts.neighbours import neighbours
from concept_erasure.erasure.training import setting_up
from concept_erasure.erasure.training.pool import Batch, Phrase
from concept_erasure.erasure.training.setting_up import FIRMLY
from concept_erasure.erasure.training.settings import PRESETS
from tests import worlds
from tests.host import tools
from tests.host.test_fit import sentence
from tests.host.tools import assert_close, difference, execute, inputs, only_delta, only_prompt, sample

pytestmark = pytest.mark.usefixtures("encoded_once")


# ---------------------------------------------------------------- it runs, everywhere


@pytest.mark.parametrize("method", LEARNED)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_method_and_preset_learns_something_that_a_file_can_hold(train, model, cond, tmp_path, preset, method):
    erasure, run = train(preset=preset, method=method)
    save_erasure(erasure, tmp_path / "x.safetensors")
    assert load_erasure(tmp_path / "x.safetensors").identity() == erasure.identity()
    assert len(run.progress.losses) == 3 and not run.progress.stopped
    assert (erasure.metadata.method, erasure.metadata.steps, erasure.metadata.family) == (method, "3", "ToyWorld")
    prompt = () if erasure.of(PromptTensors) else ("role", "blocks", "tokens")
    may_be_empty = ("strengths", "gate_gap", "parts", "added", "only_in", "recovers", "unknown", "thumbnail", *prompt)
    assert all(getattr(erasure.metadata, f.name) for f in fields(erasure.metadata) if f.name not in may_be_empty)
    base, erased = (sample(m, cond("circle"), cond("")) for m in (model, attach.erase(model, erasure)))
    assert difference(base, erased) > 0.01


@pytest.mark.parametrize(
    "settings",
    [
        {"target": "anchor", "anchor": "square"},
        {"target": "nearest neighbour"},
        {"space": "x0"},
        {"gate": False},
        {"rank": 0},
    ],
)
def test_other_settings_learn_too(train, settings):
    assert all(loss > 0 for loss in train(**settings)[1].progress.losses)


def test_the_nearest_neighbour_takes_the_place_of_each_name(prepare, encode):
    names, kept = ["circle", "red"], ["square", "green", "dotted"]
    run = prepare(concept="\n".join(names), preserve="\n".join(kept), target="nearest neighbour").run
    replaced = {(phrase.text.text, phrase.anchor.text) for phrase in run.pool.phrases}
    for name, near in zip(names, neighbours(encode, names, kept), strict=True):
        assert (f"a {name}", f"a {near[0]}") in replaced and (f"a {name}", f"a {near[1]}") not in replaced


@pytest.mark.parametrize(("rank", "least", "scales"), [(0, 0.0, FIRMLY), (4, 0.0, FIRMLY), (4, 9.0, Scales())])
def test_weights_start_from_the_closed_form(prepare, model, clip, rank, least, scales, monkeypatch):
    """From the firm one where it goes far enough, from the usual one where it does not."""
    learning.MEMORY.forget()
    monkeypatch.setattr(setting_up, "NEARLY", least)
    learned = prepare(weights_start="closed form", target="nearest neighbour", rank=rank)
    expected = erase_instantly(model, clip, "circle", tools.KEPT, Instant(rank=rank, scales=scales)).delta
    changes = learned.run.delta.changes()
    assert set(changes) == set(expected)
    for name, change in expected.items():
        torch.testing.assert_close(changes[name].detach(), change.dense(), atol=1e-4, rtol=1e-3)
    assert learned.target in tools.KEPT.splitlines()
    learning.MEMORY.forget()


def test_the_firm_closed_form_moves_less_of_what_is_preserved(model, clip, encode):
    kept = torch.cat([encode(text).context[0] for text in tools.KEPT.splitlines()])
    firm, usual = (
        sum(float((kept @ one.dense().T).square().sum()) for one in
            erase_instantly(model, clip, "circle", tools.KEPT, Instant(scales=scales)).delta.values())
        for scales in (FIRMLY, Scales())
    )  # fmt: skip
    assert firm < 0.8 * usual


def test_going_on_from_an_erasure_does_not_start_from_the_closed_form_again(train, prepare):
    start = {"weights_start": "closed form", "target": "nearest neighbour"}
    erasure = train(**start)[0]
    now = prepare(resume=erasure, **start).run.delta.at_rest()
    assert all(torch.equal(now[name].dense(), change.dense()) for name, change in erasure.delta.items())


def test_weights_made_in_inference_mode_can_be_trained_on(checkpoint, clip, cond):
    with torch.inference_mode():
        model = worlds.load(checkpoint)[0]
    assert all(p.is_inference() for p in model.model.parameters())  # or this test would show nothing
    assert cond("circle")[0][0].is_inference()
    erasure, losses = execute(model, clip)
    assert erasure.delta and len(losses["loss"]) == 3


def test_a_loader_that_cannot_load_twice_is_no_obstacle(model, clip):
    once = model.clone()
    once.cached_patcher_init = None
    assert execute(once, clip)[0].delta


def test_a_dynamic_model_that_cannot_be_made_plain_is_refused_in_one_sentence(model):
    class Dynamic:
        is_dynamic = staticmethod(lambda: True)
        get_wrappers = staticmethod(lambda *_: [])
        cached_patcher_init = None

    with pytest.raises(ErasureError) as caught:
        plain_patcher(Dynamic())
    assert "--disable-dynamic-vram" in sentence(caught)


def test_a_bf16_model_is_trained_with_float32_parameters(prepare, bf16_model):
    tiny = {"prompt_lr": 1e-6, "weight_lr": 1e-6}
    run = prepare(bf16_model, method="kpop", **tiny)
    assert run.run.network.base["diffusion_model.middle_block.1.proj_in.weight"].dtype == torch.bfloat16
    parameters = [*run.run.beside.prompt.parameters(), *run.run.delta.parameters()]
    before = [p.detach().clone() for p in parameters]
    with learning.gradients():
        erasure = learning.learn(run)
    assert all(p.dtype == torch.float32 for p in parameters)
    moved = [float((a.detach() - b).abs().max()) for a, b in zip(parameters, before, strict=True)]
    assert max(moved[:2]) > 5e-7  # less than bf16 can tell apart
    assert all(t.dtype == torch.float32 for c in erasure.delta.values() for t in c.tensors().values())


# ---------------------------------------------------------------- what is learned is what is applied


SIGMA = 2.0


def denoised(model, positive, negative) -> torch.Tensor:
    """The host's own answer for the latents of ``batch_of``: one Euler step to zero lands on it."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return sample(model, positive, negative, cfg=1.0, noise=noise, sigmas=torch.tensor([SIGMA, 0.0]))


def batch_of(run, text: str) -> Batch:
    z = SIGMA * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return Batch(z, torch.tensor([SIGMA]), [Phrase(run.encode(text), run.encode(""))])


def implied(batch: Batch, noise: torch.Tensor) -> torch.Tensor:
    return batch.z - SIGMA * noise


def test_an_applied_erasure_predicts_what_the_trained_one_did(train, model, cond):
    erasure, trained = train()
    run, negative, positive = trained.run, cond(""), cond("a circle")
    with torch.inference_mode(), learning.gradients():
        batch = batch_of(run, "a circle")
        with torch.no_grad():
            weights = run.network.changed(run.delta)
            without = implied(batch, run.network.computing_with(weights, lambda: run.edited(batch, beside=False)))
            with_key = implied(batch, run.network.computing_with(weights, lambda: run.edited(batch, beside=True)))
            original = implied(batch, run.original(batch))
    erased = attach.erase(model, erasure)
    base = denoised(model, positive, negative)
    assert_close(original, base, float(base.norm()), 1e-5)
    assert_close(denoised(erased, positive, negative), without, difference(without, base))
    assert_close(denoised(attach.recover(erased, erasure), positive, negative), with_key, difference(with_key, without))


@pytest.mark.parametrize("reduce", [only_prompt, only_delta])
def test_the_teacher_is_the_model_as_it_came_in(prepare, model, gated, cond, reduce):
    patched = attach.erase(model, reduce(gated))
    run = prepare(patched).run
    with learning.gradients():
        batch = batch_of(run, "a circle")
        teacher = implied(batch, run.original(batch))
    here, base = (denoised(m, cond("a circle"), cond("")) for m in (patched, model))
    assert_close(teacher, here, difference(here, base))


def test_a_key_alone_can_be_attached_to_a_published_erasure(train, model):
    erasure, _ = train()
    published = attach.erase(model, erasure.without_key())
    assert attach.attachments(attach.recover(published, erasure.key_only()))


# ---------------------------------------------------------------- nothing stays behind


def test_training_leaves_the_model_and_the_globals_as_they_were(model, clip, cond):
    before = sample(model, cond("circle"), cond(""))
    learning_before = [p.requires_grad for p in model.model.parameters()]
    with torch.inference_mode():
        tools.ErasureTrain.execute(model, clip, **inputs())
        assert torch.is_inference_mode_enabled() and not comfy.model_management.in_training
    assert torch.equal(sample(model, cond("circle"), cond("")), before)
    assert not attach.attachments(model) and not model.patches
    assert [p.requires_grad for p in model.model.parameters()] == learning_before


def test_globals_are_restored_after_a_failure():
    with pytest.raises(KeyError), torch.inference_mode():
        try:
            with learning.gradients():
                assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
                assert comfy.model_management.in_training
                raise KeyError
        finally:
            assert torch.is_inference_mode_enabled() and not comfy.model_management.in_training


def test_the_same_seed_learns_the_same_erasure(train):
    first, second, other = (train(seed=s)[0].identity() for s in (4, 4, 5))
    assert first == second != other


def test_a_patch_that_cannot_be_learned_through_is_one_sentence(prepare, model):
    [through] = FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2).args
    with pytest.raises(ErasureError) as caught, torch.inference_mode(), learning.gradients():
        run = prepare(through)
        learning.learn(run)
    assert "cannot be learned through" in sentence(caught)
