"""Training: under the conditions in which a host runs it, to the same result every time, leaving no trace."""

from dataclasses import fields, replace
from itertools import pairwise

import comfy.model_management
import comfy.utils
import pytest
import torch

from concept_erasure.erasure import attach, concepts, deltas, learning, training
from concept_erasure.erasure.artifact import ErasureError, load_erasure, save_erasure
from concept_erasure.erasure.methods import LEARNED
from concept_erasure.erasure.settings import PRESETS, Settings
from concept_erasure.erasure.training import Batch, Phase, Phrase
from concept_erasure.nodes import learn as learn_node
from tests import worlds
from tests.host.test_fit import sentence
from tests.host.tools import PRESERVE, assert_close, difference, only_delta, only_prompt, sample

KEPT = "\n".join(PRESERVE[:2])
SHORT = {"steps": 3, "refresh": 2, "batch": 2, "prompt_lr": 0.3, "weight_lr": 0.05}


def short(preset: str = "recommended", **changes) -> Settings:
    """A preset, cut to a few steps that each move far."""
    return learning.with_sampling(replace(PRESETS[preset], **{**SHORT, **changes}), steps=2)


@pytest.fixture(scope="module")
def encode(clip):
    """Every test needs the same few hundred texts."""
    return concepts.Encoder(clip)


@pytest.fixture(autouse=True)
def encoded_once(encode, clip, monkeypatch):
    real = concepts.Encoder
    monkeypatch.setattr(learning, "Encoder", lambda c: encode if c is clip else real(c))


@pytest.fixture
def prepare(model, clip):
    """Sets a run up; its settings are given by name."""

    def prepared(on=None, concept="circle", preserve=KEPT, resume=None, **changes):
        with torch.inference_mode(), learning.gradients():
            return learning.prepare(on or model, clip, concept, preserve, short(**changes), resume)

    return prepared


@pytest.fixture
def train(prepare):
    """Trains to the end; the learning is its second result."""

    def trained(*arguments, **changes):
        run = prepare(*arguments, **changes)
        with torch.inference_mode(), learning.gradients():
            return learning.learn(run), run

    return trained


def inputs(**changes) -> dict:
    """Train Erasure's inputs at their defaults, with some of them changed."""
    known = {i.id: getattr(i, "default", None) for i in learn_node.ErasureTrain.define_schema().inputs}
    small = {
        "concept": "circle",
        "preserve": KEPT,
        "steps": 3,
        "batch": 2,
        "width": 64,
        "height": 64,
        "sampling_steps": 2,
    }
    return {k: v for k, v in known.items() if k not in ("model", "clip", "resume")} | small | changes


@torch.inference_mode()
def execute(model, clip, **changes):
    return learn_node.ErasureTrain.execute(model, clip, **inputs(**changes)).result


# ---------------------------------------------------------------- it runs, everywhere


@pytest.mark.parametrize("method", LEARNED)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_method_and_preset_learns_something_that_a_file_can_hold(train, model, cond, tmp_path, preset, method):
    erasure, run = train(preset=preset, method=method)
    save_erasure(erasure, tmp_path / "x.safetensors")
    assert load_erasure(tmp_path / "x.safetensors").identity() == erasure.identity()
    assert len(run.progress.losses) == 3 and not run.progress.stopped
    assert (erasure.metadata.method, erasure.metadata.steps, erasure.metadata.family) == (method, "3", "ToyWorld")
    may_be_empty = ("gate_gap", "parts")
    assert all(getattr(erasure.metadata, f.name) for f in fields(erasure.metadata) if f.name not in may_be_empty)
    base, erased = (sample(m, cond("circle"), cond("")) for m in (model, attach.erase(model, erasure)))
    assert difference(base, erased) > 0.01


@pytest.mark.parametrize(
    "target", [{"target": "anchor", "anchor": "square"}, {"space": "x0"}, {"gate": False}, {"rank": 0}]
)
def test_other_settings_learn_too(train, target):
    assert all(loss > 0 for loss in train(**target)[1].progress.losses)


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

        def clone(self, disable_dynamic=False):
            raise RuntimeError("cached_patcher_init is not initialized.")

    with pytest.raises(ErasureError) as caught:
        learning._plain_patcher(Dynamic())
    assert "--disable-dynamic-vram" in sentence(caught)


def test_a_bf16_model_is_trained_with_float32_parameters(prepare, bf16_model):
    tiny = {"prompt_lr": 1e-6, "weight_lr": 1e-6}
    run = prepare(bf16_model, method="kpop", **tiny)
    assert run.run.base["diffusion_model.middle_block.1.proj_in.weight"].dtype == torch.bfloat16
    parameters = [*run.run.prompt.parameters(), *run.run.delta.parameters()]
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
            without = implied(batch, run._with_weights(run._weights(), lambda: run.edited(batch, prompt=False)))
            with_key = implied(batch, run._with_weights(run._weights(), lambda: run.edited(batch, prompt=True)))
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


# ---------------------------------------------------------------- gradients


def all_gradients(prepare, **changes) -> dict[str, torch.Tensor]:
    """Every parameter's gradient in every phase, by block."""
    run = prepare(**changes).run
    found = {}
    with torch.inference_mode(), learning.gradients():
        run.sample()
        for phase in LEARNED[run.settings.method].phases(run.settings):
            modules = {"prompt": run.prompt} if phase.trains == "prompt" else {"delta": run.delta}
            run.learn(phase)
            for name, module in modules.items():
                found |= {f"{phase.name}.{name}.{n}": p.grad.clone() for n, p in module.named_parameters()}
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
        assert gradient.abs().max() > 0, name
        assert torch.allclose(gradient, saved[name], rtol=1e-3, atol=1e-4 * float(gradient.abs().max())), name


def test_checkpointing_runs_layers_again_in_the_backward_pass(prepare, monkeypatch):
    calls = []
    real = training._checkpoint_transformer
    monkeypatch.setattr(
        training, "_CHECKPOINTED", [(training.SpatialTransformer, lambda *a: calls.append(1) or real(*a))]
    )
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
    gate = replace(run.attached.gate, threshold=1e6)
    run.attached = replace(run.attached, gate=gate)
    before = run.prompt.keys.detach().clone()
    progress = training.Progress()
    with torch.inference_mode(), learning.gradients():
        training.train(run, LEARNED["prompt only"].phases(run.settings), progress)
    assert len(progress.losses) == 3 and not progress.stopped
    assert torch.equal(run.prompt.keys, before)


def test_latents_are_drawn_for_the_texts_that_are_asked_for(prepare):
    run = prepare().run
    run.sample()
    assert all(isinstance(p, Phrase) for p in run.concept_batch().phrases)
    assert not any(isinstance(p, Phrase) for p in run.kept_batch().phrases)
    for _ in range(training.TRAJECTORIES + 1):
        run.sample()
    assert len(run.pool) == training.TRAJECTORIES


# ---------------------------------------------------------------- rates and starts


def test_rates_fall_over_the_last_share_of_the_steps():
    rates = [training.share_of_rate(step, 10, 0.5) for step in range(11)]
    assert rates[:6] == [1.0] * 6 and rates[10] == 0.0
    assert all(a - b == pytest.approx(0.2) for a, b in pairwise(rates[5:]))
    assert [training.share_of_rate(step, 10, 0.0) for step in (0, 5, 9)] == [1.0] * 3


def test_rates_that_have_fallen_change_less(train):
    falling, steady = (train(lr_decay=d)[0] for d in (1.0, 0.0))
    moved = [sum(float(c.dense().norm()) for c in erasure.delta.values()) for erasure in (falling, steady)]
    assert 0 < moved[0] < moved[1]


def test_a_low_rank_change_starts_in_the_directions_of_the_concept(encode):
    names, kept = ["circle"], PRESERVE[:2]
    speaking, silent = (
        torch.cat([encode(t).context[0] for t in texts]) for texts in concepts.gate_texts(names, kept)
    )
    found = concepts.concept_directions(encode, names, kept, 4)
    strong, weak = ((tokens @ found.T).square().mean(0).sqrt() for tokens in (speaking, silent))
    typical = float(speaking.square().mean().sqrt())  # the mean response through directions of length 1
    assert strong.tolist() == pytest.approx([typical] * 4, rel=1e-3)
    assert (strong / weak)[0] > 2 * float(speaking.square().mean().sqrt() / silent.square().mean().sqrt())
    assert bool(((strong / weak).diff() <= 1e-3).all())  # those that tell most come first


def test_only_projections_that_read_text_start_from_directions():
    shapes = {f"b.attn2.{n}.weight": torch.Size([6, 5]) for n in ("to_q", "to_k", "to_v")}
    directions = torch.arange(10.0).view(2, 5)
    delta = deltas.Delta(shapes, 3, torch.Generator().manual_seed(0), directions)
    query, key, value = (part["down"] for part in delta.parts)
    assert torch.equal(key[:2], directions) and torch.equal(value[:2], directions)
    assert not torch.equal(query[:2], directions) and key[2].any()
    assert not any(change.any() for change in delta.changes().values())


# ---------------------------------------------------------------- nothing stays behind


def test_training_leaves_the_model_and_the_globals_as_they_were(model, clip, cond):
    before = sample(model, cond("circle"), cond(""))
    with torch.inference_mode():
        learn_node.ErasureTrain.execute(model, clip, **inputs())
        assert torch.is_inference_mode_enabled() and not comfy.model_management.in_training
    assert torch.equal(sample(model, cond("circle"), cond("")), before)
    assert not attach.attachments(model) and not model.patches
    assert not any(p.requires_grad for p in model.model.parameters())


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


# ---------------------------------------------------------------- progress, interrupt, resume


@pytest.fixture
def bar(monkeypatch):
    """What the host is told of progress, as (value, total, preview); ``bar.cancel_at`` presses Cancel at a step."""

    class Bar:
        seen: list = []
        cancel_at = None

    def update_absolute(self, value, total=None, preview=None):
        Bar.seen.append((value, total, preview))
        if value == Bar.cancel_at:
            comfy.model_management.interrupt_current_processing()

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", update_absolute)
    return Bar


def test_the_host_is_told_every_step_and_shown_pictures(model, clip, bar):
    execute(model, clip)
    assert [(v, t) for v, t, _ in bar.seen] == [(1, 3), (2, 3), (3, 3)]
    kind, picture, _ = bar.seen[0][2]
    assert kind == "JPEG" and picture.size == (8, 8)


def test_an_interrupt_keeps_what_was_learned_and_is_raised_again(model, clip, cond, output, bar):
    before = sample(model, cond("circle"), cond(""))
    bar.cancel_at = 2
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        execute(model, clip, steps=50)
    [file] = (output / "erasures").glob("*.safetensors")
    assert "circle" in file.name and "interrupted" in file.name
    kept = load_erasure(file)
    assert kept.metadata.steps == "2"
    assert not comfy.model_management.in_training and not torch.is_inference_mode_enabled()
    assert torch.equal(sample(model, cond("circle"), cond("")), before)
    bar.cancel_at = None
    resumed, losses = execute(model, clip, resume=kept)
    assert resumed.metadata.steps == "5" and len(losses["loss"]) == 3


def test_an_interrupt_before_the_first_step_saves_nothing(model, clip, output):
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        execute(model, clip)
    assert not list(output.rglob("*.safetensors"))


def test_resuming_starts_from_what_was_learned(prepare, train):
    erasure, _ = train()
    run = prepare(resume=erasure).run
    assert torch.equal(run.prompt.keys, erasure.prompts[0].keys)
    assert all(torch.equal(a.dense(), erasure.delta[n].dense()) for n, a in run.delta.at_rest().items())


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"tokens": 3}, "tokens"),
        ({"method": "prompt only"}, "method"),
        ({"rank": 2}, "rank"),
        ({"weights": "values"}, "weights"),
    ],
)
def test_resuming_with_other_settings_is_refused(prepare, train, changes, word):
    erasure, _ = train()
    with pytest.raises(ErasureError) as caught:
        prepare(resume=erasure, **changes)
    assert word in sentence(caught)


# ---------------------------------------------------------------- losses that are not numbers


def run_phase(prepare, loss, steps):
    """Trains the prompt alone on a made-up loss, whose step number is counted."""
    prepared = prepare(steps=steps, refresh=1000, prompt_lr=0.01)
    count = iter(range(1, steps + 1))
    states = []

    def phase(run):
        step = next(count)
        states.append(run.prompt.keys.detach().clone())
        return loss(run, step)

    with torch.inference_mode(), learning.gradients():
        training.train(prepared.run, [Phase("made up", "prompt", phase)], prepared.progress)
    return prepared, states


def test_a_loss_that_never_was_a_number_is_an_error(prepare):
    with pytest.raises(ErasureError) as caught:
        run_phase(prepare, lambda run, step: run.prompt.keys.sum() * float("nan"), 3)
    assert "fp32 or bf16" in sentence(caught)


def test_a_loss_that_stops_being_a_number_ends_with_the_last_good_state(prepare):
    def loss(run, step):
        return run.prompt.keys.square().sum() * (1 if step < 25 else float("inf"))

    prepared, states = run_phase(prepare, loss, 60)
    keys = prepared.run.prompt.keys
    assert len(prepared.progress.losses) == 24 and "step 25" in prepared.progress.stopped
    assert any(torch.equal(keys, state) for state in states[1:24])
    assert not torch.equal(keys, states[0])
    assert prepared.progress.stopped in learn_node.summary(prepared)


@pytest.mark.parametrize("bad", [20, 21, 22])
def test_a_good_state_is_one_that_gave_a_good_loss(prepare, bad):
    """The loss of the bad step is a number still; its gradient is not, so the state after it is lost."""

    def loss(run, step):
        poison = torch.sqrt((run.prompt.keys * 0).sum()) if step == bad else 0
        return run.prompt.keys.square().sum() + poison

    prepared, _ = run_phase(prepare, loss, 60)
    assert prepared.progress.stopped
    assert torch.isfinite(prepared.run.prompt.keys).all() and torch.isfinite(prepared.run.prompt.values).all()


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"concept": ""}, ["concept is empty"]),
        ({"concept": " \n\t\n"}, ["concept is empty"]),
        ({"concept": "word " * 100}, ["longer than the 77 tokens"]),
        ({"preserve": "square\ncircle"}, ["'circle'", "both"]),
        ({"target": "anchor"}, ["anchor is empty"]),
    ],
)
def test_texts_that_cannot_be_used_are_refused(model, clip, changes, words):
    with pytest.raises(ErasureError) as caught:
        execute(model, clip, **changes)
    assert all(word in sentence(caught) for word in words)


@pytest.mark.parametrize("gate", ["on", "off"])
def test_a_name_too_long_is_refused_with_and_without_a_gate(model, clip, gate):
    with pytest.raises(ErasureError, match="longer than the 77 tokens"):
        execute(model, clip, concept="word " * 100, gate=gate)


def test_models_and_clips_that_cannot_be_used_are_refused(model, narrow_model, clip):
    for arguments, words in (
        ((worlds.model_without_attn2(), clip), ["attn2"]),
        ((model, None), ["No CLIP"]),
        ((narrow_model, clip), ["96", "64"]),
    ):
        with pytest.raises(ErasureError) as caught:
            execute(*arguments)
        assert all(word in sentence(caught) for word in words)


# ---------------------------------------------------------------- the gate that is built


def test_a_gate_is_open_for_every_phrasing_and_closed_for_what_is_kept(model, clip):
    gate, gap = concepts.build_gate(concepts.Encoder(clip), ["circle", "disc"], PRESERVE)
    encode = concepts.Encoder(clip)
    is_open = {
        text: bool(concepts.gate_score(encode(text).context, gate) >= gate.threshold)
        for text in (
            "a circle",
            "a photo of a disc",
            "red circle, dotted",
            "",
            "a square",
            "red",
            "a photo of a dotted square",
        )
    }
    assert list(is_open.values()) == [True, True, True, False, False, False, False], is_open
    assert gap > 0


def test_lines_are_names_once_each():
    assert concepts.lines(" cat \n\nkitten\ncat\n") == ["cat", "kitten"]


def test_settings_that_the_node_leaves_to_the_preset(model):
    for name, preset in PRESETS.items():
        chosen = learn_node.settings_from(model, inputs(preset=name, steps=0, batch=0))
        kept = {"sampling", "seed", "target", "anchor", "checkpointing"}
        assert all(getattr(chosen, f.name) == getattr(preset, f.name) for f in fields(preset) if f.name not in kept)
    chosen = learn_node.settings_from(model, inputs(rank=0, eta=0.0, preserve_weight=0.0, gate="off", loss_space="x0"))
    assert (chosen.rank, chosen.eta, chosen.preserve_weight, chosen.gate, chosen.space) == (0, 0.0, 0.0, False, "x0")
    assert chosen.sampling.shape == (4, 8, 8)


def test_a_key_alone_can_be_attached_to_a_published_erasure(train, model):
    erasure, _ = train()
    published = attach.erase(model, erasure.without_key())
    assert attach.attachments(attach.recover(published, erasure.key_only()))
