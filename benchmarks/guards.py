"""What keeps a concept out of pictures while the model stays as it is, as people use it today or as papers describe it.

Each guard draws pictures for shots of a world. None of them is part of the pack: they stand beside it in
``benchmarks.instead``. The concept's name is all that they are told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import comfy.sample
import comfy.samplers
import torch
from comfy_extras.nodes_nag import NAGuidance

from .toy import Shot, Toy

Guard = Callable[[Toy, Sequence[Shot], str, float, int], torch.Tensor]
"""(world, shots, concept, CFG, steps) -> pictures [n, 3, h, w]."""
WEIGHT = 1.0
"""Of the negative words in NegPip: "(circle:-1)"."""
SLD = {"scale": 5000.0, "threshold": 1.0, "momentum": 0.5, "beta": 0.7}
"""Hyp-Max of the paper, without a warm-up."""
ALPHA, STEPS = 0.01, 10
"""SAFREE's alpha, and the steps that its sigmoid is multiplied by."""


class Guided(comfy.samplers.CFGGuider):
    """The host's guidance, with more conditionings than two where a guard needs them."""

    def set_all(self, cfg: float, **conds: list) -> Guided:
        self.inner_set_conds(conds)
        self.set_cfg(cfg)
        return self


class SafeGuidance(Guided):
    """Safe latent diffusion (2211.05105, section 3): a third prediction, for the concept, is steered away from."""

    velocity: torch.Tensor | float = 0.0

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        conds = [self.conds[name] for name in ("positive", "negative", "concept")]
        clean = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options or {})
        sigma = timestep.reshape(-1, *[1] * (x.ndim - 1))
        text, empty, unsafe = ((x - one) / sigma for one in clean)
        scale = ((text - unsafe).abs() * SLD["scale"]).clamp(max=1.0)
        scale = torch.where(text - unsafe >= SLD["threshold"], torch.zeros_like(scale), scale)
        guidance = scale * (unsafe - empty) + SLD["momentum"] * self.velocity
        self.velocity = SLD["beta"] * self.velocity + (1 - SLD["beta"]) * guidance
        return x - sigma * (empty + self.cfg * (text - empty - guidance))


class FilteredAtFirst(Guided):
    """SAFREE's self-validating filter (2410.12761, section 3.3): each row reads its filtered text for some steps, and
    what was typed after that."""

    steps: torch.Tensor
    step = 0

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        conds = [self.conds[name] for name in ("positive", "negative", "filtered")]
        clean = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options or {})
        is_filtered = (self.step < self.steps).reshape(-1, *[1] * (x.ndim - 1)).to(x.device)
        self.step += 1
        text = torch.where(is_filtered, clean[2], clean[0])
        return clean[1] + self.cfg * (text - clean[1])


@torch.inference_mode()
def sampled(toy: Toy, guider: comfy.samplers.CFGGuider, shots: Sequence[Shot], steps: int) -> torch.Tensor:
    """What a guider draws with the noise of shots."""
    noise = torch.stack([shot.noise for shot in shots])
    sigmas = comfy.samplers.calculate_sigmas(
        guider.model_patcher.get_model_object("model_sampling"), toy.world.scheduler, steps
    )
    latents = guider.sample(
        noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=0
    )
    return toy.vae.decode(latents).permute(0, 3, 1, 2).clone()


def context(toy: Toy, shots: Sequence[Shot]) -> torch.Tensor:
    """The encodings [n, tokens, d] of what shots ask for."""
    return torch.cat([toy.encode(shot.text)[0][0] for shot in shots])


def conditioning(rows: torch.Tensor) -> list:
    return [[rows, {}]]


def nothing(toy: Toy, shots: Sequence[Shot], concept: str, cfg: float, steps: int) -> torch.Tensor:
    """The model as it is."""
    guider = Guided(toy.model).set_all(cfg, positive=conditioning(context(toy, shots)), negative=toy.encode(""))
    return sampled(toy, guider, shots, steps)


def negative_prompt(toy: Toy, shots: Sequence[Shot], concept: str, cfg: float, steps: int) -> torch.Tensor:
    """The concept as the negative prompt, which at CFG 1 is not read."""
    guider = Guided(toy.model).set_all(cfg, positive=conditioning(context(toy, shots)), negative=toy.encode(concept))
    return sampled(toy, guider, shots, steps)


def nag(toy: Toy, shots: Sequence[Shot], concept: str, cfg: float, steps: int) -> torch.Tensor:
    """The host's own node for Normalized Attention Guidance (2505.21179), at its defaults."""
    [model] = NAGuidance.execute(toy.model, 5.0, 0.5, 1.5).result
    guider = Guided(model).set_all(cfg, positive=conditioning(context(toy, shots)), negative=toy.encode(concept))
    return sampled(toy, guider, shots, steps)


def negative_weight(toy: Toy, shots: Sequence[Shot], concept: str, cfg: float, steps: int) -> torch.Tensor:
    """NegPip: the concept stands in the prompt with weight -1, so that its keys are looked for and its values taken
    off."""
    rows = context(toy, shots)
    also = toy.encode(concept)[0][0].expand(len(rows), -1, -1)
    model = toy.model.clone()

    def negated(n, keys, values, options):
        groups = values.chunk(len(options["cond_or_uncond"]))
        signs = torch.ones(values.shape[1], 1).to(values)
        signs[rows.shape[1] : rows.shape[1] + also.shape[1]] = -WEIGHT
        # the host repeats the shorter text of the two until both are as long, which attention does not see
        out = [
            part * signs if kind == 0 else part for kind, part in zip(options["cond_or_uncond"], groups, strict=True)
        ]
        return n, keys, torch.cat(out)

    model.set_model_attn2_patch(negated)
    positive = conditioning(torch.cat([rows, also], 1))
    return sampled(toy, Guided(model).set_all(cfg, positive=positive, negative=toy.encode("")), shots, steps)


def safe_guidance(toy: Toy, shots: Sequence[Shot], concept: str, cfg: float, steps: int) -> torch.Tensor:
    conds = {"positive": conditioning(context(toy, shots)), "negative": toy.encode(""), "concept": toy.encode(concept)}
    return sampled(toy, SafeGuidance(toy.model).set_all(cfg, **conds), shots, steps)


def safree(toy: Toy, shots: Sequence[Shot], concept: str, cfg: float, steps: int) -> torch.Tensor:
    """Tokens near the concept's subspace are projected out of it; the paper's filter of latents is left out."""
    filtered = [filtered_text(toy, shot.text, concept) for shot in shots]
    conds = {"positive": conditioning(context(toy, shots)), "negative": toy.encode("")}
    guider = FilteredAtFirst(toy.model).set_all(
        cfg, **conds, filtered=conditioning(torch.cat([rows for rows, _ in filtered]))
    )
    guider.steps = torch.tensor([share * steps / 50 for _, share in filtered])  # of the 50 steps of the paper
    return sampled(toy, guider, shots, steps)


def filtered_text(toy: Toy, text: str, concept: str) -> tuple[torch.Tensor, float]:
    """SAFREE (sections 3.1 to 3.3): the encoding [1, tokens, d] without what draws it to the concept, and for how many
    of 50 steps it is read."""
    rows, words = toy.encode(text)[0][0], text.split()
    without = torch.stack([pooled(toy, " ".join(words[:i] + words[i + 1 :])) for i in range(len(words))])
    off = torch.eye(rows.shape[-1]) - projector(pooled(toy, concept)[None])
    distances = (without @ off).norm(dim=1)
    others = (distances.sum() - distances) / max(1, len(words) - 1)
    safe = rows.clone()
    for i in (distances > (1 + ALPHA) * others).nonzero().flatten().tolist():
        place = slice(1 + count(toy, words[:i]), 1 + count(toy, words[: i + 1]))
        safe[:, place] = rows[:, place] @ off @ projector(without)
    alike = torch.cosine_similarity(rows.flatten(), safe.flatten(), 0)
    return safe, float(STEPS * torch.sigmoid(1 - alike))


def pooled(toy: Toy, text: str) -> torch.Tensor:
    """The text as one vector [d]."""
    return toy.encode(text)[0][1]["pooled_output"][0]


def count(toy: Toy, words: Sequence[str]) -> int:
    """Tokens of words, without those around them."""
    if not words:
        return 0
    [row] = next(iter(toy.clip.tokenize(" ".join(words)).values()))
    return next(i for i, (token, *_) in enumerate(row) if i and token == row[-1][0]) - 1


def projector(rows: torch.Tensor) -> torch.Tensor:
    """The projection [d, d] onto the span of rows [n, d]."""
    return torch.linalg.pinv(rows) @ rows


GUARDS: dict[str, Guard] = {
    "nothing": nothing,
    "negative prompt": negative_prompt,
    "NAG": nag,
    "NegPip": negative_weight,
    "SLD": safe_guidance,
    "SAFREE": safree,
}
