"""Trajectories: the noisy latents z_t of runs of the host's own sampler, all of a run's steps kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import comfy.samplers
import torch


@dataclass(frozen=True)
class Sampling:
    """How trajectories are drawn: the host's sampler and scheduler by name, steps, guidance scale, latent size."""

    sampler: str = "euler"
    scheduler: str = "normal"
    steps: int = 20
    cfg: float = 3.0
    shape: tuple[int, int, int] = (4, 8, 8)


@dataclass(frozen=True)
class Trajectory:
    """``latents`` [steps, b, c, h, w] at noise levels ``sigmas`` [steps], in the model's own latent scale."""

    latents: torch.Tensor
    sigmas: torch.Tensor


@torch.no_grad()
def sample_trajectory(
    model,
    positive: list,
    negative: list,
    how: Sampling,
    runs: int,
    generator: torch.Generator,
    preview: Callable | None = None,
) -> Trajectory:
    """Runs the host's sampler on ``runs`` fresh noises and keeps every step's latents.

    ``positive`` and ``negative`` are the host's conditioning lists; one entry of as many rows as runs gives each run a
    text of its own. ``preview`` is the host's sampler callback (step, x0, x, total).
    """
    noise = torch.randn(runs, *how.shape, generator=generator)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    device = model.load_device
    schedule = comfy.samplers.KSampler(model, how.steps, device, how.sampler, how.scheduler, 1.0, model.model_options)
    seen: list[torch.Tensor] = []

    def keep(step, x0, x, total):
        seen.append(x.detach().clone())
        if preview is not None:
            preview(step, x0, x, total)

    comfy.samplers.sample(
        model, noise, positive, negative, how.cfg, device, comfy.samplers.sampler_object(how.sampler), schedule.sigmas,
        model.model_options, latent_image=torch.zeros_like(noise), callback=keep, disable_pbar=True, seed=seed,
    )  # fmt: skip
    return Trajectory(torch.stack(seen), schedule.sigmas[: len(seen)].to(seen[0].device))
