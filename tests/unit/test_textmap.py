"""Closed-form edits: equal to the published formula, exact as a low-rank change, and one after the other."""

import pytest
import torch

from concept_erasure.erasure.artifact import Full, LowRank
from concept_erasure.erasure.textmap import moment, solve

D, OUT = 12, 20


@pytest.fixture
def numbers():
    g = torch.Generator().manual_seed(0)
    shapes = {"source": (3, D), "target": (3, D), "kept": (10, D), "weight": (OUT, D)}
    return {name: torch.randn(*shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}


def system(numbers, erase=2.0, preserve=0.5, ridge=0.1) -> torch.Tensor:
    identity = torch.eye(D, dtype=torch.float64)
    return ridge * identity + moment(numbers["source"], erase) + moment(numbers["kept"], preserve)


def test_it_is_the_published_solution(numbers):
    """UCE's closed form, written out term by term."""
    weight, erase, preserve, ridge = numbers["weight"], 2.0, 0.5, 0.1
    left, right = ridge * weight.clone(), ridge * torch.eye(D, dtype=torch.float64)
    for c, t in zip(numbers["source"], numbers["target"], strict=True):
        left += erase * torch.outer(weight @ t, c)
        right += erase * torch.outer(c, c)
    for p in numbers["kept"]:
        left += preserve * torch.outer(weight @ p, p)
        right += preserve * torch.outer(p, p)
    expected = left @ right.inverse()
    source, target = (numbers[name] * erase**0.5 for name in ("source", "target"))
    found = solve(source, target, system(numbers, erase, preserve, ridge)).delta({"w": weight})["w"]
    assert isinstance(found, LowRank)
    assert (weight + found.dense() - expected).norm() < 1e-5 * (expected - weight).norm()


def test_its_rank_is_the_number_of_erased_encodings(numbers):
    change = solve(numbers["source"], numbers["target"], system(numbers)).delta({"w": numbers["weight"]})["w"]
    assert torch.linalg.matrix_rank(change.dense(), rtol=1e-5) == 3 == len(change.down)


def test_a_wide_edit_is_written_out_and_the_same(numbers):
    wide = torch.randn(30, D, dtype=torch.float64)
    found = solve(wide, wide.flip(0), moment(wide) + torch.eye(D)).delta({"w": numbers["weight"]})["w"]
    edit = solve(wide, wide.flip(0), moment(wide) + torch.eye(D))
    assert isinstance(found, Full)
    expected = numbers["weight"] @ edit.moves.T @ edit.reads
    torch.testing.assert_close(found.dense().double(), expected, rtol=1e-5, atol=1e-5)


def test_one_edit_after_another(numbers):
    weight = numbers["weight"]
    first = solve(numbers["source"], numbers["target"], system(numbers))
    second = solve(numbers["kept"][:2], numbers["target"][:2], system(numbers))
    both = weight + second.after(first).delta({"w": weight})["w"].dense()
    once = weight + first.delta({"w": weight})["w"].dense()
    torch.testing.assert_close(both, once + second.delta({"w": once})["w"].dense(), rtol=1e-5, atol=1e-5)
    x = numbers["kept"]
    torch.testing.assert_close(second.after(first)(x), first(second(x)))


def test_preserved_encodings_stay_and_erased_ones_go():
    """With little to regularise and room for all, both constraints hold."""
    basis = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64)).Q
    source, kept, target = basis[:2], basis[2:6], basis[6:8]
    edit = solve(source, target, moment(source) + moment(kept) + 1e-9 * torch.eye(D))
    torch.testing.assert_close(edit(source), target)
    torch.testing.assert_close(edit(kept), kept)
