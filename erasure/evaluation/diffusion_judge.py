"""The unedited model as the judge of what a picture shows: a diffusion classifier, which needs no download.

A picture is noised, and the model predicts it back once with each label. The label with which it comes closest is what
the picture shows (Li et al., arXiv 2303.16203; Clark and Jaini, arXiv 2303.15233). All labels get the same noise, so
that only the words make a difference, and after each round those that fit worst drop out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby

import comfy.model_management
import comfy.samplers
import torch

from ..host.latents import to_latents
from ..protocols import Clip, Model, Vae
from ..texts.encoder import Encoder
from .metrics import places

ROUNDS = ((0.2, 0.5), (0.3, 0.65), (0.1, 0.5))
"""Noise levels of each round, as shares of sampling: 0 is pure noise, 1 the picture. Shapes show in the first third,
colours behind it."""
MOST = 12
"""Labels that one picture is judged among: so many cost about as much as drawing it."""
PIXELS = 2**21
"""Of pictures that are looked at together: 8 of 512 by 512."""
TOGETHER = 64
"""Pictures that are looked at together, at most."""
TEMPLATE = "a picture of a {}"
"""What is said of the labels, where a picture's prompt does not say its own."""
SEED = 2303
"""Of the noise, which is the same for all pictures."""
BEHIND = 1e6
"""More than any error: a label that dropped out is behind all that went on."""


class DiffusionJudge:
    """Ranks labels by how well a MODEL predicts a noised picture with them.

    ``on_look(done, total)`` is told how many of the pictures it has seen.
    """

    def __init__(
        self, model: Model, clip: Clip, vae: Vae, on_look: Callable[[int, int], None] = lambda done, total: None
    ):
        self.model, self.clip, self.vae, self.on_look = model, clip, vae, on_look

    def ranks(
        self, pictures: torch.Tensor, labels: Sequence[str], among: Sequence[str], texts: Sequence[str] = ()
    ) -> list[int]:
        """As ``Judge`` says, among ``MOST`` labels; ``texts``: the prompts that the pictures were drawn for.

        Where a prompt says its label, all labels are said in its place: the texts then differ in nothing else.
        """
        asked = zip(labels, texts or [""] * len(labels), strict=True)
        out: list[int] = []
        for (label, text), group in groupby(asked):
            rivals = chosen(label, among)
            conds = self._read(phrases(text, label, rivals))
            shown = pictures[len(out) : len(out) + len(list(group))]
            for part in shown.split(at_once(shown)):
                out += places(self.fits(part, conds), [0] * len(part))
                self.on_look(len(out), len(pictures))
        return out

    def best(self, pictures: torch.Tensor, label: str, among: Sequence[str], text: str = "") -> list[str]:
        """The label that each picture shows, of ``label`` and its rivals; ``text`` as in ``ranks``."""
        rivals = chosen(label, among)
        fits = self.fits(pictures, self._read(phrases(text, label, rivals)))
        return [rivals[i] for i in fits.argmax(1).tolist()]

    @torch.no_grad()
    def fits(self, pictures: torch.Tensor, conds: Sequence[list]) -> torch.Tensor:
        """How well each of some texts, as the host's conditioning, fits each picture [n, h, w, 3]: [n, texts], higher
        is better."""
        latents = to_latents(self.model, self.vae, pictures)
        sampling = self.model.get_model_object("model_sampling")
        sigmas = torch.tensor([float(sampling.percent_to_sigma(share)) for levels in ROUNDS for share in levels])
        guider, contest = comfy.samplers.CFGGuider(self.model), Contest()
        guider.inner_set_conds({f"text {i}": cond for i, cond in enumerate(conds)})
        guider.sample(torch.zeros_like(latents), latents, contest, sigmas, seed=SEED, disable_pbar=True)
        return contest.fits.cpu()

    def _read(self, texts: Sequence[str]) -> list[list]:
        encode = Encoder(self.clip)
        return [encode(text).cond for text in texts]


class Contest(comfy.samplers.Sampler):
    """Takes a sampler's place in the host: instead of denoising, it measures how far off the predictions are.

    ``fits``: [pictures, texts], afterwards.
    """

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        """All ``ROUNDS`` for ``latent_image`` [pictures, …] and the guider's conditionings."""
        inner, conds, options = model_wrap.inner_model, list(model_wrap.conds.values()), extra_args["model_options"]
        generator = torch.Generator().manual_seed(SEED)
        errors = torch.zeros(len(noise), len(conds), device=noise.device)
        running = torch.ones_like(errors, dtype=torch.bool)
        left = iter(sigmas)
        for levels in ROUNDS:
            errors[~running] += BEHIND
            for sigma in (next(left) for _ in levels):
                comfy.model_management.throw_exception_if_processing_interrupted()
                shared = torch.randn(1, *latent_image.shape[1:], generator=generator).to(latent_image)
                z = inner.model_sampling.noise_scaling(sigma, shared.expand_as(latent_image), latent_image, False)
                for i, cond in enumerate(conds):
                    rows = running[:, i]
                    if rows.any():
                        denoised = predicted(inner, cond, z[rows], sigma, options)
                        errors[rows, i] += distance(denoised, latent_image[rows]) / sigma**2
            running &= better_half(errors, running)
        self.fits = -errors
        return noise


def predicted(inner, cond: list, z: torch.Tensor, sigma: torch.Tensor, options: dict) -> torch.Tensor:
    """The clean latents that the model sees in noisy ones, with a text."""
    return comfy.samplers.calc_cond_batch(inner, [cond], z, sigma.expand(len(z)), options)[0]


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean square difference of matching rows, [n]."""
    return (a.float() - b.float()).square().flatten(1).mean(1)


def better_half(errors: torch.Tensor, running: torch.Tensor) -> torch.Tensor:
    """Which labels of each picture go on to the next round: the better half of those still running, two at least.

    All pictures have equally many of them; ``errors`` and ``running`` are [pictures, labels].
    """
    count = max(2, (int(running[0].sum()) + 1) // 2)
    if count >= errors.shape[1]:
        return running
    best = errors.masked_fill(~running, float("inf")).topk(count, largest=False).indices
    return torch.zeros_like(running).scatter(1, best, True)


def chosen(label: str, among: Sequence[str], most: int = MOST) -> list[str]:
    """A label and the first of its rivals, at most so many together."""
    return [label, *(name for name in among if name != label)][:most]


def phrases(text: str, label: str, rivals: Sequence[str]) -> list[str]:
    """A prompt said of each rival in its label's place; short phrases, where it does not say its label."""
    own = re.compile(rf"(?<!\w){re.escape(label)}(?!\w)", re.IGNORECASE)
    if not own.search(text):
        return [TEMPLATE.format(name) for name in rivals]
    return [own.sub(lambda _, name=name: name, text) for name in rivals]  # type: ignore[misc]


def at_once(pictures: torch.Tensor) -> int:
    """How many of some pictures [n, h, w, 3] are looked at together."""
    return max(1, min(TOGETHER, PIXELS // (pictures.shape[1] * pictures.shape[2])))
