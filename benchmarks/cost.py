"""What each kind of part costs while a full-size SD 1.5 draws: seconds of a step with it over those without.

    python3 scripts/run.py benchmarks.cost

Into ``benchmarks/results/cost.json``. Random weights: what a part costs does not depend on what it says. One prompt for
the concept and the empty one, CFG, 512 x 512 pixels; CPU seconds of one thread, in pairs, of which the median counts.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from concept_erasure.erasure.artifact import Erasure, LowRank, Metadata
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.beside import copy_of_encoder
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.parts.branch import BranchLearner
from concept_erasure.erasure.parts.gate import GateTensors
from concept_erasure.erasure.parts.part import Part
from concept_erasure.erasure.parts.prompt import PromptTensors
from concept_erasure.erasure.parts.steering import CONDITIONAL, NEGATIVE, Steering

from .full_size import latents, random_model

FILE = Path(__file__).with_name("results") / "cost.json"
PAIRS = 3
WIDTH, TOKENS, RANK = 768, 77, 8
FEATURES, LEVELS = 16, 20
"""Of a steering: as many as a concept of the toy world has at most."""


def open_gate(context: torch.Tensor) -> GateTensors:
    """One that is open for this text and closed for zeros, which stand for the empty prompt."""
    direction = context[0, 1] / context[0, 1].norm()
    return GateTensors(direction, torch.zeros(WIDTH), 0.5 * float(context[0, 1].norm()))


def steering(model) -> Steering:
    """Of one block, the one that is published for objects, with features that are all flagged."""
    here = subject(model)
    point = here.family.points(model.model)[here.family.best_points(model.model)[0]]
    width = model.model.get_submodule(point).norm.num_channels
    g = torch.Generator().manual_seed(0)
    encoder, decoder = (torch.randn(FEATURES, width, generator=g) / width**0.5 for _ in range(2))
    sigmas = torch.logspace(-1.5, 1.2, LEVELS)
    flat = torch.zeros(LEVELS, FEATURES)
    return Steering(
        point, NEGATIVE, CONDITIONAL, "", 0.0, torch.arange(FEATURES), encoder, decoder, torch.zeros(FEATURES), sigmas,
        flat, flat - 0.01, torch.zeros(LEVELS, 0),
    )  # fmt: skip


def parts(model, context: torch.Tensor) -> dict[str, Part]:
    gate = open_gate(context)
    prompt = torch.randn(11, WIDTH, generator=torch.Generator().manual_seed(1))
    turn = LowRank(0.1 * prompt[:RANK].T.contiguous(), prompt[:RANK] / WIDTH)
    nothing = torch.zeros(0, WIDTH)
    return {
        "erasure prompt": PromptTensors(prompt, prompt, "all", "eraser", TOKENS, gate),
        "closed form behind a gate": PromptTensors(nothing, nothing, "all", "eraser", TOKENS, gate, turn=turn),
        "steering of one block": steering(model),
        "control branch, gate open": BranchLearner(copy_of_encoder(model), gate).at_rest(),
        "control branch, gate closed": replace(
            BranchLearner(copy_of_encoder(model), gate).at_rest(), gate=replace(gate, threshold=1e6)
        ),
    }


def seconds(model, context: torch.Tensor) -> float:
    began = time.process_time()
    latents(model, context, size=64, steps=1, cfg=7.0)
    return time.process_time() - began


def measured() -> Mapping[str, float]:
    torch.manual_seed(0)
    model = random_model("sd15", torch.float32, torch.float32)
    context = torch.randn(1, TOKENS, WIDTH)
    out = {}
    for name, part in parts(model, context).items():
        erased = attach.erase(model, Erasure(Metadata(method="cost"), (part,)))
        seconds(erased, context)
        pairs = [(seconds(model, context), seconds(erased, context)) for _ in range(PAIRS)]
        out[name] = round(statistics.median(after / before for before, after in pairs), 3)
        print(name, out[name], [[round(s, 1) for s in pair] for pair in pairs], flush=True)
    return out


if __name__ == "__main__":
    found = {"model": "SD 1.5, random weights, fp32, 512 x 512", "ratio_of_a_step": measured()}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
