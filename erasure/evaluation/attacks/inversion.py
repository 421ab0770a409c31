"""Noise that leads to pictures of the concept without any text.

The unedited model's pictures are followed back to noise on the edited model, which then draws from that noise, both
without a prompt: an erasure that only changes what the text does leaves this way as it is (text-free inversion: TINA,
arXiv 2603.17828; inverted latents: M-ErasureBench, arXiv 2512.22877). In steps that are small enough a network that
knows nothing gives pictures back as well, so the control does the same with weights in a random order.

An Euler step from sigma_a up to sigma_b is the one that drawing takes down, found by repeating::

    x_b <- x_a + (sigma_b - sigma_a) (x_b - D(x_b, sigma_b)) / sigma_b          D: the model's denoised latent

Costs the pictures of one prompt; then, on each model and for the control, ``REPEATS`` times as much as pictures of one
prompt at CFG 1, and these pictures.
"""

from __future__ import annotations

from dataclasses import replace

import comfy.sample
import comfy.samplers
import torch

from ...host.latents import to_latents
from ...protocols import Model
from ..drawing import Drawing, Start
from .attack import Asked, Attack, Budget, Case, Concept
from .out_of_order import out_of_order, weights_of

REPEATS = 4
"""Of each step. The first is DDIM inversion, which in 10 steps loses most colours of the toy world; after the fourth
all of its pictures come back."""


class Inversion(Attack):
    """Any family: noise is found through the host's sampling, whatever the model predicts."""

    name = "inversion"
    title = "Drawing it from inverted noise"
    deed = (
        "Follows the unedited model's pictures of the concept back to noise on the erased model, and draws from there "
        "without a prompt."
    )
    meaning = (
        "There is noise from which the erased model draws the concept without being asked: its weights still know it."
    )
    control = "Control: the same on the unedited model, all of whose weights are put out of order."
    draws = slow = True

    def prompts(self, concept: Concept, budget: Budget) -> int:
        return 1

    def rounds(self, budget: Budget) -> float:
        return 1.0 + 3 * REPEATS / 2

    def ask(self, case: Case) -> Asked:
        latents = to_latents(case.before, case.vae, case.shown)
        blank = out_of_order(case.before, weights_of(case.before), case.drawing.seeds[0])
        text, empty = "without a prompt", case.encode("").cond
        starts = []
        for model in (case.before, case.after, blank):
            starts.append({text: Start(inverted=inverted(model, latents, empty, case.drawing))})
            case.tick(case.drawing.rows * REPEATS // 2)
        before, after, control = starts
        asked = Asked({text: empty}, starts=after, unedited=before)
        return replace(asked, control=Asked({text: empty}, blank, control))


def inverted(model: Model, latents: torch.Tensor, empty: list, how: Drawing) -> torch.Tensor:
    """The noise [n, c, ...] from which Euler's method at CFG 1 draws latents [n, c, ...] without a prompt."""
    sigmas = euler_sigmas(model, how)
    # the host undoes what the last noise level does to latents, which on flow models is a division by 0; so it is 0
    climb = torch.cat([sigmas.flip(0), torch.zeros_like(sigmas[:1])])
    found = comfy.sample.sample_custom(
        model, torch.zeros_like(latents), 1.0, comfy.samplers.KSAMPLER(climbing), climb, empty, empty, latents,
        disable_pbar=True, seed=how.seeds[0],
    )  # fmt: skip
    sampling = model.get_model_object("model_sampling")
    one = torch.ones(1, *[1] * (latents.ndim - 1))
    scale = sampling.noise_scaling(sigmas[:1].cpu(), one, torch.zeros_like(one), True)
    return model.model.process_latent_in(found) / scale


def euler_sigmas(model: Model, how: Drawing) -> torch.Tensor:
    """The noise levels of a drawing with Euler's method, falling."""
    options = model.model_options
    return comfy.samplers.KSampler(model, how.steps, model.load_device, "euler", how.scheduler, 1.0, options).sigmas


def climbing(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """A sampler for the host, from a picture up to noise; the last of ``sigmas`` is not gone to."""
    rows = x.new_ones([len(x)])
    for below, above in zip(sigmas[:-2], sigmas[1:-1], strict=True):
        start = x
        for _ in range(REPEATS):
            denoised = model(x, above * rows, **(extra_args or {}))
            x = start + (above - below) * (x - denoised) / above
    return x
