"""Training from the graph: progress, Cancel, resuming, and inputs that cannot be used."""

from dataclasses import fields, replace

import comfy.model_management
import comfy.utils
import pytest
import torch

from concept_erasure.erasure.artifact import ErasureError, load_erasure
from concept_erasure.erasure.methods import preset_for
from concept_erasure.erasure.settings import PRESETS
from concept_erasure.nodes import learn as learn_node
from tests import worlds
from tests.host.test_fit import sentence
from tests.host.tools import execute, inputs, sample

pytestmark = pytest.mark.usefixtures("encoded_once")


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
    assert kind == "JPEG" and picture.size == (8 + 1 + 8, 8)


@pytest.mark.parametrize(("weights_start", "same"), [("unchanged", True), ("closed form", False)])
def test_what_the_concept_was_is_seen_beside_what_it_is_now(model, clip, bar, weights_start, same):
    execute(model, clip, steps=1, weights_start=weights_start)
    [(_, picture, _)] = [preview for _, _, preview in bar.seen if preview]
    before, now = (picture.crop((left, 0, left + 8, 8)).tobytes() for left in (0, 9))
    assert (before == now) is same


def test_the_node_says_how_long_it_will_take(model, clip, monkeypatch):
    said = []
    monkeypatch.setattr(learn_node, "SECONDS", 0.0)
    monkeypatch.setattr(learn_node, "show", lambda node, text: said.append(text))
    execute(model, clip)
    assert said[0].startswith("Step 2 of 3, loss ") and "s left" in said[0]
    assert len(said) == 2 and "model's predictions moved" in said[1] and "\n3 steps, loss" in said[1]


def test_an_interrupt_keeps_what_was_learned_and_is_raised_again(model, clip, cond, output, bar, monkeypatch):
    before = sample(model, cond("circle"), cond(""))
    said = []
    monkeypatch.setattr(learn_node, "show", lambda node, text: said.append(text))
    bar.cancel_at = 2
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        execute(model, clip, steps=50)
    [file] = (output / "erasures").glob("*.safetensors")
    assert "circle" in file.name and "interrupted" in file.name
    kept = load_erasure(file)
    assert kept.metadata.steps == "2"
    assert said[-1].startswith(f"Ended early; the 2 steps learned so far are in output/erasures/{file.name}")
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


def test_resuming_on_another_family_or_for_another_concept_is_refused(prepare, train):
    erasure, _ = train()
    with pytest.raises(ErasureError, match="was made for"):
        prepare(resume=replace(erasure, metadata=replace(erasure.metadata, context_dim="64")))
    with pytest.raises(ErasureError, match="erases 'circle' and not 'star'"):
        prepare(concept="star", resume=erasure)
    assert prepare(concept="disc\nCircle", resume=erasure).names == ["disc", "Circle"]


# ---------------------------------------------------------------- inputs


def test_settings_that_the_node_leaves_to_the_preset(model):
    for name in PRESETS:
        preset = preset_for(name)
        chosen = learn_node.settings_from(model, inputs(preset=name, steps=0, batch=0))
        kept = {"sampling", "seed", "anchor", "checkpointing"}
        assert all(getattr(chosen, f.name) == getattr(preset, f.name) for f in fields(preset) if f.name not in kept)
    chosen = learn_node.settings_from(model, inputs(rank=0, eta=0.0, preserve_weight=0.0, gate="off", loss_space="x0"))
    assert (chosen.rank, chosen.eta, chosen.preserve_weight, chosen.gate, chosen.space) == (0, 0.0, 0.0, False, "x0")
    assert chosen.sampling.shape == (4, 8, 8)


def test_a_rate_that_is_typed_holds_for_layers_of_every_width(model):
    left, typed = (learn_node.settings_from(model, inputs(weight_lr=rate)) for rate in (0.0, 1e-5))
    assert left.width > 0 == typed.width and typed.weight_lr == 1e-5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"concept": ""}, ["concept is empty"]),
        ({"concept": " \n\t\n"}, ["concept is empty"]),
        ({"preserve": "square\ncircle"}, ["'circle'", "both"]),
        ({"target": "anchor"}, ["anchor is empty"]),
        ({"preserve_by": "adversarial", "preserve_weight": 0.0}, ["preserve_weight above 0"]),
    ],
)
def test_texts_that_cannot_be_used_are_refused(model, clip, changes, words):
    with pytest.raises(ErasureError) as caught:
        execute(model, clip, **changes)
    assert all(word in sentence(caught) for word in words)


@pytest.mark.parametrize("gate", ["on", "off"])
def test_a_name_too_long_for_the_text_encoder_is_learned_as_far_as_it_is_read(model, clip, gate):
    erasure, _ = execute(model, clip, concept="word " * 100, gate=gate)
    assert erasure.names == [" ".join(["word"] * 75)] and "as much of its name as" in erasure.metadata.notes


def test_several_lines_are_names_of_one_concept_and_the_node_says_so(train):
    erasure, _ = train(concept="circle -> square, disc")
    assert (erasure.names, erasure.targets[0]) == (["circle", "disc"], "square")
    assert 'Read 2 names: "circle", "disc" of one concept.' in erasure.metadata.notes


def test_an_arrow_to_nothing_is_learned_from_the_closed_form_too(model, clip):
    chosen = {"target": "from preset", "weights_start": "closed form"}
    erasure, _ = execute(model, clip, concept="circle ->\nring -> moon", **chosen)
    assert (erasure.names, erasure.targets) == (["circle", "ring"], ["", "moon"])


def test_a_strength_behind_a_colon_is_not_for_training(model, clip):
    with pytest.raises(ErasureError, match="'circle' without it"):
        execute(model, clip, concept="circle : 0.5")


def test_a_typed_anchor_is_used_and_one_that_is_not_is_said(model, clip, monkeypatch):
    assert execute(model, clip, anchor="moon", target="from preset")[0].targets == ["moon"]
    said = []
    monkeypatch.setattr(learn_node, "show", lambda node, text: said.append(text))
    execute(model, clip, anchor="moon", target="empty prompt")
    assert "⚠ The anchor 'moon' is not used, because target is 'empty prompt'" in said[-1]


def test_models_and_clips_that_cannot_be_used_are_refused(model, narrow_model, clip):
    for arguments, words in (
        ((worlds.model_without_attn2(), clip), ["attn2"]),
        ((model, None), ["No CLIP"]),
        ((narrow_model, clip), ["96", "64"]),
    ):
        with pytest.raises(ErasureError) as caught:
            execute(*arguments)
        assert all(word in sentence(caught) for word in words)
