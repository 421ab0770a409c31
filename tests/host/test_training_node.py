"""Training from the graph: progress, Cancel, resuming, and inputs that cannot be used."""

import re
from dataclasses import fields, replace

import comfy.model_management
import comfy.utils
import pytest
import torch

from concept_erasure.erasure import learning
from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.files import load_erasure
from concept_erasure.erasure.host import subject
from concept_erasure.erasure.methods import preset_for
from concept_erasure.erasure.parts.prompt import PromptTensors
from concept_erasure.erasure.texts import encoder, recall
from concept_erasure.erasure.training.settings import PRESETS
from concept_erasure.nodes import learn as learn_node
from concept_erasure.nodes import learn_old, watch
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

    def step(self, done, loss):
        real(self, done, loss)
        if done == Bar.cancel_at:
            comfy.model_management.interrupt_current_processing()

    real = watch.Watch.step
    monkeypatch.setattr(watch.Watch, "step", step)
    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", update_absolute)
    return Bar


@pytest.fixture
def said(monkeypatch):
    """What is written on the node, all of it and at once."""
    texts: list[str] = []

    def show(node, text, place=None):
        texts.append(text)
        return real(node, text, place)

    real = learn_node.show
    for module in (learn_node, watch):
        monkeypatch.setattr(module, "show", show)
    monkeypatch.setattr(watch, "SECONDS", 0.0)
    learning.MEMORY.forget()
    return texts


def test_the_bar_runs_once_over_all_that_is_done(model, clip, bar):
    execute(model, clip)
    places = [value for value, _, _ in bar.seen]
    assert {total for _, total, _ in bar.seen} == {watch.WHOLE}
    assert places == sorted(places) and places.count(watch.WHOLE) == 1


@pytest.mark.parametrize(("weights_start", "same"), [("unchanged", True), ("closed form", False)])
def test_what_the_concept_was_is_seen_beside_what_it_is_now(model, clip, bar, weights_start, same):
    """The unedited model, the edited one where it starts, and at the end."""
    execute(model, clip, weights_start=weights_start)
    kind, picture, _ = [preview for _, _, preview in bar.seen if preview][-1]
    before, start, end = (picture.crop((left, 0, left + 128, 128)).tobytes() for left in (0, 129, 258))
    assert kind == "JPEG" and picture.size == (3 * 128 + 2, 128)
    assert (before == start) is same and before != end


def test_each_phase_is_said_by_name_and_with_its_own_count(clip, model, said, monkeypatch):
    monkeypatch.setattr(subject, "Encoder", encoder.Encoder)
    recall.ROWS.clear()  # what other tests have read is not read again
    execute(model, clip)
    heads = list(dict.fromkeys(re.split(r"[:…]", text)[0].strip() for text in said))
    assert heads[: heads.index("Training") + 1] == [
        "Reading the names", "Looking for the concept's neighbours", "Fitting the text gate",
        "Reading the texts to learn on", "Checking the words", "Drawing the concept to see what has become of it",
        "Drawing latents to learn on", "Training",
    ]  # fmt: skip
    assert any(re.match(r"Fitting the text gate: 64 of \d+ texts read, about \d+ s left\.", text) for text in said)
    assert "Drawing latents to learn on: 1 of 2 sampling steps, about" in "\n".join(said)
    assert "Training: step 2 of 3, about" in "\n".join(said)


def test_it_ends_with_a_verdict_and_the_values_that_were_used(model, clip, said):
    execute(model, clip)
    verdict, *rest = said[-1].splitlines()
    assert "model's predictions moved" in verdict and "loss 0" not in said[-1]
    assert "Method kpop: 3 steps (the preset has 100) of 2 latents, seed 0." in rest


def test_an_interrupt_keeps_what_was_learned_and_is_raised_again(model, clip, cond, output, bar, said):
    before = sample(model, cond("circle"), cond(""))
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
    assert torch.equal(run.beside.prompt.keys, erasure.of(PromptTensors)[0].keys)
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


def settings_from(model, **given):
    """The settings of a training with these inputs."""
    return learn_old.settings_from(model, inputs(**given), preset_for(given.get("preset", "recommended")))


def test_settings_that_the_node_leaves_to_the_preset(model):
    for name in PRESETS:
        preset = preset_for(name)
        chosen = settings_from(model, preset=name, steps=0, batch=0)
        kept = {"sampling", "seed", "anchor", "checkpointing"}
        assert all(getattr(chosen, f.name) == getattr(preset, f.name) for f in fields(preset) if f.name not in kept)
    chosen = settings_from(model, rank=0, eta=0.0, preserve_weight=0.0, gate="off", loss_space="x0")
    assert (chosen.rank, chosen.eta, chosen.preserve_weight, chosen.gate, chosen.space) == (0, 0.0, 0.0, False, "x0")
    assert chosen.sampling.shape == (4, 8, 8)


def test_a_rate_that_is_typed_holds_for_layers_of_every_width(model):
    left, typed = (settings_from(model, weight_lr=rate) for rate in (0.0, 1e-5))
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


def test_a_typed_anchor_is_used_and_one_that_is_not_is_said(model, clip, said):
    assert execute(model, clip, anchor="moon", target="from preset")[0].targets == ["moon"]
    execute(model, clip, anchor="moon", target="empty prompt")
    assert "⚠ The anchor 'moon' is not used, because target is 'empty prompt'" in said[-1]


def test_models_and_clips_that_cannot_be_used_are_refused(model, narrow_model, clip):
    for arguments, words in (
        ((worlds.model_without_attn2(), clip), ["BaseModel"]),
        ((model, None), ["No CLIP"]),
        ((narrow_model, clip), ["96", "64"]),
    ):
        with pytest.raises(ErasureError) as caught:
            execute(*arguments)
        assert all(word in sentence(caught) for word in words)
