"""Train Erasure in eight inputs, its settings on a node of their own, and what it remembers and chooses."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import comfy.model_base
import folder_paths
import pytest
import torch
from PIL import Image

from concept_erasure.erasure import learning
from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.families.family import WEIGHTS
from concept_erasure.erasure.host.subject import Subject, subject
from concept_erasure.erasure.methods import LEARNED, preset_for
from concept_erasure.erasure.request import Request
from concept_erasure.erasure.texts import encoder
from concept_erasure.erasure.texts.names import Name
from concept_erasure.erasure.training import last_states, loop, pool, setting_up
from concept_erasure.erasure.training.memory import Memory
from concept_erasure.erasure.training.pictures import picture_size
from concept_erasure.erasure.training.settings import FROM_PRESET, PRESETS, Own
from concept_erasure.nodes import learn as learn_node
from concept_erasure.nodes import watch
from concept_erasure.nodes.instant import ErasureText
from concept_erasure.nodes.learn import ErasureLearn, ErasureTrainingSettings
from scripts.client import WIDGET_TYPES
from tests import families
from tests.host import tools
from tests.host.test_fit import sentence

pytestmark = pytest.mark.usefixtures("encoded_once")

LEFT = {None: {}} | {method: {"method": method} for method in LEARNED}
SHORT = Own({"batch": 2, "target": "empty prompt", "weights_start": "unchanged", "gate": False}, {"steps": 2})
GATED = replace(SHORT, learning={**SHORT.learning, "gate": True})


@torch.inference_mode()
def run(model, clip, own: Own = SHORT, **changes):
    given = {"concept": "circle", "preserve": tools.KEPT, "steps": 3, "settings": own, **changes}
    return ErasureLearn.execute(model, clip, **given)


def fields(**changes) -> dict:
    """Training Settings' inputs as the node shows them at first, with some of them changed."""
    return {i.id: i.default for i in ErasureTrainingSettings.define_schema().inputs if i.id != "only_in"} | changes


# ---------------------------------------------------------------- inputs


def test_it_has_eight_inputs_and_no_more_widgets_than_six():
    schema = ErasureLearn.define_schema()
    needed = [i.id for i in schema.inputs if i.id not in ("resume", "settings", "vae")]
    assert needed == ["model", "clip", "concept", "preserve", "preset", "target", "steps", "seed"]
    widgets = [i for i in schema.inputs if i.get_io_type() in WIDGET_TYPES]
    assert len(widgets) == 6 and not any(getattr(i, "control_after_generate", None) for i in widgets)


def test_nothing_set_is_what_the_preset_has(model):
    for name, method in (("recommended", None), ("recommended", "esd"), ("paper v2", None), ("paper v3", "sdd")):
        own = learn_node.own_from(fields(**({"method": method} if method else {})))
        preset = preset_for(name, method)
        chosen = learn_node.settings_from(model, name, "", preset.steps, 0, own)
        assert chosen == replace(preset, sampling=replace(preset.sampling, shape=(4, 8, 8)))


def test_a_preset_changes_the_nearest_weights_that_a_model_offers(model):
    """And says so; what a user has set himself is not replaced."""
    flux, anima = (families.load(families.TINY[name]) for name in ("Flux.1", "Anima"))
    for preset, method in (("paper v2", None), ("paper v3", None), ("recommended", "pruning"), ("recommended", "esd")):
        assert preset_for(preset, method).weights == "cross-attention"
        chosen = [
            learn_node.settings_from(m, preset, "", 1, 0, Own(LEFT[method])).weights for m in (flux, anima, model)
        ]
        assert chosen == ["keys+values", "cross-attention", "cross-attention"]
        assert "'keys+values'" in learn_node.nearest_weights(flux, preset, method)[0]
        assert not learn_node.nearest_weights(anima, preset, method)
        subject(anima).weights("cross-attention")
    own = Own({"weights": "cross-attention"})
    assert learn_node.settings_from(flux, "paper v2", "", 1, 0, own).weights == "cross-attention"
    with pytest.raises(ErasureError, match="cross-attention"):
        subject(flux).weights("cross-attention")


def test_weights_of_a_cross_attention_behind_an_adapter():
    """The adapter has one of its own, which nothing changes: what it makes of a text is given to a run."""
    anima = families.load(families.TINY["Anima"])
    of = {choice: set(subject(anima).weights(choice)) for choice in WEIGHTS}
    assert not any("llm_adapter" in name for names in of.values() for name in names)
    assert {name.rsplit(".", 2)[1] for name in of["cross-attention"]} == {"q_proj", "k_proj", "v_proj", "output_proj"}
    assert of["values"] < of["keys+values"] < of["cross-attention"]
    assert of["all but cross-attention"] and not of["all but cross-attention"] & of["cross-attention"]


def test_steps_show_the_number_of_the_preset_they_start_with():
    [steps] = [i for i in ErasureLearn.define_schema().inputs if i.id == "steps"]
    assert steps.default == preset_for("recommended").steps > 0 and steps.min == 1
    assert all(f"{preset_for(name).steps:,}" in steps.tooltip for name in PRESETS)


def test_every_setting_arrives(model):
    numbers = {"prompt_lr": "0.5", "weight_lr": "1e-5", "tokens": "3", "rank": "0", "batch": "5", "eta": "0.5"}
    numbers |= {"preserve_weight": "0", "sampling_steps": "9", "cfg": "7", "width": "128", "height": "96"}
    choices = {"method": "esd", "target": "empty prompt", "blocks": "middle", "start": "noise", "gate": "off"}
    choices |= {"weights": "values", "weights_start": "closed form", "loss_space": "noise", "best_of": "2"}
    choices |= {"preserve_by": "all", "sampler": "heun", "scheduler": "simple", "checkpointing": "on"}
    given = fields(**numbers, **choices)
    assert FROM_PRESET not in given.values()
    s = learn_node.settings_from(model, "paper v2", "", 7, 9, learn_node.own_from(given))
    assert (s.method, s.steps, s.seed, s.prompt_lr, s.weight_lr, s.width) == ("esd", 7, 9, 0.5, 1e-5, 0)
    assert (s.tokens, s.rank, s.batch, s.eta, s.preserve_weight, s.best_of) == (3, 0, 5, 0.5, 0.0, 2)
    assert (s.target, s.blocks, s.start, s.gate, s.weights) == ("empty prompt", "middle", "noise", False, "values")
    assert (s.weights_start, s.space, s.preserve_by, s.checkpointing) == ("closed form", "noise", "all", True)
    how = s.sampling
    assert (how.sampler, how.scheduler, how.steps, how.cfg, how.shape) == ("heun", "simple", 9, 7.0, (4, 12, 16))


@pytest.mark.parametrize(("name", "text"), [("rank", "many"), ("batch", "0"), ("eta", "nan"), ("tokens", "2.5")])
def test_what_is_no_number_for_a_field_is_refused_in_a_sentence(name, text):
    with pytest.raises(ErasureError) as caught:
        ErasureTrainingSettings.execute(**fields(**{name: text}), only_in="")
    assert f"'{text}'" in sentence(caught) and f"'{name}'" in sentence(caught) and FROM_PRESET in sentence(caught)


def test_what_the_model_was_made_for_is_the_size_of_the_pictures(model):
    def of(text, kind="EPS", channels=320):
        inner = type("Inner", (), {})()
        inner.model_type = getattr(comfy.model_base.ModelType, kind)
        inner.model_config = type("Config", (), {"unet_config": {"model_channels": channels, "context_dim": text}})()
        return picture_size(type("Model", (), {"model": inner})())

    assert picture_size(model) == 64
    assert (of(768), of(768, "V_PREDICTION"), of(1024), of(1024, "V_PREDICTION")) == (512, 512, 512, 768)
    assert of(2048) == of(1280, channels=384) == 1024


def test_a_typed_target_takes_the_place_of_what_the_settings_say(model, clip):
    assert run(model, clip, target="moon").result[0].targets == ["moon"]
    assert run(model, clip).result[0].metadata.target == "empty prompt"


def test_the_settings_node_shows_what_the_training_uses(model, clip, monkeypatch):
    sent = []
    real = learn_node.show
    monkeypatch.setattr(
        learn_node, "show", lambda node, text, place=None: sent.append((place, text)) or real(node, text)
    )
    out = ErasureTrainingSettings.execute(**fields(rank="2"), only_in="")
    assert out.ui.as_dict()["text"][0].startswith("Set here: rank 2. Train Erasure shows all values here")
    run(model, clip, replace(SHORT, learning={**SHORT.learning, "rank": 2}, place="5"))
    [text] = [text for place, text in sent if place == "5"]
    assert "Method kpop: 3 steps (the preset has 100) of 2 latents" in text and "keys+values, rank 2" in text


# ---------------------------------------------------------------- an empty preserve set


def test_an_empty_preserve_set_is_found_as_by_erase_concept_and_said(model, clip, encode, monkeypatch):
    prepared = []
    real = learning.learn
    monkeypatch.setattr(learning, "learn", lambda run, *more: prepared.append(run) or real(run, *more))
    out = run(model, clip, GATED, preserve="")
    [text] = ErasureText.execute(model, clip, "circle").ui.as_dict()["text"]
    [line] = [line for line in text.splitlines() if line.startswith("Preserved")]
    said = "\n".join(out.ui["text"])
    assert line in said and "Nothing was typed into 'preserve'" in said
    kept = out.result[0].metadata.preserve.splitlines()
    assert len(kept) > 8 and {text.text for text in prepared[0].run.kept} >= set(kept), "the loss holds them"
    one = prepared[0].run
    assert one.beside.attached.gate is not None and any(kept[0] in p.text.text for p in one.pool.phrases)


def test_nothing_is_found_where_nothing_would_hold_it(prepare):
    nothing = {"preserve_weight": 0.0, "gate": False}
    assert prepare(preserve="", **nothing).request.preserve == []
    assert prepare(preserve="", gate=True, preserve_weight=0.0).request.preserve


# ---------------------------------------------------------------- going on


def test_going_on_for_a_few_steps_does_not_set_everything_up_again(train, prepare, monkeypatch):
    learning.MEMORY.forget()
    start = {"weights_start": "closed form", "target": "nearest neighbour", "drawn_by": "original"}
    erasure, _ = train(**start)
    calls = []
    for module, name in ((setting_up, "build_gate"), (setting_up, "_checks"), (pool, "sample_trajectory")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, n=name, r=real, **k: calls.append(n) or r(*a, **k))
    again, _ = train(resume=erasure, steps=2, **start)
    assert calls == []
    learning.MEMORY.forget()
    anew, _ = train(resume=erasure, steps=2, **start)
    assert calls == ["build_gate", "_checks", "sample_trajectory"]
    assert again.identity() == anew.identity(), "what is remembered is what would be worked out"


def test_texts_are_remembered_but_for_embeddings_which_are_files(train, prepare, clip, encode, monkeypatch):
    learning.MEMORY.forget()
    train(steps=1, gate=False)
    read = []
    fresh = encoder.Encoder(clip)
    real = fresh._encode
    monkeypatch.setattr(fresh, "_encode", lambda text: read.append(text) or real(text))
    monkeypatch.setattr(Subject, "reader", lambda *_: fresh)
    prepare(gate=False)
    assert len(read) < 5 < len(fresh.known)
    assert learning._says_embedding(request_of("embedding:x")) and not learning._says_embedding(request_of("x"))


def request_of(text: str) -> Request:
    return Request([Name("circle")], [text])


def test_another_text_or_seed_is_not_taken_for_the_same(train, monkeypatch):
    learning.MEMORY.forget()
    train(steps=1)
    calls = []
    for module, name in ((setting_up, "build_gate"), (pool, "sample_trajectory")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, n=name, r=real, **k: calls.append(n) or r(*a, **k))
    train(steps=1, seed=5)
    train(steps=1, seed=5, preserve="square")
    assert calls == ["sample_trajectory", "build_gate", "sample_trajectory"]


def test_a_memory_keeps_no_model_alive_and_nothing_of_another_one():
    class Model:
        pass

    memory, one, other = Memory(), Model(), Model()
    assert memory.of(one, other).part("a", 1, lambda: "first") == "first"
    assert memory.of(one, other).part("a", 1, lambda: "second") == "first"
    assert memory.of(one, other).part("a", 2, lambda: "second") == "second"
    assert memory.of(other, one).part("a", 2, lambda: "third") == "third"
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None and not memory._parts


# ---------------------------------------------------------------- the better of the last states


def test_states_are_taken_over_the_last_quarter_of_the_steps():
    assert last_states.marks(100, 4) == [75, 83, 92, 100]
    assert last_states.marks(100, 1) == [100] and last_states.marks(6, 4) == [6]


def test_the_better_of_the_last_states_is_kept(prepare):
    """A state that a bad step has spoiled is not what a training ends with."""
    found = prepare(method="esd", steps=3).run
    phases = LEARNED["esd"].phases(found.settings)
    with torch.inference_mode(), learning.gradients():
        found.sample()
        good, draws = last_states.state_of(found), found.generator.get_state()
        spoiled = {name: value + 5 for name, value in good.items()}
        assert last_states.keep_the_best(found, phases, {2: good, 3: spoiled}) == "after 2 steps"
        assert all(torch.equal(value, good[name]) for name, value in last_states.state_of(found).items())
        assert last_states.keep_the_best(found, phases, {2: spoiled, 3: good}) == "the last one"
        assert last_states.keep_the_best(found, phases, {2: good, 3: good}) == "the last one"
    assert torch.equal(found.generator.get_state(), draws) and len(found.pool.trajectories) == 1


def test_papers_keep_the_last_state(train, monkeypatch):
    monkeypatch.setattr(last_states, "FEWEST", 2)
    compared = []
    monkeypatch.setattr(loop, "keep_the_best", lambda run, phases, states: compared.append(list(states)) or "x")
    assert [preset_for(name).best_of for name in PRESETS] == [4, 1, 1]
    train(preset="paper v3", steps=4)
    assert not compared
    assert train(steps=4, best_of=2)[1].progress.best == "x" and compared == [[3, 4]]


# ---------------------------------------------------------------- pictures


def test_a_strip_of_pictures_stays_on_the_node(world, output):
    model, clip, vae = world
    for given in (None, vae):
        [picture] = run(model, clip, vae=given).ui["images"]
        path = Path(folder_paths.get_temp_directory()) / picture["subfolder"] / picture["filename"]
        width, height = Image.open(path).size
        assert width > 3 * 128 > 2 * height, "before, the start and the end, without the margin of a grid's rows"


def test_a_strip_shows_what_was_before_the_start_and_the_end(model):
    strip = watch.Strip(model)
    for label in ("before", "start", *(f"{20 * i} steps" for i in range(1, 11)), "200 steps"):
        strip.add(label, torch.zeros(1, 4, 8, 8))
    labels = [label for label, _ in strip.chosen()]
    assert labels[:2] == ["before", "start"] and labels[-1] == "200 steps" and len(labels) == watch.PICTURES
    strip.drawn = strip.drawn[:2]
    assert [label for label, _ in strip.chosen()] == ["before", "start"]
