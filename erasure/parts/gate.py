"""The text gate: decides for each row of a batch whether an erasure prompt acts. torch only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class GateTensors:
    """A text gate at rest: a linear reading of token encodings.

    ``direction``: [d], or [d, g] for several; ``centre``: [d]. A row is open when a token x of it has
    ``(x - centre) . direction >= threshold`` for one of them.
    """

    direction: torch.Tensor
    centre: torch.Tensor
    threshold: float


def gate_score(context: torch.Tensor, gate: GateTensors) -> torch.Tensor:
    """How much each row speaks of the concept, [b], from its token encodings [b, n, d]: that of its best token."""
    centre = gate.centre.to(context.device, torch.float32)
    return ((context.float() - centre) @ gate.direction.to(centre)).flatten(1).amax(-1)


def either(first: GateTensors, second: GateTensors) -> GateTensors:
    """A gate that is open where one of two gates with one direction each is.

    Both directions get the first one's threshold, from a centre that makes up for the difference: the nearest one to
    the first's.
    """
    both = torch.stack([first.direction, second.direction], dim=1)
    missing = second.threshold - first.threshold - (first.centre - second.centre) @ second.direction
    shift = torch.linalg.pinv(both.double().T) @ torch.stack([torch.zeros_like(missing), missing]).double()
    return GateTensors(both, first.centre + shift.to(first.centre), first.threshold)


def fit_gate(
    speaking: torch.Tensor,
    silent: torch.Tensor,
    penalty: float = 1e-3,
    start: GateTensors | None = None,
    device: torch.device | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> GateTensors:
    """A gate that tells texts that speak of the concept, [p, n, d], from texts that do not, [q, n, d].

    Logistic regression on whole texts, whose score is the soft maximum over their tokens (multiple-instance learning):
    which token carries the concept is left open, because contextual encodings spread it over the tokens after its name.
    ``penalty`` is the weight of the squared norm; each class counts as a half. Threshold 0 is even odds. Such a fit has
    local minima: it begins at zero and, where it is given, at ``start``, and the better end is taken. It is computed on
    ``device``, by default that of the texts, where the gate comes back to. ``on_step`` is called before each look at
    the texts, and may raise to end the fit.
    """
    home = silent.device
    speaking, silent = speaking.to(device or home), silent.to(device or home)
    centre = silent.reshape(-1, silent.shape[-1]).mean(0)
    scale = (silent - centre).std()
    classes = [((1.0, (speaking - centre) / scale)), ((-1.0, (silent - centre) / scale))]

    def loss(weight: torch.Tensor) -> torch.Tensor:
        total = penalty * weight[:-1].square().sum()
        for sign, tokens in classes:
            total = total + F.softplus(-sign * soft_maximum(tokens @ weight[:-1] + weight[-1])).mean()
        return total

    starts = [torch.zeros(silent.shape[-1] + 1, device=silent.device)]
    if start is not None:
        direction = start.direction.to(centre)
        offset = (centre - start.centre.to(centre)) @ direction - start.threshold
        starts.append(torch.cat([direction * scale, offset[None]]))
    weight = min((descended(loss, first, on_step) for first in starts), key=lambda end: float(loss(end)))
    return GateTensors((weight[:-1] / scale).to(home), centre.detach().to(home), -float(weight[-1]))


def descended(
    loss: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, on_step: Callable[[], None] = lambda: None
) -> torch.Tensor:
    """Where L-BFGS comes to from a point."""
    weight = start.detach().clone().requires_grad_()
    optimiser = torch.optim.LBFGS([weight], max_iter=150, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        on_step()
        optimiser.zero_grad()
        total = loss(weight)
        total.backward()
        return total

    with torch.enable_grad():
        optimiser.step(closure)
    return weight.detach()


def soft_maximum(scores: torch.Tensor, sharpness: float = 4.0) -> torch.Tensor:
    """A smooth upper bound of the maximum over the last axis."""
    return torch.logsumexp(sharpness * scores, -1) / sharpness


def choose_threshold(speaking: list[float], silent: list[float]) -> tuple[float, float]:
    """Threshold and gap of a gate from the scores of texts that it was not fitted on.

    The gap is the lowest score of a text that speaks of the concept less the highest of one that does not; at or below
    zero the gate cannot tell all of them apart. The threshold lies in its middle, or where they overlap, in the middle
    of the place that gets the fewest wrong, each class counting as a half.
    """
    low, high = min(speaking), max(silent)
    if low > high:
        return (low + high) / 2, low - high
    places = sorted({*speaking, *silent})
    between = [(a + b) / 2 for a, b in pairwise(places)] or places
    wrong = [sum(s < t for s in speaking) / len(speaking) + sum(s >= t for s in silent) / len(silent) for t in between]
    best = [t for t, share in zip(between, wrong, strict=True) if share == min(wrong)]
    return (best[0] + best[-1]) / 2, low - high


def is_open(context: torch.Tensor, gate: GateTensors | None) -> torch.Tensor:
    """Which rows [b] of a batch of contexts [b, n, d] the prompt acts on."""
    if gate is None:
        return torch.ones(len(context), dtype=torch.bool, device=context.device)
    return gate_score(context, gate) >= gate.threshold
