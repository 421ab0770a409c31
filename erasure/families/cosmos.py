"""Anima and Cosmos-Predict2: cross-attention in every block reads the text, in Anima behind an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from .entry import LinearEntry, as_given
from .family import KEYS_AND_VALUES, VALUES, HostModel

ADAPTER = "llm_adapter"


class Cosmos(LinearEntry):
    """The adapter gives one encoding for each token of T5's tokenizer, from what a language model makes of the text."""

    name = "Anima"
    networks = ("cosmos.predict2.MiniTrainDIT",)
    entries = ("cross_attn.k_proj", "cross_attn.v_proj")

    def text_entry(self, model: HostModel, choice: str = KEYS_AND_VALUES) -> list[str]:
        names = [name for name in super().text_entry(model) if f".{ADAPTER}." not in name]
        return [name for name in names if choice != VALUES or ".v_proj." in name]

    def reads_text(self, name: str) -> bool:
        return super().reads_text(name) and ADAPTER not in name.split(".")

    def in_front(self, model: HostModel) -> Sequence[str]:
        return [name for name, _ in model.named_parameters() if name.startswith(f"diffusion_model.{ADAPTER}.")]

    def encodings(self, model: HostModel, rows: torch.Tensor, tokens: Mapping[str, Sequence]) -> torch.Tensor:
        network = model.diffusion_model
        if not hasattr(network, ADAPTER):
            return rows
        ids, weights = zip(*((int(token[0]), float(token[1])) for token in tokens["t5xxl"][0]), strict=True)
        source = as_given(model, network.llm_adapter, rows)
        out = network.llm_adapter(source, torch.tensor([ids], device=source.device))[0]
        return out.float().cpu() * torch.tensor(weights)[:, None]
