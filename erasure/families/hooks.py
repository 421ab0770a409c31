"""What blocks of a network give out, seen and changed while the host's sampler draws.

A hook joins one call of the network at a time: so it knows the call's noise levels, and which of its rows are
conditional, whatever the sampler, the number of steps, the size of the pictures and the host's batches are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from .family import Hook
from .rows import Rows


class Hooked:
    """An ``APPLY_MODEL`` wrapper: hooks on blocks, by the names of modules; ``axis``: that of the channels in what they
    give out."""

    def __init__(self, hooks: Mapping[str, Hook], axis: int, is_active: Callable[[dict], bool] = lambda options: True):
        self.hooks, self.axis, self.is_active = hooks, axis, is_active

    def __call__(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **conds
    ):
        options = transformer_options or {}
        if not self.is_active(options):
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **conds)
        rows, handles = rows_of_call(t, len(x), options), []
        try:
            for name, hook in self.hooks.items():
                block = executor.class_obj.get_submodule(name)
                handles.append(block.register_forward_hook(on_vectors(hook, self.axis, rows)))
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **conds)
        finally:
            for handle in handles:
                handle.remove()


def rows_of_call(t: torch.Tensor, count: int, options: Mapping) -> Rows:
    """Of a call of ``count`` rows: the host puts texts behind each other, each with as many rows as pictures."""
    kinds = list(options.get("cond_or_uncond", ())) or [0]
    each = max(1, count // len(kinds))
    conditional = torch.tensor([kind == 0 for kind in kinds for _ in range(each)][:count])
    return Rows(t.flatten().expand(count) if t.numel() == 1 else t.flatten(), conditional)


def on_vectors(hook: Hook, axis: int, rows: Rows) -> Callable:
    """A forward hook that gives a block's answer to a hook as vectors [b, n, d], and puts it back in its shape."""

    def changed(block, inputs, answer):
        moved = answer.movedim(axis, -1)
        own = replace(rows, grid=tuple(moved.shape[1:-1]))
        out = hook(moved.reshape(len(moved), -1, moved.shape[-1]), own)
        if out is None:
            return None
        return out.reshape(moved.shape).movedim(-1, axis).to(answer.dtype).contiguous()

    return changed
