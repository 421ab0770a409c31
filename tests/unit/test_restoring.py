"""What erasures in front have moved is put back, and what they have erased is not."""

from dataclasses import replace

import pytest
import torch

from concept_erasure.erasure.artifact import Full, LowRank
from concept_erasure.erasure.closed_form import uce
from concept_erasure.erasure.closed_form.problem import Problem, Scales, together
from concept_erasure.erasure.closed_form.restoring import restoration
from concept_erasure.erasure.closed_form.textmap import moment

D, OUT, CONCEPTS = 32, 20, 6
SCALES = Scales(preserve=1.0, ridge=1e-6)


@pytest.fixture
def drawn():
    """(weight, encodings of concepts, where they go, encodings that stay): few enough that all can be had."""
    g = torch.Generator().manual_seed(5)

    def rows(count: int) -> torch.Tensor:
        return torch.randn(count, D, generator=g)

    return (
        torch.randn(OUT, D, generator=g),
        list(rows(2 * CONCEPTS).split(2)),
        list(rows(2 * CONCEPTS).split(2)),
        rows(8),
    )


def problem(drawn, now: list[int], front: list[int] = (), still: list[int] = ()) -> Problem:
    weight, sources, goals, kept = drawn
    before = together([(sources[i], goals[i]) for i in front]) if front else None
    fixed = sum(moment(sources[i], 0.5) for i in still) if still else None
    moves = together([(sources[i], goals[i]) for i in now])
    return Problem(
        moves, len(now), moment(kept, 1 / len(kept)), [], kept, kept[:1], lambda: moment(weight), before, len(front),
        fixed, len(still),
    )  # fmt: skip


def off(now: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((now - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("rank", [0, D])
def test_what_is_preserved_comes_back_and_what_is_erased_stays(drawn, rank):
    weight, sources, goals, kept = drawn
    front = 0.3 * torch.randn(OUT, D, generator=torch.Generator().manual_seed(6))
    asked = problem(drawn, [0], [1, 2], [3])
    now = weight + front
    back = restoration(asked, SCALES, {"w": now}, {"w": Full(front)}, rank)["w"]
    assert isinstance(back, LowRank if rank else Full)
    after = now + back.dense()
    assert off(kept @ now.T, kept @ weight.T) > 0.1
    assert off(kept @ after.T, kept @ weight.T) < 1e-3
    for i in (1, 2):
        assert off(sources[i] @ after.T, goals[i] @ weight.T) < 1e-3
    for i in (0, 3):
        assert off(sources[i] @ after.T, sources[i] @ now.T) < 1e-3


def test_a_weight_that_nothing_in_front_changed_is_only_turned_to_where_names_went(drawn):
    weight, sources, goals, kept = drawn
    after = weight + restoration(problem(drawn, [0], [1]), SCALES, {"w": weight}, {}, 0)["w"].dense()
    assert off(kept @ after.T, kept @ weight.T) < 1e-3
    assert off(sources[1] @ after.T, goals[1] @ weight.T) < 1e-3


def test_in_a_row_is_as_good_as_at_once(drawn):
    """Where not all can be had, each solve disturbs what is preserved; the disturbances must not add up."""
    scales = replace(SCALES, ridge=1e-4)
    weight, sources, _, _ = drawn
    kept = torch.randn(200, D, generator=torch.Generator().manual_seed(7))
    crowded = (*drawn[:3], kept)
    at_once = uce.edit(problem(crowded, list(range(CONCEPTS))), scales).delta([("w", weight)])["w"].dense()

    def in_a_row(restoring: bool) -> torch.Tensor:
        total = torch.zeros(OUT, D)
        for i in range(CONCEPTS):
            asked = problem(crowded, [i], list(range(i)))
            if restoring and i:
                total = total + restoration(asked, scales, {"w": weight + total}, {"w": Full(total)}, 0)["w"].dense()
            total = total + uce.edit(asked.holding(scales), scales).delta([("w", weight + total)])["w"].dense()
        return total

    disturbed = [off(kept @ (weight + change).T, kept @ weight.T) for change in
                 (at_once, in_a_row(True), in_a_row(False))]  # fmt: skip
    assert disturbed[1] < 1.2 * disturbed[0] < disturbed[2]


def test_a_low_rank_keeps_what_the_encodings_lose_least_by(drawn):
    weight = drawn[0]
    front = 0.3 * torch.randn(OUT, D, generator=torch.Generator().manual_seed(6))
    asked = problem(drawn, [0], [1, 2])
    kept = drawn[3]

    def lost(rank: int) -> float:
        after = (
            weight + front + restoration(asked, SCALES, {"w": weight + front}, {"w": Full(front)}, rank)["w"].dense()
        )
        return off(kept @ after.T, kept @ weight.T)

    losses = [lost(rank) for rank in (2, 6, 12)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 1e-3 < losses[0]


def test_names_erased_before_are_held_as_firmly_as_one_is_erased(drawn):
    _, sources, _, _ = drawn
    asked = problem(drawn, [0], [1], [2])
    alone = uce.edit(asked, SCALES)
    holding = uce.edit(asked.holding(SCALES), SCALES)
    for i in (1, 2):
        assert off(holding(sources[i].double()), sources[i]) < 0.3 * off(alone(sources[i].double()), sources[i])
