"""What the host's networks need before they can be trained through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.ldm.modules.attention as host_attention
import comfy.model_management
import comfy.quant_ops
from comfy_kitchen.backends.eager.rope import rms_rope_split_half

from concept_erasure.erasure.families.gradients import OutOfPlace


def differentiable_attention(_, *arguments, **options):
    return host_attention.attention_pytorch(*arguments, **options)


OPTIONS = {"optimized_attention_override": differentiable_attention}
"""``transformer_options`` of a run that is trained through."""


@contextmanager
def differentiable() -> Iterator[None]:
    """The host's networks and text encoders run with operations that have a gradient."""
    management, kernels = comfy.model_management, comfy.quant_ops.ck
    switches = [
        (management, "in_training", True),
        (management, "ENABLE_PYTORCH_ATTENTION", True),
        (kernels, "rms_rope_split_half", rms_rope_split_half),  # Anima's, which has no switch
    ]
    before = [getattr(where, name) for where, name, _ in switches]
    try:
        for where, name, value in switches:
            setattr(where, name, value)
        with OutOfPlace():
            yield
    finally:
        for (where, name, _), value in zip(switches, before, strict=True):
            setattr(where, name, value)
