"""Anima with a tiny Qwen3, a tiny adapter, and the host's tokenizers of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..node.families import anima
from . import qwen
from .world import Reading, Texts, World


class AnimaTexts(Texts):
    tokenizer_class, model_class = anima.ToyAnimaTokenizer, anima.ToyAnimaClip
    streams = {"qwen3_06b": "qwen3_06b"}

    def watch(self, network: nn.Module) -> None:
        """The adapter belongs to the network, and its table is fitted with the others."""
        self.adapter = [network.llm_adapter]
        self.tables = {**self.tables, "t5xxl": network.llm_adapter.embed}

    def read(self, tokens: Sequence[Mapping[str, list[int]]]) -> Reading:
        source, there = qwen.encode(self.model.qwen3_06b, [text["qwen3_06b"] for text in tokens])
        rows = [text["t5xxl"] for text in tokens]
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        own = torch.tensor([[i < len(row) for i in range(longest)] for row in rows])
        context = self.adapter[0](source, ids, own, there) * own[..., None]
        context = F.pad(context, (0, 0, 0, max(0, anima.LENGTH - longest)))
        return Reading({"c_crossattn": context}, [qwen.last(source, there), qwen.last(context, own)])


WORLD = World(
    name="anima",
    family=anima.ToyAnima,
    network=anima.NETWORK,
    colours_from=0.0,
    rate=1.6e-3,
    texts=AnimaTexts,
    steps=2500,
    silent=tuple(f"adaln_modulation_{part}.2.weight" for part in ("self_attn", "cross_attn", "mlp"))
    + ("final_layer.linear.weight",),
    latent=(4, 1, 8, 8),
)
