"""The pictures that a training draws to learn on: their size, and how the host's sampler draws them."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_base

from ..host.latents import latent_shape
from ..protocols import Model
from .settings import Settings

SMALLEST_PUBLISHED = 192
"""Channels below which a network is a toy; Stable Diffusion has 320."""


def with_sampling(settings: Settings, **changes) -> Settings:
    """The settings with other trajectory settings."""
    return replace(settings, sampling=replace(settings.sampling, **changes))


def with_pictures(model: Model, settings: Settings, width: int | None = None, height: int | None = None) -> Settings:
    """The settings with pictures of a size in pixels, or of that which the model was made for."""
    side = picture_size(model)
    return with_sampling(settings, shape=latent_shape(model, width or side, height or side))


def picture_size(model: Model) -> int:
    """Pixels a side of the pictures that a UNet was made for, as far as its sizes tell: 1024 for SDXL and its refiner,
    768 for those of SD 2 that predict v, 512 for other published ones, 64 for toys."""
    network = getattr(model.model.model_config, "unet_config", {})
    width, text = network.get("model_channels") or 320, network.get("context_dim") or 768
    if width < SMALLEST_PUBLISHED:
        return 64
    if text in (2048, 1280):
        return 1024
    kind = getattr(model.model, "model_type", None)
    return 768 if text == 1024 and kind is comfy.model_base.ModelType.V_PREDICTION else 512
