"""Latents of a MODEL: their shape, and their way to pictures and back.

Some models draw films, of which a picture is one frame: their latents [b, c, 1, h, w] have an axis more.
"""

from __future__ import annotations

import torch

from ..protocols import Model, Vae

FILM = 3
"""Axes of a film's latent behind its channels."""


def latent_shape(model: Model, width: int, height: int) -> tuple[int, ...]:
    """Of the latent of a picture of so many pixels: [c, h, w], or [c, 1, h, w]."""
    latent = model.get_model_object("latent_format")
    ratio = getattr(latent, "spacial_downscale_ratio", 8)
    frames = (1,) if getattr(latent, "latent_dimensions", 2) == FILM else ()
    return (latent.latent_channels, *frames, height // ratio, width // ratio)


def to_pictures(vae: Vae, latents: torch.Tensor) -> torch.Tensor:
    """Pictures [b, h, w, 3] of latents, in [0, 1], on the CPU."""
    decoded = vae.decode(latents)
    return decoded.reshape(-1, *decoded.shape[-3:])[..., :3].float().cpu()


def to_latents(model: Model, vae: Vae, pictures: torch.Tensor) -> torch.Tensor:
    """Latents of pictures [b, h, w, 3], as the MODEL has them."""
    axes = len(latent_shape(model, 64, 64))
    alone = getattr(vae, "latent_dim", 2) == FILM  # or it would take them for one film
    parts = [vae.encode(part[..., :3]) for part in (pictures.split(1) if alone else [pictures])]
    latents = torch.cat(parts)
    return latents if latents.ndim > axes else latents.unsqueeze(2)
