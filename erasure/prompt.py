"""The erasure prompt: its parameters, how they start, where they attach and when they act. torch only.

KPOP (arXiv 2403.12326) appends learnable tokens to the text context of cross-attention before its projections::

    K = W_K [c ; p_K],   V = W_V [c ; p_V],   out = softmax(Q K^T / sqrt(d)) V

Here a *text gate* may decide per row of the batch whether they are there at all.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from .artifact import ErasureError, GateTensors, PromptTensors

BLOCKS = {"middle": ("middle",), "middle+output": ("middle", "output"), "all": ("input", "middle", "output")}
"""Where a prompt attaches: choice -> parts of the UNet, after the paper's mid, midout and inmidout."""

STARTS = ("concept", "empty prompt", "noise")


class ErasurePrompt(nn.Module):
    """Learnable keys and values, each [k, d], in float32 whatever the model computes in."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor):
        super().__init__()
        self.keys = nn.Parameter(keys.detach().float().clone())
        self.values = nn.Parameter(values.detach().float().clone())

    @classmethod
    def start(
        cls, kind: str, tokens: int, concept: torch.Tensor, empty: torch.Tensor, generator: torch.Generator
    ) -> ErasurePrompt:
        """A fresh prompt of ``tokens`` keys and values.

        ``concept`` [t, d]: the concept's own token encodings; ``empty`` [n, d]: the empty prompt's. The first is
        repeated, the second cut, to the wanted number. ``noise`` draws around zero with the concept's own spread.
        """
        if kind == "concept":
            first = concept[torch.arange(tokens) % len(concept)]
        elif kind == "empty prompt":
            first = empty[torch.arange(1, tokens + 1) % len(empty)]
        elif kind == "noise":
            first = torch.randn(tokens, concept.shape[-1], generator=generator) * concept.float().std()
        else:
            raise ErasureError(f"'{kind}' is no way to start a prompt: choose one of {', '.join(STARTS)}.")
        jitter = 0.01 * concept.float().std() * torch.randn(tokens, concept.shape[-1], generator=generator)
        return cls(first.float() + jitter, first.float() + jitter)

    @torch.no_grad()
    def begin_with(self, tokens: torch.Tensor) -> None:
        """Starts from these keys and values, [k, d]."""
        for parameter in (self.keys, self.values):
            parameter.copy_(tokens[torch.arange(len(parameter)) % len(tokens)])

    def at_rest(self, blocks: str, role: str, chunk: int, gate: GateTensors | None) -> PromptTensors:
        """The prompt as it stands now, as plain tensors for an ``Erasure``."""
        keys, values = (p.detach().cpu().clone() for p in (self.keys, self.values))
        return PromptTensors(keys, values, blocks, role, chunk, gate)

    def at_rest_like(self, prompt: PromptTensors) -> PromptTensors:
        """The prompt as it stands now, attached as ``prompt`` is."""
        return self.at_rest(prompt.blocks, prompt.role, prompt.chunk, prompt.gate)


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
    speaking: torch.Tensor, silent: torch.Tensor, penalty: float = 1e-3, start: GateTensors | None = None
) -> GateTensors:
    """A gate that tells texts that speak of the concept, [p, n, d], from texts that do not, [q, n, d].

    Logistic regression on whole texts, whose score is the soft maximum over their tokens (multiple-instance learning):
    which token carries the concept is left open, because contextual encodings spread it over the tokens after its name.
    ``penalty`` is the weight of the squared norm; each class counts as a half. Threshold 0 is even odds. Such a fit has
    local minima: it begins at zero and, where it is given, at ``start``, and the better end is taken.
    """
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
        offset = (centre - start.centre) @ start.direction - start.threshold
        starts.append(torch.cat([start.direction * scale, offset[None]]))
    weight = min((descended(loss, first) for first in starts), key=lambda end: float(loss(end)))
    return GateTensors(weight[:-1] / scale, centre.detach(), -float(weight[-1]))


def descended(loss: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor) -> torch.Tensor:
    """Where L-BFGS comes to from a point."""
    weight = start.detach().clone().requires_grad_()
    optimiser = torch.optim.LBFGS([weight], max_iter=150, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
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
    wrong = [
        sum(s < t for s in speaking) / len(speaking) + sum(s >= t for s in silent) / len(silent) for t in between
    ]
    best = [t for t, share in zip(between, wrong, strict=True) if share == min(wrong)]
    return (best[0] + best[-1]) / 2, low - high


def is_open(context: torch.Tensor, gate: GateTensors | None) -> torch.Tensor:
    """Which rows [b] of a batch of contexts [b, n, d] the prompt acts on."""
    if gate is None:
        return torch.ones(len(context), dtype=torch.bool, device=context.device)
    return gate_score(context, gate) >= gate.threshold


def extend(
    context: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    rows: torch.Tensor,
    chunk: int,
    gated: bool,
    strength: float | torch.Tensor = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Contexts for K and V with the prompt appended: [b, n, d] -> [b, n + m, d].

    Without a gate, m = k tokens for every whole chunk of the context, as the paper has it for one chunk; the host
    pads by repeating chunks, which multiplies all keys alike and so changes nothing.

    With a gate, m = n: open rows get the prompt, repeated to fill each chunk; closed rows get a copy of their own
    context, which doubles every softmax term and leaves the result as it was. ``strength`` moves an open row
    linearly from that copy (0, no effect) to the prompt (1, as learned).
    """
    n = context.shape[1]
    index = _token_order(len(keys), n, chunk, gated).to(context.device)
    own = torch.arange(len(index), device=context.device) % n
    amount = rows.to(context.dtype)[:, None, None] * strength
    added = []
    for base, tokens in ((context, keys), (value, values)):
        copy = base[:, own]
        prompt = tokens.to(base.device, base.dtype)[index]
        added.append(torch.cat([base, torch.lerp(copy, prompt.expand_as(copy), amount.expand_as(copy))], dim=1))
    return added[0], added[1]


def _token_order(k: int, n: int, chunk: int, gated: bool) -> torch.Tensor:
    """Which prompt token stands at each appended place."""
    if not gated:
        return torch.arange(k).repeat(max(1, n // chunk))
    return torch.arange(n) % chunk % k
