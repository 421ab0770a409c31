"""The toy VAE: TAESD's layout at half its width, widened with zeros to the one layout the host reads.

Zero channels stay zero through convolutions without bias and through ReLU, so widening changes no output while
training costs a quarter.
"""

from __future__ import annotations

import torch
from torch import nn

WIDTH = 32
HOST_WIDTH = 64
LATENT_CHANNELS = 4


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        layers = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x) + x)


class Clamp(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x / 3) * 3


def encoder(width: int = WIDTH) -> nn.Sequential:
    """Pictures [b, 3, h, w] in [0, 1] -> latents [b, 4, h/8, w/8]."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), Block(width)]
    for _ in range(3):
        layers += [nn.Conv2d(width, width, 3, padding=1, stride=2, bias=False)]
        layers += [Block(width) for _ in range(3)]
    return nn.Sequential(*layers, nn.Conv2d(width, LATENT_CHANNELS, 3, padding=1))


def decoder(width: int = WIDTH) -> nn.Sequential:
    """Latents [b, 4, h, w] -> pictures [b, 3, 8h, 8w] in about [0, 1]."""
    layers: list[nn.Module] = [Clamp(), nn.Conv2d(LATENT_CHANNELS, width, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        layers += [Block(width) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, Block(width), nn.Conv2d(width, 3, 3, padding=1))


def widen(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same function at the host's width: every axis of WIDTH channels is padded with zeros to HOST_WIDTH."""
    return {name: _pad(tensor) for name, tensor in state.items()}


def narrow(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What ``widen`` was given."""
    return {
        name: tensor[tuple(slice(WIDTH if i < 2 and n == HOST_WIDTH else n) for i, n in enumerate(tensor.shape))]
        for name, tensor in state.items()
    }


def _pad(tensor: torch.Tensor) -> torch.Tensor:
    shape = [HOST_WIDTH if i < 2 and n == WIDTH else n for i, n in enumerate(tensor.shape)]
    out = tensor.new_zeros(shape)
    out[tuple(slice(n) for n in tensor.shape)] = tensor
    return out
