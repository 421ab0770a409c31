"""Qwen-Image with a tiny Qwen2.5, the host's tokenizer and template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..node.families import qwen_image
from . import qwen
from .world import Reading, Texts, World

USER = (872, 198)
"""Tokens behind which the host begins to give rows on: "user" and a new line."""


class QwenImageTexts(Texts):
    tokenizer_class, model_class = qwen_image.ToyQwenImageTokenizer, qwen_image.ToyQwenImageClip
    streams = {"qwen25_7b": "qwen25_7b"}

    def __init__(self) -> None:
        super().__init__()
        empty = self.tokens("")["qwen25_7b"]
        self.instructions = next(i for i in range(len(empty)) if tuple(empty[i : i + 2]) == USER) + 2

    def read(self, tokens: Sequence[Mapping[str, list[int]]]) -> Reading:
        context, own = qwen.encode(self.model.qwen25_7b, [text["qwen25_7b"] for text in tokens])
        context, own = context[:, self.instructions :], own[:, self.instructions :]
        return Reading({"c_crossattn": context, "attention_mask": own.long()}, [qwen.last(context, own)])


WORLD = World(
    name="qwen_image",
    family=qwen_image.ToyQwenImage,
    network=qwen_image.NETWORK,
    colours_from=0.0,
    rate=1.6e-3,
    texts=QwenImageTexts,
    steps=2500,
    silent=(".img_mod.1.weight", ".txt_mod.1.weight", "proj_out.weight"),
    latent=(4, 1, 8, 8),
)
