"""UCE: unified concept editing in closed form (Gandikota et al., arXiv 2308.14761).

    W' = (ridge W + sum_e w_e v* c^T + sum_p w_p W p p^T) (ridge I + sum_e w_e c c^T + sum_p w_p p p^T)^-1,   v* = W t

c: encodings of the concept, t: where they go, p: encodings to preserve. The right-hand side is the same in each layer,
so the edit is one linear map of the text (``textmap.py``). Weights are means within a concept and within the preserve
set, so that neither counts for more because more of its texts were listed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..textmap import TextMap, moment, solve


def edit(
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]],
    kept: torch.Tensor,
    erase_scale: float = 1.0,
    preserve_scale: float = 1.0,
    ridge: float = 1e-3,
) -> TextMap:
    """The edit for concepts given as pairs (source, target) of encodings [n, d] each, and ``kept`` [m, d].

    ``ridge`` is relative to the mean square of a kept encoding's entries, so that it means the same for every encoder.
    """
    weights = [(erase_scale / len(source)) ** 0.5 for source, _ in pairs]
    source, target = (
        torch.cat([w * pair[side].double() for w, pair in zip(weights, pairs, strict=True)]) for side in (0, 1)
    )
    preserved = moment(kept, 1 / len(kept))
    identity = torch.eye(len(preserved), dtype=preserved.dtype, device=preserved.device)
    system = moment(source) + preserve_scale * preserved + ridge * preserved.diagonal().mean() * identity
    return solve(source, target, system)
