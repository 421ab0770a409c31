"""The one way in which pictures are drawn to be looked at: for conditioning of the host, one for each seed.

Drawing may ``Start`` elsewhere than at plain noise: at a picture, at an unfinished one, at noise of another strength.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import comfy.sample
import comfy.samplers
import torch

from ..host.latents import latent_shape, to_pictures
from ..protocols import Model, Vae


@dataclass(frozen=True)
class Drawing:
    """How every picture is drawn."""

    seeds: tuple[int, ...]
    steps: int = 20
    cfg: float = 7.0
    sampler: str = "euler"
    scheduler: str = "normal"
    width: int = 512
    height: int = 512
    negative: str = ""

    @property
    def rows(self) -> int:
        """Rows through the network for all seeds' pictures of one prompt."""
        return len(self.seeds) * self.steps * (1 if self.cfg == 1 else 2)


@dataclass(frozen=True)
class Start:
    """Where the drawing of each seed's picture starts.

    ``latents``: [seeds, c, ...] of pictures; with ``step``, of unfinished ones, after so many steps, with the noise
    that is left in them. ``denoise``: the share of the noise that a picture is given, 1 for all. ``mask``: [h, w] of a
    latent, 1 where a picture is drawn anew and 0 where it stays. ``noise``: how many times as strong noise is as the
    sampler's; with ``eta``, that comes anew at every step, so many times as much as in ancestral sampling.
    ``inverted``: [seeds, c, ...], the noise itself, found for Euler's method at CFG 1, by which it is drawn from.
    """

    latents: torch.Tensor | None = None
    step: int = 0
    denoise: float = 1.0
    mask: torch.Tensor | None = None
    noise: float = 1.0
    eta: float = 0.0
    inverted: torch.Tensor | None = None


NOISE = Start()
"""Plain noise."""


def draw(model: Model, vae: Vae, positive: list, negative: list, how: Drawing, start: Start = NOISE) -> torch.Tensor:
    """Pictures for the host's conditioning, one for each seed, [seeds, h, w, 3]; a seed's noise is the same in every
    batch."""
    return to_pictures(vae, sample(model, positive, negative, how, start))


def sample(
    model: Model, positive: list, negative: list, how: Drawing, start: Start = NOISE, last: int | None = None
) -> torch.Tensor:
    """Their latents, [seeds, c, ...]; after ``last`` steps with the noise that is left, for another to go on with."""
    empty = torch.zeros(1, *latent_shape(model, how.width, how.height))
    noise = torch.cat([comfy.sample.prepare_noise(empty, seed) for seed in how.seeds])
    if start.inverted is not None:
        noise, how = start.inverted, replace(how, sampler="euler", cfg=1.0)
    if start.step:
        noise = torch.zeros_like(noise)
    if start.noise != 1:
        noise = start.noise * noise
    if start.eta:
        return renewing(model, noise, positive, negative, how, start)
    return comfy.sample.sample(
        model, noise, how.steps, how.cfg, how.sampler, how.scheduler, positive, negative,
        torch.zeros_like(noise) if start.latents is None else start.latents,
        denoise=start.denoise, start_step=start.step or None, last_step=last, noise_mask=start.mask,
        disable_pbar=True, seed=how.seeds[0],
    )  # fmt: skip


def renewing(
    model: Model, noise: torch.Tensor, positive: list, negative: list, how: Drawing, start: Start
) -> torch.Tensor:
    """The same with the host's ancestral sampler, whose fresh noise is as strong as ``start`` says."""
    name, device = "euler_ancestral", model.load_device
    sampler = comfy.samplers.ksampler(name, {"eta": start.eta, "s_noise": start.noise})
    sigmas = comfy.samplers.KSampler(model, how.steps, device, name, how.scheduler, 1.0, model.model_options).sigmas
    return comfy.sample.sample_custom(
        model, noise, how.cfg, sampler, sigmas, positive, negative, torch.zeros_like(noise), disable_pbar=True,
        seed=how.seeds[0],
    )  # fmt: skip
