"""Trajectories: the noisy latents z_t of runs of the host's own sampler, all of a run's steps kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import comfy.model_patcher
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ..protocols import Model
from . import attach


@dataclass(frozen=True)
class Sampling:
    """How trajectories are drawn: the host's sampler and scheduler by name, steps, guidance scale, latent size."""

    sampler: str = "euler"
    scheduler: str = "normal"
    steps: int = 20
    cfg: float = 3.0
    shape: tuple[int, ...] = (4, 8, 8)


@dataclass(frozen=True)
class Trajectory:
    """``latents`` [calls, b, c, ...] at noise levels ``sigmas`` [calls], in the model's own latent scale."""

    latents: torch.Tensor
    sigmas: torch.Tensor


def joined(parts: Sequence[Trajectory], groups: Sequence[Sequence[int]]) -> Trajectory:
    """One trajectory of several with the same noise levels, whose rows stand at the places that ``groups`` say."""
    if len(parts) == 1:
        return parts[0]
    latents = torch.cat([part.latents for part in parts], 1)
    order = torch.tensor([i for group in groups for i in group], device=latents.device).argsort()
    return Trajectory(latents[:, order], parts[0].sigmas)


@contextlib.contextmanager
def _asked(model: Model, wrapper: Callable) -> Iterator[None]:
    """Wraps what samplers ask of a MODEL; on the MODEL itself, because a clone would have the host load it anew."""
    before = model.model_options
    model.model_options = comfy.model_patcher.create_model_options_clone(before)
    add_wrapper_with_key(WrappersMP.PREDICT_NOISE, attach.KEY, wrapper, model.model_options, True)
    try:
        yield
    finally:
        model.model_options = before


@torch.no_grad()
def sample_trajectory(
    model: Model,
    positive: list,
    negative: list,
    how: Sampling,
    runs: int,
    generator: torch.Generator,
    preview: Callable | None = None,
) -> Trajectory:
    """Runs the host's sampler on ``runs`` fresh noises and keeps the latents that it asks the model about.

    Not those that its callback gets: some samplers compute in another scale, or call back for some steps only.
    ``positive`` and ``negative`` are the host's conditioning lists; one entry of as many rows as runs gives each run a
    text of its own. ``preview`` is the host's sampler callback (step, x0, x, total).
    """
    noise = torch.randn(runs, *how.shape, generator=generator)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    device = model.load_device
    schedule = comfy.samplers.KSampler(model, how.steps, device, how.sampler, how.scheduler, 1.0, model.model_options)
    latents: list[torch.Tensor] = []
    sigmas: list[torch.Tensor] = []

    def keep(executor, x, sigma, *more, **named):
        if float(sigma.flatten()[0]) > 0:
            latents.append(x.detach().clone())
            sigmas.append(sigma.detach().flatten()[0].clone())
        return executor(x, sigma, *more, **named)

    with _asked(model, keep):
        comfy.samplers.sample(
            model, noise, positive, negative, how.cfg, device, comfy.samplers.sampler_object(how.sampler),
            schedule.sigmas, model.model_options, latent_image=torch.zeros_like(noise), callback=preview,
            disable_pbar=True, seed=seed,
        )  # fmt: skip
    return Trajectory(torch.stack(latents), torch.stack(sigmas))
