"""Krea 2: twelve layers of a language model are fused, pass a norm, and then ``txtmlp.1``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from .entry import LinearEntry, as_given
from .family import HostModel

FUSION, NORM = "txtfusion", "txtmlp.0"


class Krea(LinearEntry):
    name = "Krea 2"
    learns = True
    networks = ("krea2.model.SingleStreamDiT",)
    entries = ("txtmlp.1",)

    def in_front(self, model: HostModel) -> Sequence[str]:
        fronts = (f"diffusion_model.{FUSION}.", f"diffusion_model.{NORM}.")
        return [name for name, _ in model.named_parameters() if name.startswith(fronts)]

    def encodings(self, model: HostModel, rows: torch.Tensor, tokens: Mapping[str, Sequence]) -> torch.Tensor:
        network = model.diffusion_model
        context = network._unpack_context(as_given(model, network.txtfusion, rows))
        fused = network.txtfusion(context, mask=None, transformer_options={})
        return network.txtmlp[0](fused)[0].float().cpu()
