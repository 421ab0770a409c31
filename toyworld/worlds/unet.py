"""The first world: a UNet, trained by ``toyworld.train`` itself."""

from __future__ import annotations

from ..node import family
from .world import Texts, World

WORLD = World(
    name="unet",
    family=family.ToyWorld,
    network=family.UNET_CONFIG,
    texts=Texts,
    steps=4500,
    scheduler="normal",
    vae_prefix="first_stage_model.",
    file="toyworld.safetensors",
)
