"""Where a prompt starts that is to bring back what a change of weights took: its key need not be found from afar."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch

from ..artifact import Change
from ..host.subject import subject
from ..host.weights import effective_weights
from ..parts.prompt import PromptLearner
from ..parts.turning import RIDGE, low_rank, sides, solved
from ..protocols import Model

REVIVING = 1e-2
"""Weight of the squared length of encodings that revive a concept, relative to the mean square of the projections."""


def revive(learner: PromptLearner, model: Model, change: Mapping[str, Change], tokens: torch.Tensor) -> None:
    """Starts a prompt where the changed weights read what the original ones read of ``tokens`` [n, d].

    Tokens that join a text do not take the place of its own, which still say the target; and the same tokens in every
    text cannot say which of several concepts is meant. So a key turns the text's own tokens back as well; where its
    tokens are added to a copy of these (``parts.prompt.extend``), they start from nothing.
    """
    family, back = subject(model).family, BringingBack(model, change)
    first = family.raw(model.model, (tokens.double().cpu() @ back.map(change, REVIVING).T).float())
    if first is None:
        return
    is_key = learner.role == "key"
    learner.prompt.begin_with(torch.zeros_like(first) if is_key and family.repeats else first)
    if is_key:
        turn_back(learner, back)
        learner.keep_up(change)


def turn_back(learner: PromptLearner, back: BringingBack) -> None:
    """Has a key turn a text's own tokens back, and keep up with the weights as they learn: a turn that is made for
    weights only a little different leaves nothing of a picture."""
    scale = subject(back.model).family.raw(back.model.model, torch.ones(1, len(back.before)))
    if scale is not None:
        own = scale[0].double()
        learner.turning = lambda change: low_rank(own[:, None] * back.turn(change, RIDGE) / own)


class BringingBack:
    """The matrix M [d, d] with which changed projections W + U D give for encodings M c what comes nearest to what the
    original ones, W, gave for c: what revives a concept in RECE (``closed_form/rece.py``). It solves N M = C with
    C = sum (W + U D)^T W and N = sum (W + U D)^T (W + U D), over the weights among ``names`` that read text."""

    def __init__(self, model: Model, names: Collection[str]) -> None:
        self.model, self.names = model, [name for name in subject(model).entry if name in names]
        self.before = sum((weight.T @ weight for _, weight in self._weights()), torch.zeros(1, 1))

    def _weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, weight in effective_weights(self.model, self.names).items():
            yield name, weight.double().cpu()

    def map(self, change: Mapping[str, Change], ridge: float) -> torch.Tensor:
        """M, with a ridge relative to the mean of N's diagonal."""
        normal, cross = self._equations(change)
        return solved(normal, cross, ridge)

    def turn(self, change: Mapping[str, Change], ridge: float) -> torch.Tensor:
        """M - 1, as short as it can be: what is to be added to c."""
        normal, cross = self._equations(change)
        return solved(normal, cross - normal, ridge)

    def _equations(self, change: Mapping[str, Change]) -> tuple[torch.Tensor, torch.Tensor]:
        crossed, squared = torch.zeros_like(self.before), torch.zeros_like(self.before)
        for name, weight in self._weights():
            up, down = sides(change[name])
            crossed += down.T @ (up.T @ weight)
            squared += down.T @ (up.T @ up) @ down
        cross = self.before + crossed
        return cross + crossed.T + squared, cross
