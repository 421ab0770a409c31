"""What ``target`` and ``anchor`` say together."""

import pytest

from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.targets import anchor_for_each, ignored_anchor, resolve_target

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


def test_one_anchor_is_for_all_and_as_many_as_concepts_are_for_each():
    assert anchor_for_each(["square"], ["circle"]) == ["square"]
    assert anchor_for_each(["square"], ["circle", "heart"]) == ["square", "square"]
    assert anchor_for_each(["square", "star"], ["circle", "heart"]) == ["square", "star"]


@pytest.mark.parametrize(
    ("anchors", "names", "words"),
    [
        (["square", "star"], ["circle"], "There are 2 anchors for 1 concept: give one anchor for all, or one a line"),
        (["square", "star"], ["circle", "heart", "ring"], "There are 2 anchors for 3 concepts"),
        (["square"] * 4, ["circle", "heart"], "There are 4 anchors for 2 concepts"),
        ([], ["circle", "heart"], "There are 0 anchors for 2 concepts"),
    ],
)
def test_other_counts_are_refused_in_a_sentence(anchors, names, words):
    with pytest.raises(ErasureError) as raised:
        anchor_for_each(anchors, names)
    assert str(raised.value).startswith(words) and str(raised.value).count(".") == 1
