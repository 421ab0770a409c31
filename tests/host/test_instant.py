"""Closed-form erasing: from texts to a change that sends the concept where it should go and leaves the rest."""

import pytest
import torch

from concept_erasure.erasure import attach, concepts, instant
from concept_erasure.erasure.artifact import ErasureError, load_erasure, save_erasure
from concept_erasure.erasure.instant import Instant, aligned, erase_instantly
from tests import worlds
from tests.host.test_fit import sentence
from tests.host.tools import PRESERVE, difference, sample

KEPT = "\n".join(PRESERVE)


@pytest.fixture(scope="module")
def encode(clip):
    return concepts.Encoder(clip)


def moved(erasure, model, tokens: torch.Tensor, before: torch.Tensor) -> float:
    """Mean distance, over the changed projections, between edited tokens and what the originals give for others."""
    weights = dict(model.model.named_parameters())
    total = 0.0
    for name, change in erasure.delta.items():
        weight = weights[name].float()
        total += float((tokens @ (weight + change.dense()).T - before @ weight.T).norm())
    return total / len(erasure.delta)


def test_the_concept_goes_to_the_target_and_kept_texts_stay(model, clip, encode):
    erasure = erase_instantly(model, clip, "circle", KEPT, Instant(target="square"))
    circle, square, red = (encode(text).context[0] for text in ("a circle", "a square", "a red"))
    far = moved(erasure, model, square, circle)  # how different the two are in these layers
    assert moved(erasure, model, circle, square) < 0.3 * far
    assert moved(erasure, model, red, red) < 0.2 * far


def test_without_a_target_the_rest_of_the_phrase_remains(model, clip, encode):
    erasure = erase_instantly(model, clip, "circle", KEPT, Instant())
    source, target = aligned(encode, "a {}", "circle", "")
    assert moved(erasure, model, source, target) < 0.5 * moved(erasure, model, target, source)


def test_pushing_goes_past_the_target(model, clip, encode):
    source, target = aligned(encode, "a {}", "circle", "")
    weights = dict(model.model.named_parameters())
    steps = []
    for push in (0.0, 1.0):
        delta = erase_instantly(model, clip, "circle", KEPT, Instant(push=push)).delta
        name, change = next(iter(delta.items()))
        way = (target - source) @ weights[name].float().T
        steps.append(float(((source @ change.dense().T) * way).sum() / way.square().sum()))
    assert 0.5 < steps[0] < 1.2 and steps[1] == pytest.approx(2 * steps[0], rel=1e-3)


def test_several_concepts_in_one_solve(model, clip, encode):
    erasure = erase_instantly(model, clip, "circle\nstar", KEPT, Instant(target="square"))
    for name in ("circle", "star"):
        here, there = (encode(f"a {word}").context[0] for word in (name, "square"))
        assert moved(erasure, model, here, there) < 0.5 * moved(erasure, model, there, here)
    assert erasure.metadata.concept == "circle\nstar"


@pytest.mark.parametrize("replacement", ["", "square", "a big square"])
def test_encodings_are_aligned_behind_the_name(encode, replacement):
    source, target = aligned(encode, "a {} on red", "circle", replacement)
    assert source.shape == target.shape and len(source) > 60
    other = encode(" ".join(f"a {replacement} on red".split()))
    red = other.tokens.index(encode.name_tokens("red")[0])
    assert torch.equal(target[2], other.context[0, red])  # name, "on", "red"


def test_a_file_can_hold_it_and_a_picture_shows_it(model, clip, cond, tmp_path):
    erasure = erase_instantly(model, clip, "circle", KEPT, Instant(target="square"))
    save_erasure(erasure, tmp_path / "x.safetensors")
    loaded = load_erasure(tmp_path / "x.safetensors")
    models = (model, attach.erase(model, erasure), attach.erase(model, loaded))
    pictures = [sample(m, cond("circle"), cond("")) for m in models]
    assert difference(pictures[0], pictures[1]) > 0.05
    assert torch.equal(pictures[1], pictures[2])


def test_values_alone_can_be_changed(model, clip):
    delta = erase_instantly(model, clip, "circle", KEPT, Instant(weights="values")).delta
    assert delta and all(".to_v." in name for name in delta)


def test_what_another_clone_has_done_to_the_shared_network_does_not_count(model, clip, cond):
    before = erase_instantly(model, clip, "circle", KEPT, Instant(target="square"))
    sample(attach.erase(model, before), cond("circle"), cond(""))  # leaves its patches in the network
    assert erase_instantly(model, clip, "circle", KEPT, Instant(target="square")).identity() == before.identity()


def test_what_is_on_the_model_already_counts(model, clip):
    """Erasing on an erased model changes the weights that this has."""
    first = erase_instantly(model, clip, "star", KEPT, Instant(target="square"))
    alone, second = (
        erase_instantly(m, clip, "circle", KEPT, Instant(target="square")) for m in (model, attach.erase(model, first))
    )
    assert alone.identity() != second.identity()


@pytest.mark.parametrize("concept, word", [(" \n", "empty"), ("very " * 90 + "long", "longer")])
def test_texts_that_cannot_be_used_are_refused(model, clip, concept, word):
    with pytest.raises(ErasureError) as caught:
        erase_instantly(model, clip, concept, KEPT, Instant())
    assert word in sentence(caught)


def test_models_that_cannot_be_used_are_refused(narrow_model, clip):
    with pytest.raises(ErasureError) as caught:
        erase_instantly(narrow_model, clip, "circle", KEPT, Instant())
    assert "CLIP" in sentence(caught)
    with pytest.raises(ErasureError):
        erase_instantly(worlds.model_without_attn2(), clip, "circle", KEPT, Instant())


def test_it_is_the_same_in_inference_mode(model, clip):
    with torch.inference_mode():
        inside = instant.erase_instantly(model, clip, "circle", KEPT, Instant())
    assert inside.identity() == erase_instantly(model, clip, "circle", KEPT, Instant()).identity()
