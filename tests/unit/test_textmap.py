"""Closed-form edits: equal to the published formula, exact as a low-rank change, and one after the other."""

import pytest
import torch

from concept_erasure.erasure.artifact import Full, LowRank
from concept_erasure.erasure.closed_form.textmap import Moves, moment, solve

D, OUT = 12, 20


@pytest.fixture
def numbers():
    g = torch.Generator().manual_seed(0)
    shapes = {"source": (3, D), "target": (3, D), "kept": (10, D), "weight": (OUT, D), "wide": (30, D)}
    return {name: torch.randn(*shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}


def rest(numbers, preserve=0.5, ridge=0.1) -> torch.Tensor:
    return ridge * torch.eye(D, dtype=torch.float64) + moment(numbers["kept"], preserve)


def few(numbers) -> Moves:
    return Moves(numbers["source"], numbers["target"])


def many(numbers) -> Moves:
    return Moves(numbers["wide"], numbers["wide"].flip(0))


@pytest.mark.parametrize("moves", [few, many])
def test_it_is_the_published_solution(numbers, moves):
    """UCE's closed form, written out term by term."""
    weight, erase, preserve, ridge = numbers["weight"], 2.0, 0.5, 0.1
    left, right = ridge * weight.clone(), ridge * torch.eye(D, dtype=torch.float64)
    for c, t in zip(moves(numbers).source, moves(numbers).target, strict=True):
        left += erase * torch.outer(weight @ t, c)
        right += erase * torch.outer(c, c)
    for p in numbers["kept"]:
        left += preserve * torch.outer(weight @ p, p)
        right += preserve * torch.outer(p, p)
    expected = left @ right.inverse()
    found = solve(moves(numbers), rest(numbers, preserve, ridge), erase).delta([("w", weight)])["w"]
    assert (weight + found.dense() - expected).norm() < 1e-5 * (expected - weight).norm()


def test_its_rank_is_the_number_of_erased_encodings(numbers):
    change = solve(few(numbers), rest(numbers)).delta([("w", numbers["weight"])])["w"]
    assert isinstance(change, LowRank)
    assert torch.linalg.matrix_rank(change.dense(), rtol=1e-5) == 3 == len(change.down)


def test_a_wide_edit_is_written_out_and_the_same(numbers):
    edit = solve(many(numbers), rest(numbers))
    found = edit.delta([("w", numbers["weight"])])["w"]
    assert isinstance(found, Full)
    expected = numbers["weight"] @ edit.moves.T @ edit.reads
    torch.testing.assert_close(found.dense().double(), expected, rtol=1e-5, atol=1e-5)


def test_one_edit_after_another(numbers):
    weight = numbers["weight"]
    first = solve(few(numbers), rest(numbers))
    second = solve(Moves(numbers["kept"][:2], numbers["target"][:2]), rest(numbers))
    both = weight + second.after(first).delta([("w", weight)])["w"].dense()
    once = weight + first.delta([("w", weight)])["w"].dense()
    torch.testing.assert_close(both, once + second.delta([("w", once)])["w"].dense(), rtol=1e-5, atol=1e-5)
    x = numbers["kept"]
    torch.testing.assert_close(second.after(first)(x), first(second(x)))
    torch.testing.assert_close(x @ second.after(first).matrix().T, first(second(x)))


def test_preserved_encodings_stay_and_erased_ones_go():
    """With little to regularise and room for all, both constraints hold."""
    basis = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64)).Q
    source, kept, target = basis[:2], basis[2:6], basis[6:8]
    edit = solve(Moves(source, target), moment(kept) + 1e-9 * torch.eye(D))
    torch.testing.assert_close(edit(source), target)
    torch.testing.assert_close(edit(kept), kept)


def test_a_cut_keeps_what_matters_on_the_encodings(numbers):
    """No map of that rank is nearer on them: the error is the sum of the singular values that are left out."""
    edit, tokens = solve(many(numbers), rest(numbers)), numbers["wide"]
    exact = edit(tokens) - tokens
    for rank in (1, 3, 6):
        cut = edit.cut(rank, moment(tokens))
        assert len(cut.reads) == rank
        left_out = torch.linalg.svdvals(exact)[rank:].square().sum()
        torch.testing.assert_close((cut(tokens) - edit(tokens)).square().sum(), left_out)
    assert edit.cut(D, moment(tokens)) is edit


def test_sums_run_over_all_rows(monkeypatch, numbers):
    whole = moment(numbers["wide"])
    monkeypatch.setattr("concept_erasure.erasure.closed_form.textmap.ROWS", 7)
    torch.testing.assert_close(moment(numbers["wide"]), whole)
