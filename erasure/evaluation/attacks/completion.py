"""Pictures that the unedited model begins and the edited one completes.

Erasures that only turn a model away from a concept leave what it makes of one that is already there (diffusion
completion: Lu et al., When Are Concepts Erased From Diffusion Models?, arXiv 2505.17013, which hands over after a tenth
and a fifth of the steps). Here it is a curve over where it hands over. The later, the more of the concept is in the
latents already; the control says how much.

Costs the pictures of one prompt for each point of the curve, once on each model and once more for the control.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..drawing import Start, sample
from .attack import PLAIN, Asked, Attack, Budget, Case, Concept, beside_no_prompt


class Completion(Attack):
    """Any sampler: the host hands latents over with the noise that is left in them."""

    name = "completion"
    title = "Completing what the unedited model began"
    deed = "Lets the unedited model draw the first steps of the concept, and the erased one the rest."
    meaning = "The erased model goes on with the concept where it is begun: its way of drawing it is still there."
    control = "Control: the unedited model draws the rest, without a prompt."
    draws = slow = True
    fewest_steps = 2

    def prompts(self, concept: Concept, budget: Budget) -> int:
        return len(budget.completed)

    def rounds(self, budget: Budget) -> float:
        return sum(budget.completed)

    def ask(self, case: Case) -> Asked:
        how, starts = case.drawing, {}
        positive = case.encode(PLAIN.format(case.concept.label)).cond
        for step in handovers(how.steps, case.budget.completed):
            latents = sample(case.before, positive, case.negative, how, last=step)
            starts[f"{step} of {how.steps} steps"] = Start(latents, step)
            case.tick(how.rows * step // how.steps)
        return beside_no_prompt(case, starts)


def handovers(steps: int, shares: Sequence[float]) -> list[int]:
    """After which of so many steps it is handed over, each once: one at least, and never all of them."""
    return sorted({min(max(1, round(share * steps)), steps - 1) for share in shares})
