"""The sparse autoencoder, the choice of features, and the steering that comes of them, on numbers."""

import pytest
import torch

from concept_erasure.erasure.dictionary.autoencoder import Autoencoder, Fit, explained, fit_autoencoder, largest
from concept_erasure.erasure.dictionary.files import About, ConceptDictionary, Quality
from concept_erasure.erasure.dictionary.picking import Counting, Picking, rows_of, scores, steering_for
from concept_erasure.erasure.families.rows import Rows
from concept_erasure.erasure.parts.steering import Steered, Steering

WIDTH, TRUE = 16, 12


def world(seed: int = 0, rows: int = 3000) -> torch.Tensor:
    """Vectors that are each a sum of one or two of twelve directions, far from zero."""
    g = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(
        torch.randn(TRUE, WIDTH, generator=torch.Generator().manual_seed(7)), dim=1
    )
    on = torch.rand(rows, TRUE, generator=g) < 0.1
    return (on * (1 + torch.rand(rows, TRUE, generator=g))) @ directions * 3 + 5


@pytest.fixture(scope="module")
def net():
    out = Autoencoder(WIDTH, 64)
    data = world()
    out.begin(data)
    fit = Fit(active=2, lr=5e-3, batch=300, epochs=20, dead_after=2000)
    fit_autoencoder(out, lambda epoch: iter(data.split(300)), 10 * 20, fit)
    return out.requires_grad_(False)


def test_batch_topk_shares_its_places_out():
    p = torch.tensor([[5.0, 4.0, 3.0], [1.0, 0.0, 0.0]])
    assert (largest(p, 2) > 0).tolist() == [[True, True, False], [False, False, False]]


def test_few_features_explain_most(net):
    share, active, _ = explained(net, world(1))
    assert share > 0.85
    assert 1 < active < 4


def test_what_a_vector_excites_depends_on_no_other(net):
    data = world(1, 50)
    alone = torch.cat([net.encode(row[None]) for row in data])
    assert torch.allclose(alone, net.encode(data), atol=1e-5)


def steered(*parts):
    hook = Steered()
    for part in parts:
        hook.add(part, 1.0, lambda options: True)
    assert hook.begin({})
    return hook


def counted(net, x, sigma=1.0):
    hook = Counting(net)
    rows = Rows(torch.full((len(x),), sigma), torch.ones(len(x), dtype=torch.bool), (x.shape[1],))
    hook(x, rows)
    return hook.means()


def split_world():
    """Pictures [20, 10, d] with feature 0 of the world in some places, and without."""
    direction = torch.nn.functional.normalize(
        torch.randn(TRUE, WIDTH, generator=torch.Generator().manual_seed(7)), dim=1
    )[0]
    plain = world(3, 200).reshape(20, 10, WIDTH)
    marked = plain.clone()
    marked[:, :3] += 6 * direction
    return marked, plain, direction


def test_the_concepts_feature_has_the_highest_score(net):
    marked, plain, direction = split_world()
    best = int(scores(counted(net, marked), counted(net, plain))[0].argmax())
    assert float(net.decoder[best] @ direction) > 0.6


@pytest.mark.parametrize("mode", ["negative", "replace"])
def test_steering_moves_flagged_places_alone(net, mode):
    marked, plain, direction = split_world()
    concept, others = counted(net, marked), counted(net, plain)
    part = steering_for(net, "block", "hash", concept, others, Picking(features=1, mode=mode))
    part = Steering.read(part.tensors(), part.facts())
    rows = Rows(torch.ones(20), torch.ones(20, dtype=torch.bool), (10,))
    out = steered(part)(marked, rows)
    moved = (out != marked).any(-1)
    assert moved[:, :3].float().mean() > 0.9
    assert moved[:, 3:].float().mean() < 0.3
    assert ((out - marked) @ direction)[:, :3].mean() < -3


def test_two_concepts_are_steered_together_in_any_order(net):
    marked, plain, _ = split_world()
    concept, others = counted(net, marked), counted(net, plain)
    one = steering_for(net, "block", "hash", concept, others, Picking(features=1))
    two = steering_for(net, "block", "hash", others, concept, Picking(features=2, ratio=1.0))
    rows = Rows(torch.ones(20), torch.ones(20, dtype=torch.bool), (10,))
    both, alone = steered(one, two)(marked, rows), [steered(part)(marked, rows) for part in (one, two)]
    assert not torch.equal(alone[1], marked)
    assert torch.allclose(both - marked, sum(out - marked for out in alone), atol=1e-4)
    assert torch.allclose(both, steered(two, one)(marked, rows), atol=1e-4)


def test_features_that_other_texts_excite_as_well_are_not_the_concepts(net):
    marked, plain, _ = split_world()
    concept, others = counted(net, marked), counted(net, plain)
    part = steering_for(net, "block", "hash", concept, others, Picking(features=64))
    own = concept.z.mean(0)[part.features] / others.z.mean(0)[part.features].clamp_min(1e-6)
    assert 0 < len(part.features) < 32 and own.min() >= 2
    assert steering_for(net, "block", "hash", others, others, Picking(features=64)) is None


def test_rows_of_a_feature_are_the_dictionarys(net):
    chosen = torch.tensor([3, 5])
    encoder, _, bias = rows_of(net, chosen)
    data = world(2, 100)
    p = torch.relu(data @ encoder.T + bias)
    assert torch.allclose(p * (p > net.threshold), net.encode(data)[:, chosen], atol=1e-3)


def test_rows_of_the_negative_prompt_can_be_left_alone(net):
    marked, plain, _ = split_world()
    how = Picking(features=1, rows="conditional")
    part = steering_for(net, "block", "hash", counted(net, marked), counted(net, plain), how)
    conditional = torch.arange(20) % 2 == 0
    out = steered(part)(marked, Rows(torch.ones(20), conditional, (10,)))
    assert torch.equal(out[1::2], marked[1::2])
    assert not torch.equal(out[0::2], marked[0::2])


def test_of_many_blocks_one_line_is_said(net):
    def lines(count: int) -> list[str]:
        points = [f"block {i}" for i in range(count)]
        quality = {point: Quality(0.7 + 0.01 * i, 8.0, i) for i, point in enumerate(points)}
        return ConceptDictionary(About(), dict.fromkeys(points, net), quality).lines()

    assert len(lines(3)) == 3
    [line] = lines(7)
    assert line.startswith("7 blocks: ") and "70 to 76 %" in line and line.endswith("; 21 are dead.")
