"""The toy world in other architectures. One file each says what is its own; ``training.py`` trains any of them."""

from __future__ import annotations

from . import anima, flux, qwen_image, sdxl, unet, z_image

WORLDS = {module.WORLD.name: module.WORLD for module in (unet, flux, sdxl, z_image, anima, qwen_image)}
