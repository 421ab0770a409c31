"""Erasures in a row and combined, on the toy world: what was erased is not drawn again, or a node says what is.

A prompt for one erased concept must not draw another erased one either: then the two would only have changed places.
"""

import itertools
import random
import re

import pytest
import torch

from benchmarks.lines import Meaning, shots_of
from concept_erasure.erasure.choosing import beside_those_in_front
from concept_erasure.erasure.files import load_erasure
from concept_erasure.erasure.history import Erased, erased_from
from concept_erasure.erasure.host.attach import weights_now
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.host.weights import effective_weights
from concept_erasure.erasure.phrased import Texts
from concept_erasure.erasure.texts.encoder import Encoder
from concept_erasure.nodes.combine import HOW, ErasureCombine
from concept_erasure.nodes.instant import ErasureInstant, ErasureText
from concept_erasure.nodes.use import ErasureApply
from toyworld.train import CHECKPOINT
from toyworld.world import COLOURS, KINDS, SHAPES, kind_of

PICTURES, STEPS = 16, 8
DRAWN = 0.1
"""Largest share of pictures in which an erased concept is seen."""
STILL_SEEN = 0.2
"""The same where a node says ✓, as for single lines in ``benchmarks.lines``."""
SEQUENCES = 4


@torch.inference_mode()
def by_text(toys, model, name):
    out = ErasureText.execute(model, toys.clip, name)
    return out.args[0], out.ui.as_dict()["text"][0]


@torch.inference_mode()
def by_erasure(toys, model, name):
    erasure = ErasureInstant.execute(model, toys.clip, name).args[0]
    out = ErasureApply.execute(model, erasure)
    return out.args[0], out.ui.as_dict()["text"][0]


@torch.inference_mode()
def by_training(toys, model, name):
    """The trained erasure of circles that comes with the toy world, with its gate."""
    assert name == "circle"
    out = ErasureApply.execute(model, load_erasure(CHECKPOINT.with_name("erasures") / "circle.safetensors"))
    return out.args[0], out.ui.as_dict()["text"][0]


def in_a_row(toys, *steps):
    """(MODEL, all that the nodes say) behind nodes in a row, each (how, name)."""
    model, texts = toys.model, []
    for how, name in steps:
        model, text = how(toys, model, name)
        texts.append(text)
    return model, "\n".join(texts)


def drawn(toys, model, names) -> dict[str, float]:
    """For each erased concept, the share of its own prompts' pictures that show any erased concept of its kind."""
    out = {}
    for name in names:
        kind = kind_of(name)
        pictures = toys.draw(model, shots_of(Meaning({kind: name}, {kind: name}), PICTURES), STEPS)
        tops = [list(KINDS[kind])[i] for i in toys.judge(pictures)[kind].argmax(1).tolist()]
        out[name] = sum(top in names for top in tops) / PICTURES
    return out


def doubted(name: str, text: str) -> bool:
    """Whether a node says ⚠ or ✗ of a name."""
    return any(line[:1] in ("⚠", "✗") and name in line for line in text.splitlines())


def assert_none_is_drawn_unsaid(toys, model, names, text, limit=DRAWN):
    shares = drawn(toys, model, names)
    again = {name: share for name, share in shares.items() if share > limit and not doubted(name, text)}
    assert not again, f"{again} of {shares}\n{text}"


def assert_none_is_drawn(toys, model, names, text):
    shares = drawn(toys, model, names)
    assert all(share <= DRAWN for share in shares.values()), f"{shares}\n{text}"


@pytest.mark.parametrize("order", [("circle", "heart"), ("heart", "circle")], ids=" then ".join)
@pytest.mark.parametrize("hows", list(itertools.product((by_text, by_erasure), repeat=2)))
def test_the_second_node_does_not_undo_the_first(read_once, hows, order):
    model, text = in_a_row(read_once, *zip(hows, order, strict=True))
    assert_none_is_drawn(read_once, model, order, text)


def test_a_node_says_what_became_of_a_target_or_a_name_in_front(read_once):
    _, typed = in_a_row(read_once, (by_text, "star -> moon"), (by_text, "circle -> star"))
    assert '⚠ "star" is erased by a node in front: what took its place is drawn for "circle", too.' in typed
    _, chained = in_a_row(read_once, (by_text, "star -> moon"), (by_text, "moon -> cross"))
    assert '"star", erased by a node in front, now becomes "cross".' in chained


def test_a_name_that_was_erased_does_not_come_back_as_the_target_of_what_it_became(read_once):
    model, text = in_a_row(read_once, (by_text, "circle -> square"), (by_text, "square -> circle"))
    [there] = re.findall(r'"circle", erased by a node in front, now becomes "(\w+)"', text)
    assert there not in ("circle", "square")
    _, said = in_a_row(read_once, (by_text, "circle -> square"), (by_text, "square -> red circle"))
    assert 'now becomes "red circle"' not in said and '"red circle" is erased by a node in front' in said
    assert drawn(read_once, model, ["circle"])["circle"] <= DRAWN


def test_a_target_that_shares_a_word_with_another_name_is_taken(read_once):
    _, text = by_text(read_once, read_once.model, "rusty star -> star\nred star -> star")
    assert "rusty star → star" in text and "too, so" not in text


def test_names_of_one_node_do_not_take_each_others_places(read_once):
    names = ["circle", "square"]
    model, text = by_text(read_once, read_once.model, "circle -> square\nsquare -> circle")
    assert '⚠ "square" is erased, too, so it does not take the place of "circle".' in text
    assert_none_is_drawn(read_once, model, names, text)


def test_a_node_says_what_it_puts_back(read_once):
    put_back = "What nodes in front had moved besides their concepts was put back first."
    first, alone = by_text(read_once, read_once.model, "star -> moon")
    assert put_back not in alone and "Preserved beside" not in alone
    assert put_back in by_text(read_once, first, "circle")[1]


@pytest.mark.parametrize("order", list(itertools.permutations(("circle", "heart", "square")))[::2], ids=" then ".join)
def test_three_nodes_in_a_row_erase_all_three_or_say_which_not(read_once, order):
    model, text = in_a_row(read_once, *zip((by_text, by_erasure, by_text), order, strict=True))
    assert_none_is_drawn_unsaid(read_once, model, order, text)


@pytest.mark.parametrize("first", [True, False], ids=["trained first", "trained last"])
@pytest.mark.parametrize("other", ["heart", "square"])
def test_a_trained_erasure_and_an_instant_one_stand_beside_each_other(read_once, first, other):
    steps = [(by_training, "circle"), (by_text, other)]
    model, text = in_a_row(read_once, *(steps if first else steps[::-1]))
    assert_none_is_drawn_unsaid(read_once, model, ["circle", other], text)


@torch.inference_mode()
def combined(toys, names, how, model_too=True):
    erasures = {name: ErasureInstant.execute(toys.model, toys.clip, name).args[0] for name in names}
    given = {"model": toys.model, "clip": toys.clip} if model_too else {}
    out = ErasureCombine.execute(erasures, how, **given, prompt="")
    applied = ErasureApply.execute(toys.model, out.args[0])
    return applied.args[0], "\n".join(o.ui.as_dict()["text"][0] for o in (out, applied))


@pytest.mark.parametrize("how", HOW[:2])
@pytest.mark.parametrize("names", [("circle", "heart"), ("circle", "square", "star")], ids=", ".join)
def test_combined_erasures_erase_all_of_them_or_say_which_not(read_once, names, how):
    model, text = combined(read_once, names, how)
    assert_none_is_drawn_unsaid(read_once, model, names, text)


def test_two_that_would_swap_are_solved_jointly_and_erased(read_once):
    model, text = combined(read_once, ("circle", "heart"), HOW[0])
    assert "Solved jointly, because" in text
    assert_none_is_drawn(read_once, model, ("circle", "heart"), text)


@pytest.mark.parametrize("number", range(SEQUENCES))
def test_nothing_comes_back_in_a_random_sequence_of_nodes(read_once, number):
    draw = random.Random(f"stack {number}")
    names = draw.sample(list(draw.choice((SHAPES, SHAPES, COLOURS))), draw.choice((2, 3)))
    steps = [(draw.choice((by_text, by_erasure)), name) for name in names]
    model, text = in_a_row(read_once, *steps)
    assert_none_is_drawn_unsaid(read_once, model, names, text, STILL_SEEN)


# ---------------------------------------------------------------- what stays beside many erasures


MANY = ("circle", "square", "triangle", "star", "heart", "cross")
STAY = ("ring", "moon", "diamond", "red", "blue", "striped", "dotted")


def moved(toys, model, words) -> float:
    """How far what the network reads of some words is from what it read before, relative to that."""
    names = subject(model).weights("keys+values")
    encode, before, after = Encoder(toys.clip), effective_weights(toys.model, names), weights_now(model, names)
    rows = torch.cat(encode.rows([f"a photo of a {word}" for word in words]))
    lost, whole = (sum(float((rows @ w.T).square().sum()) for w in some.values()) for some in
                   ({name: after[name] - before[name] for name in names}, before))  # fmt: skip
    return (lost / whole) ** 0.5


@pytest.fixture
def many_at_once(read_once):
    return by_text(read_once, read_once.model, "\n".join(MANY))[0]


def one_after_the_other(toys, preserve=""):
    model = toys.model
    with torch.inference_mode():
        for name in MANY:
            model = ErasureText.execute(model, toys.clip, name, preserve=preserve).args[0]
    return model


def test_nodes_in_a_row_leave_what_one_node_leaves(read_once, many_at_once):
    """Each would preserve what those in front have left of it, and twenty of them would leave little."""
    row = one_after_the_other(read_once)
    assert moved(read_once, row, STAY) <= 1.5 * moved(read_once, many_at_once, STAY)
    assert moved(read_once, row, MANY) >= 0.9 * moved(read_once, many_at_once, MANY)


def test_nodes_in_a_row_leave_what_one_node_leaves_beside_a_short_list(read_once):
    """Words are found to stay beside the two that were typed, for all that is erased."""
    short = "red\nblue"
    with torch.inference_mode():
        out = ErasureText.execute(read_once.model, read_once.clip, "\n".join(MANY), preserve=short)
    at_once = out.args[0]
    beside = r"^Preserved beside what you typed, because many concepts are erased: \d\d+ common words\.$"
    assert re.search(beside, out.ui.as_dict()["text"][0], re.MULTILINE)
    row = one_after_the_other(read_once, short)
    assert moved(read_once, at_once, STAY) <= 0.25
    assert moved(read_once, row, STAY) <= 1.2 * moved(read_once, at_once, STAY)


def test_what_nodes_in_front_preserve_stays_unless_it_says_what_is_erased():
    """A "red circle" that stays would keep the circle."""
    texts = Texts(["circle"], ["ring"], ["blue"], [], held=[Erased("star", "moon")])
    found = beside_those_in_front(texts, ["red circle", "blue", "a star", "square"])
    assert found.also == ["square"]


def test_a_strength_of_a_line_stays_behind_other_nodes(read_once):
    half, _ = by_text(read_once, read_once.model, "circle : 0.5")
    behind, _ = by_text(read_once, half, "red")
    assert erased_from(half)[0].strength == 0.5
    shares = [moved(read_once, model, ["circle"]) for model in (half, behind)]
    whole = moved(read_once, by_text(read_once, read_once.model, "circle")[0], ["circle"])
    assert shares[1] < 0.75 * whole and abs(shares[1] - shares[0]) < 0.15 * whole


def test_a_strength_of_a_line_stays_where_several_are_solved_jointly(read_once):
    with torch.inference_mode():
        two = [
            ErasureInstant.execute(read_once.model, read_once.clip, line).args[0] for line in ("circle : 0.5", "red")
        ]
        joint = ErasureCombine.execute(dict(zip("ab", two, strict=True)), HOW[1], read_once.model, read_once.clip, "")
    assert joint.args[0].strengths == [0.5, 1.0]


def test_what_was_learned_in_front_is_left_as_it_is(read_once):
    """Where it went is no text's place, so that it is held and not aimed anew."""
    learned, _ = by_training(read_once, read_once.model, "circle")
    assert [move.strength for move in erased_from(learned)] == [None]
    behind, _ = by_text(read_once, learned, "red")
    names = subject(learned).weights("keys+values")
    rows = torch.cat(Encoder(read_once.clip).rows(["a circle", "a photo of a circle"]))
    before, after = weights_now(learned, names), weights_now(behind, names)
    off = sum(float((rows @ (after[name] - before[name]).T).square().sum()) for name in names)
    assert off <= 0.02 * sum(float((rows @ before[name].T).square().sum()) for name in names)
