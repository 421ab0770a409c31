"""LTX-Video: all text passes the first layer of ``caption_projection``."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import nn

from .entry import LinearEntry, is_one_of
from .gradients import OutOfPlace, norm_of_copy

PROJECTIONS = ("lightricks.model.PixArtAlphaTextProjection",)
WITH_SOUND = ("lightricks.av_model.LTXAVModel",)


class LTXV(LinearEntry):
    """Those that project the text first; LTX-2 gives picture and sound two texts, each through a connector."""

    name = "LTX-Video"
    learns = True
    networks = ("lightricks.model.LTXVModel",)
    entries = ("caption_projection.linear_1",)

    def fits(self, network: nn.Module) -> bool:
        if not super().fits(network) or is_one_of(network, WITH_SOUND):
            return False
        return is_one_of(network.get_submodule("caption_projection"), PROJECTIONS)

    def differentiable(self) -> AbstractContextManager:
        return OutOfPlace({F.rms_norm: norm_of_copy}) if torch.is_grad_enabled() else nullcontext()
