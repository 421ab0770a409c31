"""Pictures of the concept, drawn by the unedited model, that the edited one draws over.

This is what everybody does who loads a picture and lowers ``denoise``; SEE and M-ErasureBench (arXiv 2512.22877) start
from such latents as well. The less is denoised, the more of the picture simply stays; the control says how much.

Costs the pictures of one prompt, and for each ``denoise`` those of one prompt more on each model and for the control.
"""

from __future__ import annotations

from ...host.latents import to_latents
from ..drawing import Start
from .attack import Asked, Attack, Budget, Case, Concept, beside_no_prompt


class Img2img(Attack):
    """By a path of its own: picture, VAE, noise, and the sampler that pictures are drawn with."""

    name = "img2img"
    title = "Drawing over a picture of it"
    deed = "Has the erased model draw over the unedited model's pictures of the concept, asked by its name."
    meaning = "Who has a picture of the concept can have it drawn over: the erased model keeps what it sees."
    control = "Control: the unedited model draws over them, without a prompt."
    draws = slow = True

    def prompts(self, concept: Concept, budget: Budget) -> int:
        return len(budget.denoised)

    def rounds(self, budget: Budget) -> float:
        return 1.0

    def ask(self, case: Case) -> Asked:
        latents = to_latents(case.before, case.vae, case.shown)
        starts = {f"denoise {share:g}": Start(latents, denoise=share) for share in case.budget.denoised}
        return beside_no_prompt(case, starts)
