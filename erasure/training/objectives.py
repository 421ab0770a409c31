"""Targets and loss terms as small pure functions of noise predictions [b, c, ...]. torch only."""

from __future__ import annotations

import torch
import torch.nn.functional as F

SPACES = ("noise", "x0")


def append_dims(sigma: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Numbers [b] with as many axes as latents ``like`` [b, ...], to be multiplied with them."""
    return sigma.view(-1, *[1] * (like.ndim - 1))


def negative_guidance(neutral: torch.Tensor, concept: torch.Tensor, eta: float) -> torch.Tensor:
    """The prediction pushed away from the concept: ``e(neutral) - eta (e(concept) - e(neutral))``.

    ESD (arXiv 2303.07345, eq. 7); the target of KPOP with ``neutral`` the empty prompt and eta = 1.
    """
    return neutral - eta * (concept - neutral)


def distance(prediction: torch.Tensor, target: torch.Tensor, sigma: torch.Tensor, space: str) -> torch.Tensor:
    """Mean squared difference of two noise predictions; ``sigma`` [b] is the noise level of each row.

    ``noise`` compares them as they are. ``x0`` compares the clean latents ``z - sigma e`` that they imply, as the
    authors' later code does: the same difference weighted by ``sigma^2``, so that noisy samples count most.
    """
    if space == "x0":
        scale = append_dims(sigma, prediction)
        prediction, target = prediction * scale, target * scale
    return F.mse_loss(prediction, target)
