"""What must not change does not change, to the bit: strength 0, the base model, other branches, other prompts."""

import copy
from dataclasses import replace

import pytest
import torch

from concept_erasure.erasure.artifact import LowRank
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


def test_a_key_is_solved_for_again_where_more_is_on_the_model_than_its_own_erasure(model, clip):
    learned, other = make_erasure(model, clip, role="key"), make_erasure(model, clip, "star", seed=1, prompt=False)
    width = subject(model).width
    made_for = LowRank(torch.zeros(width, 1), torch.zeros(1, width))
    learned = replace(learned, parts=(replace(learned.key[0], turn=made_for), *learned.erasers))

    def turn(erased, key=learned) -> LowRank:
        return attach.attachments(attach.recover(erased, key))[-1].part.turn

    erased = attach.erase(model, learned)
    assert turn(erased) is made_for
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

    assert left(turn(both)) < 0.9 * left(made_for)
    torch.testing.assert_close(turn(both, learned.key_only()).dense(), turn(both).dense())
