"""LTX-Video: all text passes the first layer of ``caption_projection``."""

from __future__ import annotations

from torch import nn

from .entry import LinearEntry, is_one_of

PROJECTIONS = ("lightricks.model.PixArtAlphaTextProjection",)
WITH_SOUND = ("lightricks.av_model.LTXAVModel",)


class LTXV(LinearEntry):
    """Those that project the text first; LTX-2 gives picture and sound two texts, each through a connector."""

    name = "LTX-Video"
    networks = ("lightricks.model.LTXVModel",)
    entries = ("caption_projection.linear_1",)

    def fits(self, network: nn.Module) -> bool:
        if not super().fits(network) or is_one_of(network, WITH_SOUND):
            return False
        return is_one_of(network.get_submodule("caption_projection"), PROJECTIONS)
