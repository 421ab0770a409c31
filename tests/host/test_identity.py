"""What must not change does not change, to the bit: strength 0, the base model, other branches, other prompts."""

import copy
from dataclasses import replace

import pytest
import torch

from concept_erasure.erasure import combine
from concept_erasure.erasure.artifact import ErasureError, LowRank
from concept_erasure.erasure.files import load_erasure, save_erasure
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.texts.encoder import Encoder
from concept_erasure.nodes.use import ErasureApply, ErasureRecover
from tests.host.tools import difference, make_erasure, only_delta, only_prompt, sample

CONCEPT, KEPT = "a circle", "a square"
FORMS = {
    "prompt": (only_prompt, {}),
    "delta": (only_delta, {}),
    "both": (lambda e: e, {}),
    "in a window": (lambda e: e, {"start_percent": 0.1, "end_percent": 0.8}),
}


@pytest.fixture(params=FORMS)
def form(request, gated):
    """(an erasure, how it is applied)."""
    reduce, window = FORMS[request.param]
    return reduce(gated), window


def test_strength_zero_gives_the_same_object(model, form):
    erasure, window = form
    assert attach.erase(model, erasure, 0.0, **window) is model
    assert ErasureApply.execute(model, erasure, 0.0).result[0] is model


def test_an_empty_window_gives_the_same_object(model, gated):
    assert attach.erase(model, gated, 1.0, 0.5, 0.5) is model


def test_a_key_at_strength_zero_gives_the_same_object(model, clip):
    key = make_erasure(model, clip, role="key")
    assert attach.recover(model, key, 0.0) is model
    assert ErasureRecover.execute(model, key, 0.0).result[0] is model


def test_the_base_model_is_the_same_before_beside_and_after(model, cond, form):
    erasure, window = form
    wrappers, options = copy.deepcopy(list(model.wrappers)), str(model.model_options)
    before = sample(model, cond(CONCEPT), cond(""))
    erased = attach.erase(model, erasure, **window)
    beside = sample(model, cond(CONCEPT), cond(""))
    changed = sample(erased, cond(CONCEPT), cond(""))
    after = sample(model, cond(CONCEPT), cond(""))
    assert torch.equal(before, beside) and torch.equal(before, after)
    assert difference(before, changed) > 0.05
    assert list(model.wrappers) == wrappers and str(model.model_options) == options


def test_an_erased_model_gives_the_same_picture_twice(model, cond, form):
    erasure, window = form
    erased = attach.erase(model, erasure, **window)
    assert torch.equal(sample(erased, cond(CONCEPT), cond("")), sample(erased, cond(CONCEPT), cond("")))
    assert "attn2_patch" not in erased.model_options["transformer_options"].get("patches", {})


def test_branches_do_not_see_each_other(model, clip, cond, form):
    erasure, window = form
    a = attach.erase(model, erasure, **window)
    alone = sample(a, cond(CONCEPT), cond(""))
    b = attach.erase(model, make_erasure(model, clip, seed=2), **window)
    deeper = attach.erase(a, make_erasure(model, clip, seed=3), **window)
    others = [sample(b, cond(CONCEPT), cond("")), sample(deeper, cond(CONCEPT), cond(""))]
    assert torch.equal(sample(a, cond(CONCEPT), cond("")), alone)
    assert all(difference(alone, other) > 0.05 for other in others)


def test_a_closed_gate_leaves_the_picture_as_it_was(model, cond, gated):
    erased = attach.erase(model, only_prompt(gated))
    assert torch.equal(sample(erased, cond(KEPT), cond("")), sample(model, cond(KEPT), cond("")))


def test_strength_counts(model, cond, form):
    erasure, window = form
    base = sample(model, cond(CONCEPT), cond(""))
    effects = [
        difference(base, sample(attach.erase(model, erasure, s, **window), cond(CONCEPT), cond("")))
        for s in (0.01, 0.3, 1.0)
    ]
    assert 0 < effects[0] < effects[1] and effects[0] < effects[2]


def test_nothing_that_is_shared_between_clones_can_change(model, gated):
    erased = attach.erase(model, gated)
    shared = attach.attachments(erased)
    assert attach.attachments(erased.clone()) == shared
    with pytest.raises(AttributeError):
        shared[0].strength = 0.5


@pytest.fixture
def learned(model, clip):
    """An erasure with a key that turns the text's own tokens, by nothing so far."""
    width, erasure = subject(model).width, make_erasure(model, clip, role="key")
    turn = LowRank(torch.zeros(width, 1), torch.zeros(1, width))
    return replace(erasure, parts=(replace(erasure.key[0], turn=turn), *erasure.erasers))


@pytest.fixture
def other(model, clip):
    return make_erasure(model, clip, "star", seed=1, prompt=False)


def turn(erased, key) -> LowRank:
    """What a key adds to texts on a MODEL."""
    return attach.attachments(attach.recover(erased, key))[-1].part.turn


def test_a_key_is_solved_for_again_where_more_is_on_the_model_than_its_own_erasure(model, clip, learned, other):
    made_for = learned.key[0].turn
    erased = attach.erase(model, learned)
    assert turn(erased, learned) is made_for
    both = attach.erase(erased, other)
    rows = Encoder(clip).rows(["a circle"])[0]
    weights = attach.weights_now(both, list(learned.delta))

    def left(added: LowRank) -> float:
        """How far all weights are from reading the text as without the erasure."""
        read = rows + (rows @ added.down.T) @ added.up.T
        return sum(
            float((read @ weight.T - rows @ (weight - learned.delta[name].dense()).T).square().sum())
            for name, weight in weights.items()
        )

    assert left(turn(both, learned)) < 0.9 * left(made_for)
    torch.testing.assert_close(turn(both, learned.key_only()).dense(), turn(both, learned).dense())


@pytest.mark.parametrize("strength", [0.5, 1.0, 1.5])
def test_a_key_in_a_combined_file_brings_back_its_own_concept_alone(model, clip, learned, other, strength, tmp_path):
    """As on a model that has the same two from nodes in a row."""
    in_a_row = attach.erase(attach.erase(model, learned, strength), other, strength)
    wanted = turn(in_a_row, learned).dense()
    for parts in ([learned, other], [other, learned.without_key(), learned.key_only()]):
        save_erasure(combine.combine(parts), tmp_path / "both.safetensors")
        both = load_erasure(tmp_path / "both.safetensors")
        erased = attach.erase(model, both, strength)
        for key in (both, both.key_only(), learned):
            torch.testing.assert_close(turn(erased, key).dense(), wanted, rtol=1e-3, atol=1e-3)


def test_a_key_is_solved_for_as_at_the_step_at_which_its_erasure_begins(model, learned, other):
    both = attach.erase(attach.erase(model, other), learned)
    for windows, beside in (({}, {}), ({"end_percent": 0.9}, {}), ({"end_percent": 0.9}, {"end_percent": 0.5})):
        windowed = attach.erase(attach.erase(model, other, **beside), learned, **windows)
        torch.testing.assert_close(turn(windowed, learned).dense(), turn(both, learned).dense(), rtol=1e-3, atol=1e-3)
    late = attach.erase(attach.erase(model, other, start_percent=0.5), learned)
    assert turn(late, learned) is learned.key[0].turn


def test_a_key_is_on_a_model_once(model, learned, other):
    both = combine.combine([learned.key_only(), learned, other])
    assert len(both.key) == 1 and both.key[0].undoes.keys() == learned.delta.keys()
    recovered = attach.recover(attach.erase(model, both), both)
    for key in (learned, learned.key_only(), both):
        with pytest.raises(ErasureError, match="is on this model already"):
            attach.recover(recovered, key)


def test_a_key_without_its_erasure_is_missing_where_nothing_erases_its_names(model, learned, other):
    for key in (learned, learned.key_only()):
        assert attach.missing(attach.erase(model, other), key)
        assert not attach.missing(attach.erase(model, learned), key)
