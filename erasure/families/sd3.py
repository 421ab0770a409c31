"""SD 3 and 3.5: all text passes ``context_embedder``, and a pooled text beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from .entry import LinearEntry, as_given
from .family import HostModel

PROCESSOR = "context_processor"


class SD3(LinearEntry):
    """Some tunes have layers of attention that the text passes before."""

    name = "SD 3.5"
    learns = True
    networks = ("modules.diffusionmodules.mmdit.MMDiT",)
    entries = ("context_embedder",)
    pooled = "y_embedder.mlp.0"

    def in_front(self, model: HostModel) -> Sequence[str]:
        return [name for name, _ in model.named_parameters() if name.startswith(f"diffusion_model.{PROCESSOR}.")]

    def encodings(self, model: HostModel, rows: torch.Tensor, tokens: Mapping[str, Sequence]) -> torch.Tensor:
        processor = model.diffusion_model.context_processor
        if processor is None:
            return rows
        return processor(as_given(model, processor, rows))[0].float().cpu()
