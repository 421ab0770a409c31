"""Z-Image with a tiny Qwen3, the host's tokenizer and template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..node.families import z_image
from . import qwen
from .world import Reading, Texts, World

MULTIPLE = z_image.EXTRA["pad_tokens_multiple"]


class ZImageTexts(Texts):
    tokenizer_class, model_class = z_image.ToyZImageTokenizer, z_image.ToyZImageClip
    streams = {"qwen3_4b": "qwen3_4b"}

    def __init__(self) -> None:
        super().__init__()
        self.own: torch.Tensor | None = None

    def fits(self, tokens: Mapping[str, list[int]]) -> bool:
        return len(tokens["qwen3_4b"]) <= MULTIPLE

    def read(self, tokens: Sequence[Mapping[str, list[int]]]) -> Reading:
        rows = [text["qwen3_4b"] for text in tokens]
        longest = max(len(row) for row in rows)
        context, self.own = qwen.encode(self.model.qwen3_4b, rows, -(-longest // MULTIPLE) * MULTIPLE)
        conds = {"c_crossattn": context, "num_tokens": context.shape[1]}
        return Reading(conds, [qwen.last(context, self.own)])

    def watch(self, network: nn.Module) -> None:
        """Puts the network's token for padding behind each text, as it does itself for a text alone."""

        def pad(_module, _given, embedded: torch.Tensor) -> torch.Tensor:
            return torch.where(self.own[..., None], embedded, network.cap_pad_token)

        network.cap_embedder.register_forward_hook(pad)


WORLD = World(
    name="z_image",
    family=z_image.ToyZImage,
    network=z_image.NETWORK,
    colours_from=0.0,
    rate=1.6e-3,
    texts=ZImageTexts,
    steps=4500,
    batch=32,
    silent=(".adaLN_modulation.0.weight", ".adaLN_modulation.0.bias", "final_layer.linear.weight"),
)
