"""KPOP: knowledge transfer and removal with a learnable prompt (Bui et al., arXiv 2403.12326).

Notation of the paper: e the original noise prediction, e' the edited one, c_e the concept, c_0 the empty prompt,
p the erasure prompt. Each step does one update of each kind::

    transfer   min_p   || e'(z_t, c_e, p) - e(z_t, c_e) ||^2
    removal    min_θ'  w_wo || e'(z_t, c_e) - t ||^2  +  w_w || e'(z_t, c_e, p) - T ||^2
    with       t = e(z_t, c_0) - eta (e(z_t, c_e) - e(z_t, c_0))

The prompt takes the concept's knowledge over, so that the weights need not destroy it. T = t is version 2 of the
paper (erased with the prompt, too); T = e(z_t, c_e) is version 3 (the prompt is a key that recovers the concept).
Reconstructed from the abstracts and from what the authors left in later repositories: the paper's text and its own code
were not at hand, so both T are our reading.
Ours, and off in the paper presets: the preserve term || e'(z_t, c_p) - e(z_t, c_p) ||^2 over the preserve set; a target
that is the concept's nearest neighbour, t = e(z_t, c_n); and weights that start from the closed form of Instant Erasure
for it, so that training has only the rest to do, and the key. Where it can, it preserves more firmly there and leaves
more of the concept, which training takes. A key then also turns the text's own tokens back to what these weights read
as the concept (``training/reviving.py``), and learns alone at first: a key that cannot recover yet would pull the
concept back into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..training.loop import Method, Phase
from ..training.preservation import with_preservation
from ..training.run import Run
from ..training.settings import Settings


@dataclass(frozen=True)
class Options:
    """w_wo and w_w above, and T: the ``target`` (version 2 of the paper) or the ``original`` prediction (version 3)."""

    erase_weight: float = 1.0
    with_prompt_weight: float = 2.0
    keep_with_prompt: str = "original"


class KPOP(Method):
    """Alternates the two updates, one of each a step."""

    role = "key"
    settings = {
        "steps": 100, "weight_lr": 1e-3, "weights_start": "closed form", "target": "nearest neighbour",
        "prompt_first": 0.4, "best_of": 4,
    }  # fmt: skip

    def phases(self, settings: Settings) -> Sequence[Phase]:
        return [Phase("transfer", "prompt", transfer), Phase("removal", "delta", removal)]


def transfer(run: Run) -> torch.Tensor:
    """The prompt learns: with it, the edited model predicts what the original did."""
    batch = run.concept_batch()
    return run.distance(run.edited(batch, beside=True), run.original(batch), batch)


def removal(run: Run) -> torch.Tensor:
    """The weights learn: without the prompt, the edited model predicts the target."""
    options = Options(**run.settings.options)
    batch = run.concept_batch()
    original, target = run.original_and_target(batch)
    loss = options.erase_weight * run.distance(run.edited(batch, beside=False), target, batch)
    if options.with_prompt_weight > 0:
        kept = target if options.keep_with_prompt == "target" else original
        loss = loss + options.with_prompt_weight * run.distance(run.edited(batch, beside=True), kept, batch)
    return with_preservation(run, loss)
