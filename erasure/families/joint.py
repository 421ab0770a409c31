"""An erasure prompt in networks that read text jointly with the picture: its tokens join the text of open rows.

There, neither a copy of the text nor a repetition of it is neutral: every token takes part in one softmax with the
picture. So rows whose gate is closed are computed in the call as it came, to the bit as without the prompt, and open
rows in a second call, with the longer text. Where all rows are open or all are closed, or the prompt has no tokens of
its own, there is one call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ..parts.gate import is_open
from ..parts.prompt import PromptTensors
from .calls import OWN, options_of, pooled_turned, rows_of, shifted, spoken


class JointPrompt:
    """The ``APPLY_MODEL`` wrapper of one prompt in one run. Its keys are the tokens; it has no values apart."""

    def __init__(self, prompt: PromptTensors, strength: float, is_active: Callable[[dict], bool]):
        self.prompt, self.strength, self.is_active = prompt, strength, is_active

    def __call__(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **conds
    ):
        options = transformer_options or {}
        rows = self._open_rows(c_crossattn, options)
        if rows is None:
            return executor(x, t, c_concat, c_crossattn, control, options, **conds)
        if self.prompt.is_turn:  # no longer than before, so that all rows can be computed in one call
            amount = rows[:, None].to(c_crossattn.device, torch.float32) * self.strength
            context = self.prompt.turned(c_crossattn, amount[..., None])
            conds |= pooled_turned(conds, self.prompt, amount)
            return executor(x, t, c_concat, context, control, options, **conds)
        base = x
        if not bool(rows.all()) or self.strength != 1:
            base = executor(x, t, c_concat, c_crossattn, control, options, **conds)
        some = {name: rows_of(cond, rows) for name, cond in conds.items()}
        context, more, own = self.joined(c_crossattn[rows], some, options_of(options, rows))
        prompted = executor(
            x[rows], t[rows], rows_of(c_concat, rows), context, rows_of(control, rows), own, **some | more
        )
        if base is x:
            return prompted
        out = base.clone()
        out[rows] = torch.lerp(base[rows], prompted, self.strength)
        return out

    def joined(
        self, context: torch.Tensor, conds: Mapping[str, object], options: dict
    ) -> tuple[torch.Tensor, dict, dict]:
        """The text of open rows with the prompt in it, what changes beside it, and the options of a call with it."""
        tokens = self.prompt.keys.to(context.device, context.dtype).expand(len(context), -1, -1)
        more = longer_mask(conds, context, tokens) | shifted(conds, self.prompt.pooled)
        own = {**options, OWN: options.get(OWN, context.shape[1])}
        return torch.cat([self.prompt.turned(context), tokens], 1), more, own

    def _open_rows(self, context: torch.Tensor | None, options: dict) -> torch.Tensor | None:
        """Open rows of a context, None where the prompt has nothing to do."""
        if context is None or context.shape[-1] != self.prompt.keys.shape[-1] or not self.is_active(options):
            return None
        rows = is_open(spoken(context[:, : options.get(OWN, context.shape[1])]), self.prompt.gate)
        return rows if bool(rows.any()) else None


class CrossPrompt(JointPrompt):
    """The same where layers attend to the text alone: what they attend to gets the keys, and what they read there the
    values. ``join(options, patch)``: the family's way into these layers."""

    def __init__(
        self, prompt: PromptTensors, strength: float, is_active: Callable[[dict], bool], join: Callable[..., None]
    ):
        super().__init__(prompt, strength, is_active)
        self.join = join

    def joined(
        self, context: torch.Tensor, conds: Mapping[str, object], options: dict
    ) -> tuple[torch.Tensor, dict, dict]:
        self.join(options, self.patch)
        return self.prompt.turned(context), {}, options

    def patch(self, n, context, value, options):
        keys, values = (p.to(context).expand(len(context), -1, -1) for p in (self.prompt.keys, self.prompt.values))
        return n, torch.cat([context, keys], 1), torch.cat([value, values], 1)


def longer_mask(conds: Mapping[str, object], context: torch.Tensor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """The mask of texts with places for the prompt's tokens, which are seen; none where texts have none."""
    mask = conds.get("attention_mask")
    if not isinstance(mask, torch.Tensor) or mask.shape[-1] != context.shape[1]:
        return {}
    seen = torch.ones_like(mask[..., :1]).expand(*mask.shape[:-1], tokens.shape[1])
    return {"attention_mask": torch.cat([mask, seen], -1)}
