"""LTX-Video: all text passes the first layer of ``caption_projection``."""

from __future__ import annotations

from torch import nn

from .entry import LinearEntry, is_one_of

PROJECTIONS = ("lightricks.model.PixArtAlphaTextProjection",)


class LTXV(LinearEntry):
    """Those that project the text first; LTX-2 runs it through connectors, before the host samples."""

    name = "LTX-Video"
    networks = ("lightricks.model.LTXVModel",)
    entries = ("caption_projection.linear_1",)

    def fits(self, network: nn.Module) -> bool:
        return super().fits(network) and is_one_of(network.get_submodule("caption_projection"), PROJECTIONS)
