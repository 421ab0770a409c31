"""The learned methods: each does what its page says, on a random network."""

from dataclasses import replace

import pytest
import torch

from concept_erasure.erasure import learning
from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.attention import AttentionMaps
from concept_erasure.erasure.host.network import extended
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.host.weights import Weights
from concept_erasure.erasure.methods import LEARNED, preset_for
from concept_erasure.erasure.methods.adaptive_target import TARGETS
from concept_erasure.erasure.parts.prompt import PromptTensors
from concept_erasure.erasure.training import loop, preservation
from concept_erasure.erasure.training import pool as training_pool
from concept_erasure.erasure.training.choice import Choice
from concept_erasure.erasure.training.pictures import with_sampling
from tests.host.tools import PRESERVE, difference, sample

KEPT = "\n".join(PRESERVE)
SHORT = {"steps": 3, "refresh": 3, "batch": 2, "weight_lr": 2e-3, "choice_lr": 0.5}
WEIGHTS_ONLY = [name for name, method in LEARNED.items() if not method.role]


@pytest.fixture(autouse=True)
def pruning_costs_little(monkeypatch):
    """A random network's losses are small."""
    monkeypatch.setattr("concept_erasure.erasure.methods.pruning.SPARSITY", 1e-3)


@pytest.fixture
def prepare(model, clip, encoded_once):
    """Sets a run of a method up, at its recommended settings but for those given by name."""

    def prepared(method, preserve=KEPT, resume=None, **changes):
        settings = replace(preset_for("recommended", method), **{**SHORT, **changes})
        with learning.gradients():
            return learning.prepare(model, clip, "circle", preserve, with_sampling(settings, steps=2), resume)

    return prepared


def loss_now(run) -> float:
    """The first phase's loss on the same draws every time."""
    run.generator.manual_seed(5)
    [phase, *_] = LEARNED[run.settings.method].phases(run.settings)
    with learning.gradients():
        return sum(loop.backward(run, phase, loop.scaler_for(run)) for _ in range(3))


@pytest.mark.parametrize("method", WEIGHTS_ONLY)
def test_its_loss_falls_and_its_erasure_is_weights_alone(prepare, model, cond, method):
    gently = {"steps": 60, "weight_lr": 0.003} if method == "pruning" else {"steps": 12, "weight_lr": 1e-4}
    learned = prepare(method, refresh=100, **gently)
    run = learned.run
    run.sample()
    before = loss_now(run)
    with learning.gradients():
        erasure = learning.learn(learned)
    del run.pool.trajectories[1:]
    if method != "pruning":  # where weights of a random network go all at once, there is no slope to follow
        assert loss_now(run) < before
    assert not erasure.of(PromptTensors) and erasure.metadata.role == erasure.metadata.tokens == ""
    base, erased = (sample(m, cond("circle"), cond("")) for m in (model, attach.erase(model, erasure)))
    assert difference(base, erased) > 0.01


def test_recommended_settings_are_each_methods_own_and_published_ones_are_not():
    assert preset_for("recommended", "esd").average == 0 < preset_for("recommended", "sdd").average
    assert preset_for("paper v3", "sdd") == replace(preset_for("paper v3"), method="sdd")


# ---------------------------------------------------------------- one by one


def test_predictions_that_a_branch_has_moved_are_no_proof(prepare, monkeypatch):
    """Learned on the unedited model's latents, they moved all of the way and "red" stayed in every picture."""
    learned = prepare("dumo", steps=1)
    monkeypatch.setattr(learned.run, "way", lambda: (1.0, 0.0))
    with learning.gradients():
        assert "which is no proof that it is gone by this method" in learning.learn(learned).metadata.verdict


def test_concept_ablation_draws_latents_for_what_comes_instead(prepare, monkeypatch):
    run = prepare("concept ablation", target="anchor", anchor="star").run
    seen = []
    monkeypatch.setattr(
        training_pool, "rows_as_conditioning", lambda texts: seen.extend(t.text for t in texts) or texts[0].cond
    )
    run.sample()
    assert seen and all("star" in text and "circle" not in text for text in seen)


def test_self_distillation_keeps_the_average_over_steps(prepare):
    learned = prepare("sdd", average=0.5, steps=4)
    with learning.gradients():
        erasure = learning.learn(learned)
    last, kept = learned.run.delta.at_rest(), erasure.delta
    size = [sum(float(c.dense().norm()) for c in delta.values()) for delta in (last, kept)]
    assert 0 < size[1] < size[0]


def test_all_but_one_pins_the_unconditional_prediction(prepare):
    def moved(pin: float) -> float:
        learned = prepare("all but one", steps=15, refresh=100)
        with pytest.MonkeyPatch.context() as patch, learning.gradients():
            patch.setattr("concept_erasure.erasure.methods.all_but_one.PIN", pin)
            learning.learn(learned)
            run = learned.run
            batch = run.concept_batch()
            nothing = [run.encode("")] * len(batch.phrases)
            now = run.network.computing_with(run.network.changed(run.delta), lambda: run.edited_under(batch, nothing))
            return float((now - run.original_under(batch, nothing)[0]).detach().norm())

    assert moved(10.0) < 0.8 * moved(0.0)


def test_attention_maps_are_those_of_the_text_and_of_the_name(prepare, model):
    run = prepare("forget-me-not").run
    run.sample()
    batch = run.concept_batch()
    layers = {name.split(".attn2.")[0] for name, _ in model.model.named_parameters() if ".attn2." in name}
    maps = AttentionMaps()
    with learning.gradients(), torch.no_grad():
        plain = run.edited(batch, beside=False)
        seen = run.network.predict(batch.z, batch.sigma, batch.texts, maps=maps)
        paid = run.attention_to_concept(batch)
    assert torch.equal(plain, seen), "looking changes nothing"
    assert len(maps.maps) == len(layers) and len(paid) == len(layers) * len(batch.phrases)
    for layer in maps.maps:
        assert layer.shape[-1] == 77
        torch.testing.assert_close(layer.sum(-1), torch.ones(layer.shape[:-1]))
    first = run.encode.place("{}", "circle").start
    assert torch.equal(paid[0], maps.maps[0][0, ..., first : first + 1])


def test_pruning_sets_weights_to_zero_and_leaves_the_others(prepare, model):
    with learning.gradients():
        erasure = learning.learn(prepare("pruning", steps=20, weight_lr=0.03))
    weights = Weights(model)
    pruned = 0
    for name, change in erasure.delta.items():
        after = weights[name].float() + change.dense()
        gone = change.dense() != 0
        assert not after[gone].any() and torch.equal(after[~gone], weights[name].float()[~gone])
        pruned += int(gone.sum())
    assert pruned > 0


def test_pruning_goes_on_where_it_ended(prepare):
    with learning.gradients():
        first = learning.learn(prepare("pruning", steps=20, weight_lr=0.03))
        again = prepare("pruning", resume=first).run.delta.at_rest()
    assert all(torch.equal(again[name].dense(), change.dense()) for name, change in first.delta.items())
    with pytest.raises(ErasureError):
        prepare("pruning", weights="values", resume=first)


@pytest.mark.parametrize("method", ["esd", "pruning"])
def test_everything_but_the_cross_attention_can_change(prepare, model, method):
    with learning.gradients():
        erasure = learning.learn(prepare(method, weights="all but cross-attention", rank=2, weight_lr=0.2))
    assert not any(".attn2." in name for name in erasure.delta)
    shapes = {len(change.dense().shape) for change in erasure.delta.values()}
    assert shapes == {2, 4}, "matrices and kernels"
    attach.erase(model, erasure)


# ---------------------------------------------------------------- choices


def test_a_hard_choice_is_one_text_and_learns(encode):
    choice = Choice([encode(text) for text in PRESERVE], temperature=2.0, hard=True)
    generator = torch.Generator().manual_seed(0)
    draws = [choice.draw(generator).weights for _ in range(30)]
    assert all(sorted(draw.tolist()) == pytest.approx([0, 0, 1], abs=1e-6) for draw in draws)
    assert len({int(draw.argmax()) for draw in draws}) == 3
    (draws[0] * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert choice.logits.grad.abs().max() > 0
    choice.logits.data[1] = 50
    assert int(choice.draw(generator).weights.argmax()) == 1


def test_a_mixture_is_the_weighted_sum_of_its_texts(prepare):
    run = prepare("adaptive target").run
    mixture = replace(run.chosen("target"), texts=run.choices["target"].texts[:2], weights=torch.tensor([0.25, 0.75]))
    mixed, *parts = (run.network.conditioning(text)["c_crossattn"] for text in (mixture, *mixture.texts))
    torch.testing.assert_close(mixed, 0.25 * parts[0] + 0.75 * parts[1])


def test_the_adversary_finds_the_text_that_is_hurt_most(prepare):
    run = prepare("esd", preserve_by="adversarial", preserve_weight=1.0, batch=4).run
    generator = torch.Generator().manual_seed(0)
    for change in run.delta.parameters():
        change.data.copy_(0.2 * torch.randn(change.shape, generator=generator))
    run.sample()
    choice = run.choices["preserved"]
    with learning.gradients():
        hurts = []
        for i in range(len(choice.texts)):
            run.generator.manual_seed(1)
            choice.logits.data = 100.0 * torch.nn.functional.one_hot(torch.tensor(i), len(choice.texts))
            with torch.no_grad():
                weights = run.network.changed(run.delta)
                hurt = run.network.computing_with(weights, lambda: preservation.preservation(run, beside=False))
                hurts.append(float(hurt))
        choice.logits.data.zero_()
        optimiser = torch.optim.Adam(choice.parameters(), lr=0.1)
        [phase] = preservation.adversary(run.settings)
        for _ in range(60):
            optimiser.zero_grad()
            loop.backward(run, phase, loop.scaler_for(run))
            optimiser.step()
    assert choice.logits.argmax() == torch.tensor(hurts).argmax(), hurts


@pytest.mark.parametrize("method, name", [("esd", "preserved"), ("adaptive target", "target")])
def test_what_is_chosen_learns_the_same_with_checkpointing(prepare, method, name):
    """Its gradients go through the frozen model, whose layers must not be run again with the edited weights."""

    def gradient(checkpointing: bool) -> torch.Tensor:
        run = prepare(
            method, checkpointing=checkpointing, rank=0, preserve_by="adversarial", preserve_weight=1.0, batch=4
        ).run
        generator = torch.Generator().manual_seed(0)
        for change in run.delta.parameters():
            change.data.copy_(0.2 * torch.randn(change.shape, generator=generator))
        with learning.gradients():
            run.sample()
            run.generator.manual_seed(1)
            phases = [*LEARNED[method].phases(run.settings), *preservation.adversary(run.settings)]
            [phase] = [phase for phase in phases if phase.trains == name]
            loop.backward(run, phase, loop.scaler_for(run))
        return run.choices[name].logits.grad

    plain, saved = gradient(False), gradient(True)
    assert plain.abs().max() > 0
    torch.testing.assert_close(saved, plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max()))


def test_without_a_preserve_set_choices_are_among_common_words(prepare):
    run = prepare("adaptive target", preserve="").run
    texts = [text.text for text in run.choices["target"].texts]
    assert len(texts) == TARGETS and "circle" not in texts


def test_the_target_moves_against_the_weights(prepare):
    learned = prepare("adaptive target", steps=6)
    with learning.gradients():
        learning.learn(learned)
    assert learned.run.choices["target"].logits.detach().abs().max() > 0


def test_names_of_kernels_are_left_to_the_weights_choice(model):
    crossing = subject(model).weights("cross-attention")
    rest = subject(model).weights("all but cross-attention")
    assert crossing and rest and not set(crossing) & set(rest)


def test_rows_of_different_lengths_go_on_with_their_last():
    short, long = torch.randn(1, 2, 3), torch.randn(1, 4, 3)
    rows = extended([short, long])
    assert torch.equal(rows[0][:, :2], short) and torch.equal(rows[0][:, 2:], short[:, 1:].expand(-1, 2, -1))
    assert torch.equal(rows[1], long)
    assert extended([torch.ones(1), torch.zeros(1)])[0].shape == (1,)
