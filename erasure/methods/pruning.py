"""Pruning for robust erasing: P-ESD (arXiv 2405.16534).

    min_m  || e_{θ m}(z_t, c_e) - t ||^2  +  w share(m = 0),   t as in ESD

The weights stay what they are; a mask m over them learns which ones to set to zero. Known to us from
the abstract, which names a differentiable mask and sparsity: assumed are scores with a straight-through threshold, and
as a term the share of weights that are pruned. Taking the erasure off brings every weight back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..host.weights import effective_weights
from ..parts.delta import Mask
from ..training.loop import Method, Phase
from ..training.run import Run
from ..training.settings import Settings
from . import esd

if TYPE_CHECKING:
    from ..training.setting_up import Setting

SPARSITY = 0.02
"""Weight of the share of pruned weights."""


class Pruning(Method):
    """One update a step, of the mask."""

    settings = {
        "weights": "cross-attention", "in_context": False, "eta": 1.0, "preserve_weight": 0.0, "weight_lr": 0.02,
        "drawn_by": "edited", "refresh": 10,
    }  # fmt: skip

    def change(self, setting: Setting) -> Mask:
        mask = Mask(effective_weights(setting.model, setting.weights))
        if setting.resume is not None:
            mask.start_from(setting.resume.delta)
        return mask

    def phases(self, settings: Settings) -> Sequence[Phase]:
        return [Phase("prune", "delta", prune)]


def prune(run: Run) -> torch.Tensor:
    """The mask learns: without the pruned weights, the concept gives what the target did."""
    assert isinstance(run.delta, Mask)
    kept = torch.cat([part.flatten() for part in run.delta.kept()])
    return esd.erase(run) + SPARSITY * (1 - kept).mean()
