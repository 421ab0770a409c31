"""The families of networks that can be erased from. A new one is a file here and a line below."""

from __future__ import annotations

from torch import nn

from .family import Family
from .unet import UNet

FAMILIES: tuple[Family, ...] = (UNet(),)


def family_of(model: nn.Module) -> Family | None:
    """The family of a host's model (``MODEL.model``); None for one that is not known."""
    network = getattr(model, "diffusion_model", None)
    return None if network is None else next((family for family in FAMILIES if family.fits(network)), None)


def reads_text(name: str) -> bool:
    """Whether a weight of this name is of some family's text entry."""
    return any(family.reads_text(name) for family in FAMILIES)
