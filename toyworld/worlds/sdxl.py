"""SDXL's shape. Its network starts from the first world's, whose convolutions know the pictures already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from ..node.families import sdxl
from ..train import CHECKPOINT
from . import clip
from .world import Reading, Texts, World

WITHOUT_TOKENS, WITHOUT_POOLED = 0.4, 0.2
"""How often the network is given only one of the two readings of a caption, so that it learns to draw from either."""


class SDXLTexts(Texts):
    tokenizer_class, model_class = sdxl.ToySDXLTokenizer, sdxl.ToySDXLClip
    streams = {"l": "clip_l", "g": "clip_g"}

    def read(self, tokens: Sequence[Mapping[str, list[int]]]) -> Reading:
        tokens = [*tokens, self.tokens("")]
        parts = [
            clip.encode(model, [text[stream] for text in tokens], whole=True)
            for stream, model in (("l", self.model.clip_l), ("g", self.model.clip_g))
        ]
        context = torch.cat([hidden for _, hidden, *_ in parts], dim=-1)
        pooled = parts[1][2]
        given = F.pad(self.given(pooled, WITHOUT_POOLED), (0, sdxl.SIZES))  # the network reads no sizes
        conds = {"c_crossattn": self.given(context, WITHOUT_TOKENS), "y": given}
        return Reading(conds, [parts[0][3][:-1], pooled[:-1]])


def from_first_world(network: nn.Module) -> None:
    """Takes over every weight of the first world's UNet that has its place here; what reads text starts anew.

    What would read sizes stays zero: they are as large as a thousand pooled texts and say nothing here.
    """
    prefix, own = "model.diffusion_model.", network.state_dict()
    for name, weight in load_file(CHECKPOINT).items():
        name = name.removeprefix(prefix)
        if name in own and own[name].numel() == weight.numel():
            own[name].copy_(weight.reshape(own[name].shape))
    reader = network.label_emb[0][0].weight
    with torch.no_grad():
        reader[:, sdxl.WIDTH_G :] = 0


WORLD = World(
    name="sdxl",
    family=sdxl.ToySDXL,
    network=sdxl.NETWORK,
    texts=SDXLTexts,
    steps=1200,
    batch=32,
    start=from_first_world,
    scheduler="normal",
    vae_prefix="first_stage_model.",
)
