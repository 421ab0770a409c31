"""Shared by the host tests: synthetic erasures, short trainings, and sampling as KSampler does it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import comfy.sample
import torch

from concept_erasure.erasure.artifact import Erasure, LowRank, Metadata
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.parts.delta import DeltaTensors, changing
from concept_erasure.erasure.parts.gate import GateTensors, is_open
from concept_erasure.erasure.parts.prompt import PromptTensors
from concept_erasure.erasure.texts.encoder import Encoder
from concept_erasure.erasure.training.gate import build_gate
from concept_erasure.erasure.training.pictures import with_sampling
from concept_erasure.erasure.training.settings import PRESETS, Settings
from concept_erasure.nodes.learn_old import ErasureTrain

PRESERVE = ["square", "red", "dotted"]
KEPT = "\n".join(PRESERVE[:2])
SHORT = {"steps": 3, "refresh": 2, "batch": 2, "prompt_lr": 0.3, "weight_lr": 0.05}


@functools.cache
def gate_of(clip, concept: str) -> GateTensors:
    """The gate of a concept; fitting one takes seconds."""
    return build_gate(Encoder(clip), [concept], [text for text in [*PRESERVE, "circle"] if text != concept])[0]


def decisions(clip, gate: GateTensors, texts: Sequence[str]) -> dict[str, bool]:
    """For which of the texts a gate is open."""
    encode = Encoder(clip)
    return {text: bool(is_open(encode(text).context, gate)) for text in texts}


def make_erasure(
    model, clip=None, concept="circle", seed=0, role="eraser", prompt=True, delta=True, gate=True, blocks="all"
) -> Erasure:
    """An erasure of random numbers, large enough to be seen: nothing here depends on training having worked."""
    g = torch.Generator().manual_seed(seed)
    width = subject(model).width
    tensors = gate_of(clip, concept) if gate and prompt else None
    keys, values = (3 * torch.randn(5, width, generator=g) for _ in range(2))
    changes = {}
    if delta:
        shapes = dict(model.model.named_parameters())
        for name in subject(model).weights("keys+values"):
            out, into = shapes[name].shape
            up, down = torch.randn(out, 2, generator=g) / 8, torch.randn(2, into, generator=g) / 8
            changes[name] = LowRank(up, down)
    here = subject(model).fingerprint
    return Erasure(
        Metadata(
            method="kpop", role=role, concept=concept, family=here.family, context_dim=str(width), fingerprint=str(here)
        ),
        (*([PromptTensors(keys, values, blocks, role, 77, tensors)] if prompt else []), *changing(changes)),
    )


def only_prompt(erasure: Erasure) -> Erasure:
    return replace(erasure, parts=erasure.of(PromptTensors))


def only_delta(erasure: Erasure) -> Erasure:
    return replace(erasure, parts=erasure.of(DeltaTensors))


def ungated(erasure: Erasure) -> Erasure:
    prompts = [replace(prompt, gate=None) for prompt in erasure.of(PromptTensors)]
    return replace(erasure, parts=(*prompts, *erasure.of(DeltaTensors)))


def short(preset: str = "recommended", **changes) -> Settings:
    """A preset, cut to a few steps that each move far."""
    return with_sampling(replace(PRESETS[preset], **{**SHORT, **changes}), steps=2)


def inputs(**changes) -> dict:
    """Train Erasure's inputs at their defaults, with some of them changed."""
    known = {i.id: getattr(i, "default", None) for i in ErasureTrain.define_schema().inputs}
    small = {
        "concept": "circle",
        "preserve": KEPT,
        "steps": 3,
        "batch": 2,
        "width": 64,
        "height": 64,
        "sampling_steps": 2,
    }
    return {k: v for k, v in known.items() if k not in ("model", "clip", "resume")} | small | changes


@torch.inference_mode()
def execute(model, clip, **changes):
    """Train Erasure from nothing, unless changes say otherwise: a closed form reads many texts first."""
    plain = {"weights_start": "unchanged", "target": "empty prompt"}
    return ErasureTrain.execute(model, clip, **inputs(**{**plain, **changes})).result


@torch.inference_mode()
def sample(model, positive, negative, batch=1, cfg=3.0, seed=0, steps=3, sigmas=None, noise=None) -> torch.Tensor:
    """Latents [batch, 4, 8, 8] from the host's sampler; deterministic."""
    if noise is None:
        noise = torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    return comfy.sample.sample(
        model, noise, steps, cfg, "euler", "normal", positive, negative, torch.zeros_like(noise),
        seed=seed, sigmas=sigmas, disable_pbar=True,
    ).clone()  # fmt: skip


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm())


def assert_close(a: torch.Tensor, b: torch.Tensor, effect: float, share: float = 1e-3) -> None:
    """Equal up to rounding: the difference is a small share of an effect that is itself real."""
    assert effect > 0.05, "the effect that is compared with is too small to say anything"
    assert difference(a, b) < share * effect, f"{difference(a, b):.3g} of {effect:.3g}"


def attention(q, k, v, options) -> torch.Tensor:
    """Standard attention on projected q, k, v, as an ``attn2_replace`` patch computes it."""
    heads = options["n_heads"]

    def split(t):
        return t.view(*t.shape[:2], heads, -1).transpose(1, 2)

    out = torch.nn.functional.scaled_dot_product_attention(split(q), split(k), split(v))
    return out.transpose(1, 2).flatten(2)
