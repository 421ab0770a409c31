"""Taking part in whole calls of a network, by the host's ``APPLY_MODEL`` wrapper: what the rows of a call are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from comfy.patcher_extension import WrappersMP

from ..parts.gate import is_open
from ..parts.prompt import PromptTensors

PROMPTS = "concept_erasure_prompts"
"""The key of the wrappers by which erasure prompts join a run."""
OWN = "concept_erasure_tokens"
"""Under this name, options say how many tokens of the context were there before any erasure joined it."""
POOLED = "y"
"""The host's name of the conditioning whose first numbers are the pooled text."""


def join_calls(options: dict, wrapper: Callable, kind: str = WrappersMP.APPLY_MODEL) -> None:
    """Has a wrapper take part in a run with these transformer options; what they hold stays as it is."""
    wrappers = options.get("wrappers", {})
    others = wrappers.get(kind, {})
    options["wrappers"] = {**wrappers, kind: {**others, PROMPTS: [*others.get(PROMPTS, []), wrapper]}}


class PooledPrompt:
    """What a prompt adds to the pooled text of open rows, for networks where its tokens join layer by layer."""

    def __init__(self, prompt: PromptTensors, strength: float, is_active: Callable[[dict], bool]):
        self.prompt, self.strength, self.is_active = prompt, strength, is_active

    def __call__(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **conds
    ):
        options = transformer_options or {}
        if c_crossattn is not None and self.is_active(options):
            rows = is_open(c_crossattn, self.prompt.gate)[:, None].to(x) * self.strength
            if self.prompt.pooled is not None:
                conds |= shifted(conds, rows * self.prompt.pooled.to(x))
            conds |= pooled_turned(conds, self.prompt, rows)
        return executor(x, t, c_concat, c_crossattn, control, options, **conds)


def shifted(conds: Mapping[str, object], shift: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The pooled text of a call with something added, [d] or [b, d]; none where a call has none."""
    pooled = conds.get(POOLED)
    if shift is None or not isinstance(pooled, torch.Tensor) or pooled.shape[-1] < shift.shape[-1]:
        return {}
    width = shift.shape[-1]
    return {POOLED: torch.cat([pooled[:, :width] + shift.to(pooled), pooled[:, width:]], 1)}


def pooled_turned(conds: Mapping[str, object], prompt: PromptTensors, amount: torch.Tensor) -> dict[str, torch.Tensor]:
    """The pooled text of a call as a prompt turns it, by so much of each row [b, 1]; none where it does not."""
    pooled = conds.get(POOLED)
    if prompt.pooled_turn is None or not isinstance(pooled, torch.Tensor):
        return {}
    return {POOLED: prompt.pooled_turned(pooled, amount)}


def spoken(context: torch.Tensor) -> torch.Tensor:
    """A context [b, n, d] for a gate: rows of zeros, with which the host pads some families' texts, say nothing and are
    replaced by the first row that does."""
    blank = (context == 0).all(-1)
    if not bool(blank.any()):
        return context
    first = (~blank).float().argmax(1)
    own = context[torch.arange(len(context), device=context.device), first]
    return torch.where(blank[..., None], own[:, None], context)


def rows_of(cond, rows: torch.Tensor):
    """Some rows of what a batch is computed with: of every tensor that has as many, in lists and mappings, too."""
    if isinstance(cond, torch.Tensor):
        return cond[rows.to(cond.device)] if cond.ndim and cond.shape[0] == len(rows) else cond
    if isinstance(cond, Mapping):
        return {name: rows_of(one, rows) for name, one in cond.items()}
    if isinstance(cond, (list, tuple)):
        return [rows_of(one, rows) for one in cond]
    return cond


def options_of(options: Mapping, rows: torch.Tensor) -> dict:
    """Transformer options for some rows: what they say of each text of the batch is cut to the texts that are left."""
    kinds: Sequence[int] = options.get("cond_or_uncond", ())
    out = dict(options)
    if len(kinds) and len(rows) % len(kinds) == 0:
        left = [bool(part.any()) for part in rows.chunk(len(kinds))]
        for name in ("cond_or_uncond", "uuids"):
            if len(options.get(name, ())) == len(kinds):
                out[name] = [one for one, kept in zip(options[name], left, strict=True) if kept]
    if isinstance(options.get("sigmas"), torch.Tensor):
        out["sigmas"] = rows_of(options["sigmas"], rows)
    return out
