"""Control branches in a run: what they answer is given to the network as a ControlNet's answer is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from ..parts.branch import Branch
from ..parts.gate import is_open

OUTPUT, MIDDLE = "output", "middle"
"""The host's names of what a ControlNet adds to the skips, the first one's first, and behind the middle."""
AFTER_SKIP = "input_block_patch_after_skip"
"""Its name of patches of what goes on through the encoder once a skip has been put aside."""


class BranchCall:
    """A ``DIFFUSION_MODEL`` wrapper: what one branch answers in one run.

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
