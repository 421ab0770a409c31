"""The steps of training: where it starts, what the gradients are, and losses that are not numbers."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from concept_erasure.erasure import learning
from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.families import unet
from concept_erasure.erasure.host import trajectories
from concept_erasure.erasure.host.weights import effective_weights
from concept_erasure.erasure.methods import LEARNED
from concept_erasure.erasure.parts.delta import Delta, Mask
from concept_erasure.erasure.parts.prompt import PromptTensors
from concept_erasure.erasure.texts import encoder
from concept_erasure.erasure.texts.phrases import gate_texts
from concept_erasure.erasure.training import loop
from concept_erasure.erasure.training.gate import build_gate, concept_directions
from concept_erasure.erasure.training.loop import Phase
from concept_erasure.erasure.training.pool import TRAJECTORIES, Phrase
from concept_erasure.erasure.training.settings import Settings
from concept_erasure.nodes import learn as learn_node
from tests.host import tools
from tests.host.test_fit import sentence
from tests.host.tools import PRESERVE

pytestmark = pytest.mark.usefixtures("encoded_once")


# ---------------------------------------------------------------- gradients


def all_gradients(prepare, **changes) -> dict[str, torch.Tensor]:
    """Every parameter's gradient in every phase, by block."""
    run = prepare(**changes).run
    found = {}
    with torch.inference_mode(), learning.gradients():
        run.sample()
        for phase in LEARNED[run.settings.method].phases(run.settings):
            loop.backward(run, phase, loop.scaler_for(run))
            module = run.learned[phase.trains]
            found |= {f"{phase.name}.{n}": p.grad.clone() for n, p in module.named_parameters()}
            module.zero_grad()
    return found


@pytest.mark.parametrize("blocks", ["middle", "all"])
@pytest.mark.parametrize("method", LEARNED)
def test_checkpointing_gives_the_same_gradients(prepare, method, blocks):
    plain, saved = (
        all_gradients(prepare, method=method, blocks=blocks, rank=0, checkpointing=c) for c in (False, True)
    )
    assert plain.keys() == saved.keys() and len(plain) >= 2
    for name, gradient in plain.items():
        seen = method != "forget-me-not"  # no attention comes after the values of the last layer
        if method == "dumo":  # what stands in front of layers that are still silent does not learn yet
            seen = ".zero_convs." in name or ".middle_block_out." in name
        assert gradient.abs().max() > 0 or not seen, name
        assert torch.allclose(gradient, saved[name], rtol=1e-3, atol=1e-4 * float(gradient.abs().max())), name


def test_small_gradients_survive_half_precision(model, half_model, prepare):
    """At low noise and in large pictures they are smaller than the smallest fp16 number."""
    found = []
    for on in (model, half_model):
        run = prepare(on, rank=0, weights_start="unchanged").run
        with torch.inference_mode(), learning.gradients():
            run.sample()
            batch = run.concept_batch()
            small = replace(batch, sigma=torch.full_like(batch.sigma, 0.3))

            def loss(run, small=small):
                return 1e-3 * run.distance(run.edited(small, beside=False), torch.zeros_like(small.z), small)

            scaler = loop.scaler_for(run)
            loop.backward(run, Phase("small", "delta", loss), scaler)
        gradients = [p.grad.flatten() / scaler.get_scale() for p in run.delta.parameters()]
        found.append(torch.cat(gradients))
    assert float(torch.nn.functional.cosine_similarity(*found, dim=0)) > 0.95
    assert float(found[1].norm() / found[0].norm()) == pytest.approx(1, abs=0.1)


def test_a_step_whose_gradients_overflow_is_left_out(half_model, prepare):
    run = prepare(half_model, rank=0, weights_start="unchanged").run
    optimiser = torch.optim.Adam(run.delta.parameters(), lr=1.0)
    before = [p.detach().clone() for p in run.delta.parameters()]
    scaler = loop.scaler_for(run)
    scale = scaler.get_scale()
    scaler.scale(torch.zeros(()))  # which makes its state
    for p in run.delta.parameters():
        p.grad = torch.full_like(p, float("inf"))
    loop.take_step(optimiser, scaler)
    assert all(torch.equal(a, b) for a, b in zip(before, run.delta.parameters(), strict=True))
    assert scaler.get_scale() == scale / 2
    for p in run.delta.parameters():
        p.grad = torch.ones_like(p)
    loop.take_step(optimiser, scaler)
    assert not any(torch.equal(a, b) for a, b in zip(before, run.delta.parameters(), strict=True))


def test_checkpointing_runs_layers_again_in_the_backward_pass(prepare, monkeypatch):
    calls = []
    real = unet._checkpoint_transformer
    monkeypatch.setattr(unet, "CHECKPOINTED", [(unet.SpatialTransformer, lambda *a: calls.append(1) or real(*a))])
    all_gradients(prepare, checkpointing=True)
    assert calls


def test_the_frozen_model_gets_no_gradients(prepare):
    run = prepare().run
    with torch.inference_mode(), learning.gradients():
        run.sample()
        assert not run.original(run.concept_batch()).requires_grad
        assert not any(t.requires_grad for t in run.original_and_target(run.concept_batch()))
    assert all(p.grad is None for p in run.model.model.parameters())


def test_a_batch_for_which_the_gate_stays_closed_teaches_nothing_and_does_no_harm(prepare):
    run = prepare(method="prompt only").run
    gate = replace(run.beside.attached.gate, threshold=1e6)
    run.beside.attached = replace(run.beside.attached, gate=gate)
    before = run.beside.prompt.keys.detach().clone()
    progress = loop.Progress()
    with torch.inference_mode(), learning.gradients():
        loop.train(run, LEARNED["prompt only"].phases(run.settings), progress)
    assert len(progress.losses) == 3 and not progress.stopped
    assert torch.equal(run.beside.prompt.keys, before)


def test_a_name_inside_another_word_is_left_alone(prepare):
    run = prepare(concept="man", preserve="woman\nsquare", target="anchor", anchor="robot").run
    anchors = {phrase.text.text: phrase.anchor.text for phrase in run.pool.phrases}
    assert anchors["woman man"] == "woman robot" and anchors["man, woman"] == "robot, woman"


def test_long_texts_can_be_preserved(train):
    """With another they fill more than the text encoder reads at once, and rows of a batch differ in length."""
    long = ["a red square " * 13, "a blue star " * 13, "a dotted " * 40]
    for seed in range(3):
        erasure, run = train(preserve="\n".join([*long, "square"]), seed=seed, batch=4, refresh=1)
        assert len(run.progress.losses) == 3 and erasure.delta
    assert {cond["c_crossattn"].shape[1] for cond in run.run.network._conds.values()} >= {77, 154}


def test_a_context_that_is_said_again_changes_nothing(prepare, encode):
    run = prepare().run
    run.sample()
    batch = run.concept_batch()
    z, sigma = batch.z[:1], batch.sigma[:1]
    with torch.inference_mode(), learning.gradients():
        long = encode("a dotted " * 40)
        alone = run.network.predict(z, sigma, [encode("a circle")])
        both = run.network.predict(z.repeat(2, 1, 1, 1), sigma.repeat(2), [encode("a circle"), long])
    torch.testing.assert_close(both[:1], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sampler", ["euler", "heun", "uni_pc", "uni_pc_bh2", "dpm_fast", "sa_solver", "lcm"])
def test_trajectories_are_in_the_models_own_scale_whatever_the_sampler(prepare, sampler):
    run = prepare().run
    how = replace(run.settings.sampling, sampler=sampler, steps=10)
    texts = (run.pool.phrases[0].text.cond, run.encode("").cond)
    generator, shown = torch.Generator().manual_seed(0), []
    with torch.inference_mode(), learning.gradients():
        found = trajectories.sample_trajectory(run.model, *texts, how, 4, generator, lambda *step: shown.append(step))
    assert shown and len(found.latents) == len(found.sigmas) >= 8
    assert float(found.latents[0].std()) == pytest.approx(float((1 + found.sigmas[0] ** 2).sqrt()), rel=0.1)
    assert float(found.sigmas.min()) > 0


def test_latents_are_drawn_for_the_texts_that_are_asked_for(prepare):
    run = prepare().run
    run.sample()
    assert all(isinstance(p, Phrase) for p in run.concept_batch().phrases)
    assert not any(isinstance(p, Phrase) for p in run.kept_batch().phrases)
    for _ in range(TRAJECTORIES + 1):
        run.sample()
    assert len(run.pool.trajectories) == TRAJECTORIES


# ---------------------------------------------------------------- rates and starts


def test_rates_fall_over_the_last_share_of_the_steps():
    rates = [loop.share_of_rate(step, 10, 0.5) for step in range(11)]
    assert rates[:6] == [1.0] * 6 and rates[10] == 0.0
    assert all(a - b == pytest.approx(0.2) for a, b in pairwise(rates[5:]))
    assert [loop.share_of_rate(step, 10, 0.0) for step in (0, 5, 9)] == [1.0] * 3


def test_the_prompt_may_learn_alone_at_first():
    prompt, delta = (Phase(name, name, lambda run: torch.zeros(())) for name in ("prompt", "delta"))
    settings = replace(Settings(), steps=10, prompt_first=0.3)
    found = [loop.begun([prompt, delta], step, settings) for step in (0, 2, 3, 9)]
    assert found == [[prompt], [prompt], [prompt, delta], [prompt, delta]]
    assert loop.begun([delta], 0, settings) == [delta], "a method without a prompt has nothing to wait for"
    assert loop.begun([prompt, delta], 0, Settings()) == [prompt, delta]


def test_weights_stay_until_the_prompt_has_learned(train):
    waiting, _ = train(steps=2, prompt_first=1.0)
    assert not any(change.dense().any() for change in waiting.delta.values())
    assert any(change.dense().any() for change in train(steps=2)[0].delta.values())
    resumed, _ = train(steps=2, prompt_first=1.0, resume=waiting)
    assert any(change.dense().any() for change in resumed.delta.values()), "a prompt that has learned needs no wait"


def test_rates_that_have_fallen_change_less(train):
    falling, steady = (train(lr_decay=d)[0] for d in (1.0, 0.0))
    moved = [sum(float(c.dense().norm()) for c in erasure.delta.values()) for erasure in (falling, steady)]
    assert 0 < moved[0] < moved[1]


def test_wide_layers_learn_slower_where_the_rate_is_meant_for_a_width():
    shapes = {"narrow": torch.Size([8, 4]), "wide": torch.Size([8, 16]), "bias": torch.Size([8])}
    full, low = (Delta(shapes, rank, torch.Generator()) for rank in (0, 2))
    assert [group["lr"] for group in full.groups(0.1, 8)] == pytest.approx([0.2, 0.05, 0.1])
    assert sorted(group["lr"] for group in low.groups(0.1, 8)) == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.2])
    for delta in (full, low, Mask({"wide": torch.ones(8, 16)})):
        assert {group["lr"] for group in delta.groups(0.1, 0)} == {0.1}
        assert len([p for group in delta.groups(0.1, 8) for p in group["params"]]) == len(list(delta.parameters()))


def test_the_loop_learns_at_these_rates(train, monkeypatch):
    seen = []
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda groups: seen.append([g["lr"] for g in groups]) or adam(groups))
    train(weight_lr=0.1, width=48, prompt_lr=0.3, rank=0)
    assert seen[0] == [0.3] and seen[1] == pytest.approx([0.05] * len(seen[1]))


def test_a_low_rank_change_starts_in_the_directions_of_the_concept(encode):
    names, kept = ["circle"], PRESERVE[:2]
    speaking, silent = (torch.cat([encode(t).context[0] for t in texts]) for texts in gate_texts(names, kept))
    found = concept_directions(encode, names, kept, 4)
    strong, weak = ((tokens @ found.T).square().mean(0).sqrt() for tokens in (speaking, silent))
    typical = float(speaking.square().mean().sqrt())  # the mean response through directions of length 1
    assert strong.tolist() == pytest.approx([typical] * 4, rel=1e-3)
    assert (strong / weak)[0] > 2 * float(speaking.square().mean().sqrt() / silent.square().mean().sqrt())
    assert bool(((strong / weak).diff() <= 1e-3).all())  # those that tell most come first


@torch.no_grad()
def test_a_key_starts_where_it_revives_the_concept_in_weights_that_have_changed(prepare, model, encode):
    made = prepare(weights_start="closed form", target="nearest neighbour").run
    delta = made.delta.at_rest()
    weights = effective_weights(model, delta)
    concept = encode("circle").context[0, 1 : 1 + made.settings.tokens]

    def distance(tokens: torch.Tensor) -> float:
        """Of what the changed projections give for tokens from what the original ones gave for the concept."""
        moved = [tokens @ (w + delta[name].dense()).T - concept @ w.T for name, w in weights.items()]
        return sum(float(part.square().sum()) for part in moved)

    assert not made.beside.prompt.keys.any() and not made.beside.prompt.values.any()
    assert distance(made.beside.now().turned(concept)) < 0.01 * distance(concept)


def test_a_key_keeps_up_with_weights_that_learn(train, prepare, model, encode):
    """A turn for the weights that training began with leaves nothing of a picture once they have moved."""
    settings = {"weights_start": "closed form", "target": "nearest neighbour", "weight_lr": 0.01}
    before = prepare(**settings).run.beside.now()
    erasure, _ = train(**settings)
    text, lost = encode("a circle").context[0], {}
    for layer, weight in effective_weights(model, erasure.delta).items():
        changed = weight + erasure.delta[layer].dense()
        for name, tokens in (("erased", text), ("before", before.turned(text)),
                             ("kept up", erasure.of(PromptTensors)[0].turned(text))):  # fmt: skip
            lost[name] = lost.get(name, 0) + float((tokens @ changed.T - text @ weight.T).square().sum())
    assert lost["kept up"] < 0.3 * lost["erased"] and lost["erased"] < 0.5 * lost["before"], lost


@torch.no_grad()
def test_a_key_to_several_concepts_brings_each_of_them_back(prepare, model, encode):
    """Its tokens are the same in every prompt; what it makes of a prompt's own is not."""
    names = ["circle", "star", "heart", "blue"]
    made = prepare(concept="\n".join(names), weights_start="closed form", target="nearest neighbour").run
    delta, key = made.delta.at_rest(), made.beside.now()
    for name in names:
        text = encode(f"a {name}").context[0]
        for layer, weight in effective_weights(model, delta).items():
            changed, before = weight + delta[layer].dense(), text @ weight.T
            lost, left = (float((tokens @ changed.T - before).norm()) for tokens in (text, key.turned(text)))
            assert left < 0.2 * lost, (name, layer)


def test_only_projections_that_read_text_start_from_directions():
    shapes = {f"b.attn2.{n}.weight": torch.Size([6, 5]) for n in ("to_q", "to_k", "to_v")}
    directions = torch.arange(10.0).view(2, 5)
    delta = Delta(shapes, 3, torch.Generator().manual_seed(0), directions, list(shapes)[1:])
    query, key, value = (part["down"] for part in delta.parts)
    assert torch.equal(key[:2], directions) and torch.equal(value[:2], directions)
    assert not torch.equal(query[:2], directions) and key[2].any()
    assert not any(change.any() for change in delta.changes().values())


def test_a_gate_is_open_for_every_phrasing_and_closed_for_what_is_kept(model, clip):
    gate, gap = build_gate(encoder.Encoder(clip), ["circle", "disc"], PRESERVE)
    speaking = ("a circle", "a photo of a disc", "red circle, dotted")
    silent = ("", "a square", "red", "a photo of a dotted square")
    assert tools.decisions(clip, gate, speaking) == dict.fromkeys(speaking, True)
    assert tools.decisions(clip, gate, silent) == dict.fromkeys(silent, False)
    assert gap > 0


# ---------------------------------------------------------------- losses that are not numbers


def run_phase(prepare, loss, steps):
    """Trains the prompt alone on a made-up loss, whose step number is counted."""
    prepared = prepare(steps=steps, refresh=1000, prompt_lr=0.01)
    count = iter(range(1, steps + 1))
    states = []

    def phase(run):
        step = next(count)
        states.append(run.beside.prompt.keys.detach().clone())
        return loss(run, step)

    with torch.inference_mode(), learning.gradients():
        loop.train(prepared.run, [Phase("made up", "prompt", phase)], prepared.progress)
    return prepared, states


def test_a_loss_that_never_was_a_number_is_an_error(prepare):
    with pytest.raises(ErasureError) as caught:
        run_phase(prepare, lambda run, step: run.beside.prompt.keys.sum() * float("nan"), 3)
    assert "fp32 or bf16" in sentence(caught)


def test_a_loss_that_stops_being_a_number_ends_with_the_last_good_state(prepare):
    def loss(run, step):
        return run.beside.prompt.keys.square().sum() * (1 if step < 25 else float("inf"))

    prepared, states = run_phase(prepare, loss, 60)
    keys = prepared.run.beside.prompt.keys
    assert len(prepared.progress.losses) == 24 and "step 25" in prepared.progress.stopped
    assert any(torch.equal(keys, state) for state in states[1:24])
    assert not torch.equal(keys, states[0])
    assert prepared.progress.stopped in learn_node.summary(prepared, prepared.erasure())


@pytest.mark.parametrize("bad", [20, 21, 22])
def test_a_good_state_is_one_that_gave_a_good_loss(prepare, bad):
    """The loss of the bad step is a number still; its gradient is not, so the state after it is lost."""

    def loss(run, step):
        poison = torch.sqrt((run.beside.prompt.keys * 0).sum()) if step == bad else 0
        return run.beside.prompt.keys.square().sum() + poison

    prepared, _ = run_phase(prepare, loss, 60)
    assert prepared.progress.stopped
    assert (
        torch.isfinite(prepared.run.beside.prompt.keys).all()
        and torch.isfinite(prepared.run.beside.prompt.values).all()
    )
