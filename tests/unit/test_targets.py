"""What ``target`` and ``anchor`` say together."""

import pytest

from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.targets import anchors_for, ignored_anchor, resolve_target

INSTANT, TRAIN = "nearest neighbour", "from preset"


@pytest.mark.parametrize("default", [INSTANT, TRAIN])
@pytest.mark.parametrize("target", [INSTANT, TRAIN, "empty prompt", "anchor"])
@pytest.mark.parametrize("anchor", ["", " \n\t"])
def test_without_an_anchor_the_target_is_what_it_says(target, default, anchor):
    assert resolve_target(target, anchor, default) == target
    assert ignored_anchor(target, anchor, default) == ""


@pytest.mark.parametrize("default", [INSTANT, TRAIN])
@pytest.mark.parametrize("anchor", ["square", "  square ", "square\nstar"])
def test_a_typed_anchor_counts_when_the_target_is_untouched_or_asks_for_it(default, anchor):
    for target in (default, "anchor"):
        assert resolve_target(target, anchor, default) == "anchor"
        assert ignored_anchor(target, anchor, default) == ""


@pytest.mark.parametrize(
    ("target", "default"), [("empty prompt", INSTANT), ("empty prompt", TRAIN), ("nearest neighbour", TRAIN)]
)
def test_a_target_that_was_chosen_stays_and_the_node_says_that_the_anchor_is_not_used(target, default):
    assert resolve_target(target, "square", default) == target
    assert ignored_anchor(target, " square\nstar ", default) == (
        f"The anchor 'square star' is not used, because target is '{target}': set target to 'anchor' to use it."
    )


@pytest.mark.parametrize(
    ("anchor", "names", "texts"),
    [
        ("square", ["circle"], ["square"]),
        ("a building, at night", ["church"], ["a building, at night"]),
        ("square", ["circle", "heart"], ["square", "square"]),
        ("square\nstar", ["circle", "heart"], ["square", "star"]),
        ("square, star", ["circle", "heart"], ["square", "star"]),
        ("a red square", ["circle", "heart"], ["red square"] * 2),
        ("(square:1.2)", ["circle"], ["square"]),
        ("a (small:1.2) building, at night", ["church"], ["a small building, at night"]),
    ],
)
def test_one_anchor_is_for_all_and_as_many_as_concepts_are_for_each(anchor, names, texts):
    assert anchors_for(anchor, names) == texts


@pytest.mark.parametrize(
    ("anchor", "names", "words"),
    [
        ("square\nstar", ["circle"], 'There are 2 anchors for 1 concept: "circle": type one for all, or one for each'),
        ("square\nstar", ["circle", "heart", "ring"], "There are 2 anchors for 3 concepts"),
        (" ", ["circle"], "the anchor is empty"),
        ("circles", ["circle"], "The target 'circles' is the concept itself"),
        ("star\nCircle", ["heart", "circle"], "The target 'Circle' is the concept itself"),
    ],
)
def test_what_cannot_take_a_concept_s_place_is_refused_in_a_sentence(anchor, names, words):
    with pytest.raises(ErasureError, match=words):
        anchors_for(anchor, names)
