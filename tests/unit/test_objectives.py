"""Targets and distances, against the papers' formulas written out."""

import pytest
import torch

from concept_erasure.erasure.training.objectives import distance, negative_guidance

NEUTRAL = torch.tensor([1.0, 2.0]).view(1, 1, 1, 2)
CONCEPT = torch.tensor([3.0, 1.0]).view(1, 1, 1, 2)


def test_negative_guidance_points_away_from_the_concept():
    assert negative_guidance(NEUTRAL, CONCEPT, 1.0).flatten().tolist() == [-1.0, 3.0]
    assert negative_guidance(NEUTRAL, CONCEPT, 0.5).flatten().tolist() == [0.0, 2.5]
    assert torch.equal(negative_guidance(NEUTRAL, CONCEPT, 0.0), NEUTRAL)


def test_noise_distance_is_the_mean_square():
    assert distance(NEUTRAL, CONCEPT, torch.tensor([5.0]), "noise") == pytest.approx(2.5)


def test_x0_distance_weighs_each_row_with_its_own_noise_level():
    prediction, target = torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1)
    assert distance(prediction, target, torch.tensor([1.0, 3.0]), "x0") == pytest.approx((1 + 9) / 2)
