"""Control branches of UNets: a copy of the encoder in the host's class for ControlNets, without a picture to go by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from comfy.cldm.cldm import ControlNet
from comfy.ldm.modules.diffusionmodules.openaimodel import forward_timestep_embed
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding

from ..parts.branch import Branch
from ..parts.gate import is_open

OUTPUT, MIDDLE = "output", "middle"
"""The host's names of what a ControlNet adds to the skips, the first one's first, and behind the middle."""
AFTER_SKIP = "input_block_patch_after_skip"
"""Its name of patches of what goes on through the encoder once a skip has been put aside."""
ATTENTION = "optimized_attention_override"
"""The host's option for which attention is computed with."""


class Encoder(ControlNet):
    """The encoder and the middle of a UNet of the host's configuration, with a layer behind each block.

    Names of weights are those of the UNet, and for the layers behind it ``zero_convs.…`` and ``middle_block_out.…``.
    """

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype, device: torch.device, operations) -> None:
        own = {name: deepcopy(value) for name, value in config.items() if name not in ("out_channels", "dtype")}
        super().__init__(**own, hint_channels=1, dtype=dtype, device=device, operations=operations)
        del self.input_hint_block

    @property
    def layers(self) -> int:
        """How many answers it gives."""
        return len(self.zero_convs) + 1

    def forward(self, x, timesteps, context, y=None, options: Mapping[str, Any] | None = None) -> list[torch.Tensor]:
        """What is to be added to each skip, and behind the middle last."""
        own = {name: value for name, value in (options or {}).items() if name == ATTENTION}
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(x.dtype))
        if self.num_classes is not None:
            emb = emb + self.label_emb(y)
        h, out = x, []
        for block, behind in zip(self.input_blocks, self.zero_convs, strict=True):
            h = forward_timestep_embed(block, h, emb, context, dict(own))
            out.append(behind(h, emb, context))
        h = forward_timestep_embed(self.middle_block, h, emb, context, dict(own))
        return [*out, self.middle_block_out(h, emb, context)]


class BranchCall:
    """A ``DIFFUSION_MODEL`` wrapper: what one branch answers in one run, given to the UNet as a ControlNet's answer is.

    The branch computes the rows only that its gate is open for.
    """

    def __init__(self, branch: Branch, strength: float, is_active: Callable[[dict], bool]):
        assert branch.network is not None
        self.branch, self.network = branch, branch.network
        self.strength, self.is_active = strength, is_active
        self.dtype = next(self.network.parameters()).dtype

    def __call__(self, executor, x, timesteps, context=None, y=None, control=None, transformer_options=None, **more):
        options = {} if transformer_options is None else transformer_options
        if self.is_active(options):
            rows = is_open(context, self.branch.gate)
            if bool(rows.any()):
                control = together(control, self.answers(x, timesteps, context, y, rows, options))
                options = with_skips_apart(options) if torch.is_grad_enabled() else options
        return executor(x, timesteps, context, y, control, options, **more)

    def answers(self, x, timesteps, context, y, rows: torch.Tensor, options: Mapping) -> list[torch.Tensor]:
        """Of every layer, for all rows; zero for those that are closed."""
        given = [t if t is None else t[rows].to(self.dtype) for t in (x, timesteps, context, y)]
        out = self.network(*given, options=options)
        scales = self.strength * self.branch.scales(timesteps[rows].float())
        answers = []
        for i, answer in enumerate(out):
            scaled = (answer.float() * scales[:, i, None, None, None]).to(x.dtype)
            whole = scaled.new_zeros(len(x), *scaled.shape[1:])
            answers.append(scaled if bool(rows.all()) else whole.index_copy(0, rows.nonzero().flatten(), scaled))
        return answers


def with_skips_apart(options: Mapping) -> dict:
    """Options with which the host adds to skips in place and backward still finds what it needs of the encoder."""
    patches = options.get("patches", {})
    apart = [*patches.get(AFTER_SKIP, []), lambda h, options: h.clone()]
    return {**options, "patches": {**patches, AFTER_SKIP: apart}}


def together(control: Mapping[str, Sequence] | None, answers: Sequence[torch.Tensor]) -> dict[str, list]:
    """What ControlNets add, and these ``answers``, of which the last is for the middle. The host takes both lists from
    their ends."""
    out = {name: list(parts) for name, parts in (control or {}).items()}
    for name, own in ((OUTPUT, list(answers[:-1])), (MIDDLE, [answers[-1]])):
        there = out.get(name, [])
        count = max(len(there), len(own))
        pairs = zip(*([None] * (count - len(part)) + list(part) for part in (there, own)), strict=True)
        out[name] = [b if a is None else a if b is None else a + b for a, b in pairs]
    return out
