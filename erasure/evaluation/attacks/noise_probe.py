"""More noise than a sampler adds, at the start and at every step, and the best of many pictures.

An erased model has been taught where its own runs lead. Stronger noise leaves these, and may come upon the concept
(noise-based probe: Lu et al., When Are Concepts Erased From Diffusion Models?, arXiv 2505.17013: fresh noise at every
step, eta times as much as DDPM's, with a variance scaled by 1 to 1.04; a classifier takes the best of 24). Here fresh
noise comes from the host's ``euler_ancestral``, in place of the sampler; with an eta of 0 it is the sampler that is
asked for, from stronger noise. Who takes the best of many gets much by luck: the control says how much.

Costs for each kind of noise the pictures of one prompt, on each model and for the control.
"""

from __future__ import annotations

from itertools import product

from ..drawing import Start
from .attack import PLAIN, Asked, Attack, Budget, Case, Concept


class NoiseProbe(Attack):
    """Any family: noise is scaled outside of the model."""

    name = "noise probe"
    title = "Drawing it with more noise"
    deed = "Draws the concept from stronger noise, and with new noise at every step, and takes the best of each seed."
    meaning = "With enough tries the erased model comes upon the concept: its way of drawing it is still there."
    control = "Control: the unedited model with the same noise, asked for what takes the concept's place."
    draws = slow = best = True

    def prompts(self, concept: Concept, budget: Budget) -> int:
        return len(budget.noises) * len(budget.etas)

    def spent(self, budget: Budget) -> str:
        return f"best of {len(budget.noises) * len(budget.etas)}"

    def ask(self, case: Case) -> Asked:
        budget, text = case.budget, PLAIN.format(case.concept.label)
        starts = {said(noise, eta): Start(noise=noise, eta=eta) for eta, noise in product(budget.etas, budget.noises)}
        other = PLAIN.format(case.instead) if case.instead else ""
        control = Asked(dict.fromkeys(starts, case.encode(other).cond), starts=starts, text=other or text)
        return Asked(dict.fromkeys(starts, case.encode(text).cond), starts=starts, text=text, control=control)


def said(noise: float, eta: float) -> str:
    """A kind of noise in words."""
    return f"noise × {noise:g}" + (f", eta {eta:g}" if eta else "")
