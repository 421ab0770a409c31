"""Our worlds in other architectures, as the host sees them: one file each, with the host's network and tokenizers.

A class of the host's fixes the size of a text encoder, and some fix the size of a network. So each family here is a
class of its own. It comes before the host's in the host's list, and a number that is read from the file tells them
apart.
"""

from __future__ import annotations

import importlib
import logging

import comfy.supported_models

FAMILIES = {
    "flux": "ToyFlux",
    "sdxl": "ToySDXL",
    "z_image": "ToyZImage",
    "anima": "ToyAnima",
    "qwen_image": "ToyQwenImage",
    "drawn": "DrawnWorld",
}
"""File -> class of each family."""


def register() -> None:
    """Puts the families that this host can run in front of its own, once."""
    known = {model.__name__ for model in comfy.supported_models.models}
    for file, name in FAMILIES.items():
        if name in known:
            continue
        try:
            module = importlib.import_module(f".{file}", __name__)
        except (ImportError, AttributeError):
            logging.info("The world %s needs a newer ComfyUI.", file)
            continue
        comfy.supported_models.models.insert(0, getattr(module, name))
