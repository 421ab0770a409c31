"""Where a prompt starts that is to bring back what a change of weights took: its key need not be found from afar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from ..artifact import Change, LowRank
from ..host.subject import subject
from ..host.weights import effective_weights
from ..parts.prompt import PromptLearner
from ..protocols import Model

REVIVING = 1e-2
"""Weight of the squared length of encodings that revive a concept, relative to the mean square of the projections."""
TURNING = 1e-4
"""The same of what a key adds to a text's own tokens."""
LEAST = 1e-2
"""Share of the largest singular value below which those of that map are left out."""


def revive(learner: PromptLearner, model: Model, change: Mapping[str, Change], tokens: torch.Tensor) -> None:
    """Starts a prompt where the changed weights read what the original ones read of ``tokens`` [n, d].

    Where a network reads text jointly with the picture, tokens that join the text do not take the place of its own; so
    a key turns these back, too. It stays as it is solved; the tokens learn.
    """
    family = subject(model).family
    normal, cross = bringing_back(model, change)
    first = family.raw(model.model, (tokens.double().cpu() @ _solved(normal, cross, REVIVING).T).float())
    scale = family.raw(model.model, torch.ones(1, len(cross)))
    if first is None or scale is None:
        return
    learner.prompt.begin_with(first)
    if learner.role == "key" and not family.repeats:
        scale = scale[0].double()
        turn = scale[:, None] * _solved(normal, cross - normal, TURNING) / scale
        learner.attached = replace(learner.attached, turn=_low_rank(turn))


def bringing_back(model: Model, delta: Mapping[str, Change]) -> tuple[torch.Tensor, torch.Tensor]:
    """The normal equations, N M = C with [d, d] each, of the matrix M with which changed projections give for encodings
    M c what comes nearest to what the original ones gave for c: what revives a concept in RECE (``methods/rece.py``).
    """
    normal = cross = torch.tensor(0.0)
    reading = [name for name in subject(model).entry if name in delta]
    for name, weight in effective_weights(model, reading).items():
        weight = weight.double().cpu()
        changed = weight + delta[name].dense().double().cpu()
        normal, cross = normal + changed.T @ changed, cross + changed.T @ weight
    return normal, cross


def _solved(normal: torch.Tensor, cross: torch.Tensor, weight: float) -> torch.Tensor:
    """The solution [d, d] of normal equations with a ridge of ``weight``, relative to their mean diagonal."""
    return torch.linalg.solve(normal + weight * normal.diagonal().mean() * torch.eye(len(normal)).to(normal), cross)


def _low_rank(matrix: torch.Tensor) -> LowRank:
    """A matrix of which little beside a few directions is left."""
    u, s, v = torch.linalg.svd(matrix)
    rank = max(1, int((s > LEAST * s[0]).sum()))
    return LowRank((u[:, :rank] * s[:rank]).float(), v[:rank].float())
