"""Closed-form methods on numbers: each does what its paper promises."""

from dataclasses import replace

import pytest
import torch

from concept_erasure.erasure.artifact import Full, LowRank
from concept_erasure.erasure.closed_form import dp, oce, rece, speed, uce
from concept_erasure.erasure.closed_form.balance import LEFT, balance, even
from concept_erasure.erasure.closed_form.joining import filters
from concept_erasure.erasure.closed_form.problem import Problem, Scales, together
from concept_erasure.erasure.closed_form.textmap import moment

D = 24
SMALL = Scales(preserve=1.0, ridge=1e-4)


def problem(concepts: int = 1, tokens: int = 4) -> Problem:
    """Encodings that share a large mean, as those of real text encoders do; weights [2 * D, D] of two layers."""
    g = torch.Generator().manual_seed(3)
    mean = 3 * torch.randn(D, generator=g)
    rows = {"source": tokens, "target": tokens, "kept": 60, "empty": 9}
    weights = torch.randn(2 * D, D, generator=g)

    def draw(name: str) -> torch.Tensor:
        space = torch.randn(rows[name], D, generator=g)
        if name == "kept":
            space[:, D // 2 :] *= 0.01  # half of the directions are hardly used by what is preserved
        return mean * (torch.arange(D) < D // 2) + space

    moves = together([(draw("source"), draw("target")) for _ in range(concepts)])
    kept = draw("kept")
    return Problem(moves, concepts, moment(kept, 1 / len(kept)), [], kept, draw("empty"), lambda: moment(weights))


def pair(p: Problem, concept: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """One concept's encodings and where they go, without their weights."""
    each = len(p.moves.source) // p.concepts
    return tuple(side.split(each)[concept] * each**0.5 for side in (p.moves.source, p.moves.target))


def way_made(edit, source, target) -> float:
    """How far encodings went towards the target; 1 is all of the way."""
    way = (target - source).double()
    return float(((edit(source.double()) - source) * way).sum() / way.square().sum())


def disturbance(edit, kept) -> float:
    return float((edit(kept.double()) - kept).norm() / kept.norm())


@pytest.mark.parametrize("method", [uce, rece, speed, dp])
def test_the_concept_goes_and_the_rest_stays(method):
    p = problem()
    edit = method.edit(p, SMALL)
    assert way_made(edit, *pair(p)) > 0.5
    assert disturbance(edit, p.some) < 0.3


@pytest.mark.parametrize("method", [uce, speed])
def test_scales_weigh_erasing_against_preserving(method):
    p = problem()
    strong, weak = (method.edit(p, Scales(erase=erase, preserve=1.0, ridge=1e-4)) for erase in (4.0, 0.25))
    assert way_made(strong, *pair(p)) > way_made(weak, *pair(p))
    assert disturbance(strong, p.some) > disturbance(weak, p.some)


def test_a_concept_counts_the_same_however_many_tokens_it_has():
    p = problem()
    twice = replace(p, moves=together([tuple(torch.cat([side, side]) for side in pair(p))]))
    torch.testing.assert_close(uce.edit(p, SMALL).matrix(), uce.edit(twice, SMALL).matrix(), rtol=1e-5, atol=1e-6)


def crowd() -> Problem:
    """Eight concepts, of which the last one is like what is preserved."""
    p = problem(8)
    source, target = (list(side.split(4)) for side in (p.moves.source, p.moves.target))
    source[-1] = source[-1] / 4 + p.some[:4] / 2
    return replace(p, moves=together([(a * 2, b * 2) for a, b in zip(source, target, strict=True)]))


def test_of_many_concepts_none_is_left_behind():
    """One of which more than half of the way would be left is weighed more; what is left of it goes down to that."""
    p = crowd()
    before = p.moves.left(uce.edit(p, SMALL).change(), p.gram())
    weighed = even(p, SMALL)
    after = p.moves.left(uce.edit(weighed, SMALL).change(), p.gram())
    assert before[-1] > LEFT + 0.1 and int((before > LEFT).sum()) < 8
    assert after.max() < LEFT + 0.05 and after[-1] < before[-1] - 0.1
    torch.testing.assert_close(after, p.moves.left(uce.edit(weighed, SMALL).change(), 2 * p.gram()))


def test_few_concepts_are_not_weighed_and_many_only_when_edits_are_balanced():
    p = problem(4)
    assert even(p, SMALL) is p
    p = crowd()
    assert even(p, replace(SMALL, balance=0)) is p  # as published


def test_a_concept_that_has_nowhere_to_go_is_not_weighed():
    """With a strength of 0 a name stays, and what others do to it must not count as a way that is left."""
    p = crowd()
    stays = [pair(p, i) for i in range(8)]
    stays[0] = (stays[0][0], stays[0][0])
    p = replace(p, moves=together(stays))
    weighed = even(p, SMALL)
    assert p.moves.left(uce.edit(p, SMALL).change(), p.gram())[0] == 0
    assert torch.equal(weighed.moves.source[:4], p.moves.source[:4]) and weighed is not p


def test_rece_finds_what_revives_the_concept_and_erases_it():
    p = problem()
    gram, source = p.gram(), p.moves.source.double()
    first = uce.edit(p, SMALL)
    reviving = rece.revive(source, first, gram)
    weight = torch.linalg.cholesky(gram).T  # W^T W = gram

    def distance(edit, encodings) -> float:
        return float((edit(encodings) @ weight.T - source @ weight.T).norm())

    assert distance(first, reviving) < 0.8 * distance(first, source), "it is nearer to the concept than its own name"
    both = rece.edit(p, Scales(preserve=1.0, ridge=1e-4, rounds=1))
    assert distance(both, reviving) > 1.2 * distance(first, reviving)
    assert rece.edit(p, Scales(preserve=1.0, ridge=1e-4, rounds=0)).matrix().equal(first.matrix())


def test_rece_moves_the_concept_no_further_than_it_has_come():
    p = problem()
    once, again = (way_made(rece.edit(p, replace(SMALL, rounds=rounds)), *pair(p)) for rounds in (0, 2))
    assert once - 0.05 < again < once + 0.05


def test_speed_moves_only_where_the_preserved_have_nothing():
    p = problem()
    edit = speed.edit(p, Scales(preserve=1.0, threshold=1e-3))
    used = p.some.clone()
    used[:, D // 2 :] = 0
    assert disturbance(edit, used) < 0.02
    fixed = speed.anchors(p.empty).T
    assert torch.allclose(edit(fixed), fixed, atol=1e-3), "what must stay exactly does"


def test_dp_moves_nothing_that_the_preserved_use():
    p = problem()
    values, vectors = torch.linalg.eigh(p.kept)
    safe = vectors[:, values >= dp.SAFE * p.unit].T
    edit = dp.edit(p, SMALL)
    assert 0 < len(safe) < D and disturbance(edit, safe) < 1e-9
    source, target = pair(p)
    aim = target.double() @ safe.T @ safe  # what takes the concept's place is in the safe subspace, too
    assert way_made(edit, source, aim) > 0.95


def test_oce_turns_what_a_layer_gives():
    """Lengths and angles stay as they are, wide layers and narrow ones; the concept goes, and the rest stays."""
    p = problem()
    source, target = pair(p)
    g = torch.Generator().manual_seed(5)
    weights = {"wide": torch.randn(2 * D, D, generator=g), "narrow": torch.randn(D // 2, D, generator=g)}
    for name, change in oce.edit(p, SMALL).delta(weights.items()).items():
        weight = weights[name]
        edited = weight + change.dense()
        assert not torch.allclose(edited, weight, atol=0.1)
        torch.testing.assert_close(edited.T @ edited, weight.T @ weight, rtol=1e-3, atol=1e-3)

        if name == "wide":
            back = (torch.linalg.pinv(weight.double()) @ change.dense().double()).T

            def given(x, back=back):
                return x + x @ back

            assert way_made(given, source, target) > 0.5 and disturbance(given, p.some) < 0.4


def test_oce_is_cut_to_the_directions_that_move_the_concept():
    p = problem()
    weights = {"a": torch.randn(2 * D, D, generator=torch.Generator().manual_seed(5))}
    edit = oce.edit(p, SMALL)
    whole, cut = (one.delta(weights.items())["a"] for one in (edit, edit.cut(4, p.moves.moment)))
    assert isinstance(whole, Full) and isinstance(cut, LowRank) and len(cut.down) == 4
    torch.testing.assert_close(cut.dense() @ p.moves.source.T, whole.dense() @ p.moves.source.T, rtol=1e-3, atol=1e-3)
    assert (cut.dense() - whole.dense()).norm() > 0.3 * whole.dense().norm()


def test_several_concepts_go_to_their_own_targets():
    p = problem(concepts=2, tokens=2)
    edit = uce.edit(p, Scales(preserve=0.1, ridge=1e-6))
    for concept in range(2):
        assert way_made(edit, *pair(p, concept)) > 0.5


def harms(p: Problem, near: list[torch.Tensor], scales: Scales) -> list[float]:
    edit = uce.edit(balance(p, scales), scales)
    return [disturbance(edit, rows) for rows in near]


def test_balancing_spares_the_neighbour_that_is_hurt_most():
    p = problem()
    source = pair(p)[0]
    g = torch.Generator().manual_seed(4)
    near = [source + apart * torch.randn(source.shape, generator=g) for apart in (0.5, 2.0, 4.0)]
    parts = [moment(rows, 1 / 64) for rows in near]
    p = replace(p, kept=p.kept + sum(parts), near=parts)
    before, after = (harms(p, near, replace(SMALL, balance=rounds)) for rounds in (0, 6))
    assert before[0] == max(before) > 1.5 * min(before)
    assert max(after) < 0.9 * max(before)
    assert max(after) / min(after) < 0.8 * max(before) / min(before)


def test_there_is_nothing_to_balance_without_neighbours_or_harm():
    p = problem()
    assert balance(p, SMALL) is p
    still = replace(p, moves=together([(pair(p)[0], pair(p)[0])]), near=[p.kept / 2, p.kept / 2])
    assert torch.equal(balance(still, SMALL).kept, still.kept)


def test_joined_changes_each_do_on_their_own_encodings_what_they_did_alone():
    """Encodings of two names and of what is preserved, none of them at right angles to another; one change of low rank
    and one written out."""
    circle, red, kept = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.5, 1.0]]).double()
    g = torch.Generator().manual_seed(0)
    first, second = LowRank(torch.rand(2, 1, generator=g), torch.rand(1, 3, generator=g)), Full(torch.rand(2, 3))
    preserved = torch.outer(kept, kept) + 1e-9 * torch.eye(3).double()
    of_first, of_second = filters([circle[None], red[None]], preserved)
    held = of_first(first), of_second(second)
    assert isinstance(held[0], LowRank), "a filter leaves the rank"
    change = sum(part.dense().double() for part in held)
    torch.testing.assert_close(change @ circle, first.dense().double() @ circle)
    torch.testing.assert_close(change @ red, second.dense().double() @ red)
    torch.testing.assert_close(change @ kept, torch.zeros(2).double())
