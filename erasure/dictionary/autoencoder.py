"""A sparse autoencoder with BatchTopK: a vector as a sum of a few of many features. torch only.

    p = relu(W_e (x' - b) + b_e),   z = p where p is among the k n largest of a batch of n vectors, else 0
    x^ = W_d z + b,                 L = ||x' - x^||^2 + aux ||(x' - x^) - x^_dead||^2,   x' = (x - mean) / scale

BatchTopK (Bussmann et al., arXiv 2412.06410), as SAeUron (Cywinski and Deja, arXiv 2501.18052) uses it: k 32, sixteen
times as many features as numbers, aux 1/32 on features that have not been active for long (Gao et al., arXiv
2406.04093). After training a feature is active where p is above one threshold, which gives k on average: so what a
vector's features are depends on no other vector of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

AUX = 1 / 32
"""Weight of the loss that revives dead features."""


@dataclass(frozen=True)
class Fit:
    """How a dictionary is fitted: features that are ``active`` on average, learning rate, vectors a batch, passes over
    the recording; a feature is dead that was not active for ``dead_after`` vectors."""

    active: int = 32
    lr: float = 4e-4
    batch: int = 4096
    epochs: int = 5
    dead_after: int = 10_000_000
    seed: int = 0


class Autoencoder(nn.Module):
    """Of vectors [n, d], with ``features`` features. ``mean`` [d], ``scale``: of the vectors that it is fitted to."""

    mean: torch.Tensor
    scale: torch.Tensor
    threshold: torch.Tensor
    idle: torch.Tensor

    def __init__(self, width: int, features: int, seed: int = 0):
        super().__init__()
        directions = torch.randn(features, width, generator=torch.Generator().manual_seed(seed))
        self.decoder = nn.Parameter(F.normalize(directions, dim=1))
        self.encoder = nn.Parameter(self.decoder.detach().clone())
        self.bias = nn.Parameter(torch.zeros(features))
        self.centre = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("idle", torch.zeros(features, dtype=torch.long))
        """How many vectors ago each feature was active."""

    @property
    def width(self) -> int:
        return self.decoder.shape[1]

    @property
    def features(self) -> int:
        return self.decoder.shape[0]

    def standard(self, x: torch.Tensor) -> torch.Tensor:
        """Vectors in the autoencoder's own scale."""
        return (x.float() - self.mean) / self.scale

    def before_choice(self, x: torch.Tensor) -> torch.Tensor:
        """p [n, features] of vectors in the autoencoder's own scale."""
        return F.relu(F.linear(x - self.centre, self.encoder, self.bias))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Vectors in the autoencoder's own scale."""
        return z @ self.decoder + self.centre

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """z [n, features] of vectors as the network has them."""
        p = self.before_choice(self.standard(x))
        return p * (p > self.threshold)

    @torch.no_grad()
    def begin(self, sample: torch.Tensor) -> None:
        """Takes mean and scale from a sample of the vectors [n, d]."""
        self.mean.copy_(sample.float().mean(0))
        self.scale.copy_((sample.float() - self.mean).square().mean().sqrt().clamp_min(1e-8))

    @torch.no_grad()
    def keep_unit_length(self) -> None:
        """Brings every feature's direction back to length 1; without it sparseness would cost nothing."""
        self.decoder.copy_(F.normalize(self.decoder, dim=1))


def largest(p: torch.Tensor, count: int) -> torch.Tensor:
    """p with all but its ``count`` largest entries set to 0, over the whole batch."""
    flat = p.flatten()
    least = flat.topk(min(count, flat.numel()), sorted=False).values.min()
    return p * ((p >= least) & (p > 0))


def losses(net: Autoencoder, x: torch.Tensor, fit: Fit) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of a batch [n, d] in the autoencoder's own scale, and its z."""
    p = net.before_choice(x)
    z = largest(p, fit.active * len(x))
    rest = x - net.decode(z)
    loss = rest.square().mean()
    dead = net.idle > fit.dead_after
    if bool(dead.any()):
        revived = largest(p * dead, min(int(dead.sum()), net.width // 2) * len(x)) @ net.decoder
        loss = loss + AUX * (rest.detach() - revived).square().mean()
    return loss, z


def share_of_rate(done: float) -> float:
    """Linear decay to nothing, after a short start."""
    return min(1.0, done / 0.02 + 0.01) * (1 - done)


def fit_autoencoder(
    net: Autoencoder, batches: Callable[[int], Iterator[torch.Tensor]], total: int, fit: Fit,
    on_step: Callable[[int, int, float], None] = lambda done, total, loss: None, start: int = 0,
) -> None:  # fmt: skip
    """Fits in place; ``batches(epoch)`` gives vectors [n, d] as the network has them, ``total`` of them in all epochs
    together. ``on_step(batches done, in all, loss)`` may raise, which ends it with what was learned in place."""
    optimiser = torch.optim.Adam(net.parameters(), lr=fit.lr, betas=(0.9, 0.999))
    step = 0
    for epoch in range(fit.epochs):
        for x in batches(epoch):
            step += 1
            if step > start:
                for group in optimiser.param_groups:
                    group["lr"] = fit.lr * share_of_rate((step - 1) / total)
                on_step(step, total, _one_step(net, x, fit, optimiser))


def _one_step(net: Autoencoder, x: torch.Tensor, fit: Fit, optimiser: torch.optim.Optimizer) -> float:
    loss, z = losses(net, net.standard(x), fit)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    net.keep_unit_length()
    follow(net, z.detach())
    return float(loss.detach())


@torch.no_grad()
def follow(net: Autoencoder, z: torch.Tensor) -> None:
    """What a batch says of the threshold, which is a running mean of the least active value, and of idle features."""
    active = z > 0
    if bool(active.any()):
        least = z[active].min()
        net.threshold.copy_(least if float(net.threshold) == 0 else torch.lerp(net.threshold, least, 0.02))
    net.idle.add_(len(z)).masked_fill_(active.any(0), 0)


@torch.no_grad()
def explained(net: Autoencoder, x: torch.Tensor) -> tuple[float, float, torch.Tensor]:
    """Of vectors [n, d]: the share of their variance that the features explain, how many are active on average, and
    how often each is [features]."""
    z, own = net.encode(x), net.standard(x)
    rest = (own - net.decode(z)).square().sum()
    share = 1 - float(rest / (own - own.mean(0)).square().sum())
    return share, float((z > 0).sum(1).float().mean()), (z > 0).float().mean(0)
