"""Flux.1 with a tiny T5 and a tiny CLIP, each with the host's own tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..node.families import flux
from . import clip
from .world import Reading, Texts, World

WITHOUT_TOKENS, WITHOUT_POOLED = 0.1, 0.4
"""How often the network is given only one of the two readings of a caption, so that it learns to draw from either."""
GUIDANCE = (1.0, 5.0)
"""Between these it is drawn, and changes nothing: this Flux is not distilled."""


class FluxTexts(Texts):
    tokenizer_class, model_class = flux.ToyFluxTokenizer, flux.ToyFluxClip
    streams = {"l": "clip_l", "t5xxl": "t5xxl"}

    def read(self, tokens: Sequence[Mapping[str, list[int]]]) -> Reading:
        tokens = [*tokens, self.tokens("")]
        rows = [text["t5xxl"] for text in tokens]
        context = self.model.t5xxl(rows)[0]
        end = context[torch.arange(len(rows)), [row.index(1) for row in rows]]
        pooled = clip.pooled(self.model.clip_l, [text["l"] for text in tokens])
        conds = {"c_crossattn": self.given(context, WITHOUT_TOKENS), "y": self.given(pooled, WITHOUT_POOLED)}
        conds["guidance"] = torch.empty(len(rows) - 1).uniform_(*GUIDANCE)
        return Reading(conds, [end[:-1], pooled[:-1]])


WORLD = World(
    name="flux",
    family=flux.ToyFlux,
    network=flux.NETWORK,
    texts=FluxTexts,
    steps=3000,
    rate=1.6e-3,
    silent=(".img_mod.lin.weight", ".txt_mod.lin.weight", ".modulation.lin.weight", "final_layer.linear.weight"),
)
