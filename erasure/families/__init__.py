"""The families of networks that can be erased from. A new one is a file here and a line below."""

from __future__ import annotations

from torch import nn

from .aura import Aura
from .chroma import Chroma
from .cosmos import Cosmos
from .ernie import Ernie
from .family import Family
from .flux import Flux
from .hunyuan import Hunyuan
from .ideogram import Ideogram
from .joyimage import JoyImage
from .kandinsky import Kandinsky
from .krea import Krea
from .ltxv import LTXV
from .lumina import Lumina
from .minimax import MiniMax
from .omnigen import OmniGen
from .pixart import PixArt
from .qwen import Qwen
from .sd3 import SD3
from .unet import UNet
from .wan import Wan

FAMILIES: tuple[Family, ...] = (
    UNet(),
    Cosmos(),
    Lumina(),
    Flux(),
    Qwen(),
    Krea(),
    Chroma(),
    SD3(),
    Wan(),
    LTXV(),
    Hunyuan(),
    Ernie(),
    MiniMax(),
    PixArt(),
    Aura(),
    OmniGen(),
    Kandinsky(),
    JoyImage(),
    Ideogram(),
)


def family_of(model: nn.Module) -> Family | None:
    """The family of a host's model (``MODEL.model``); None for one that is not known."""
    network = getattr(model, "diffusion_model", None)
    if network is None:
        return None
    return next((family for family in FAMILIES if family.fits(network) and family.suits(model)), None)


def reads_text(name: str) -> bool:
    """Whether a weight of this name is of some family's text entry."""
    return any(family.reads_text(name) for family in FAMILIES)
