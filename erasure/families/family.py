"""What one family of networks has to say of itself, so that everything else works on it. torch only.

A family is one file beside this one and a line in ``FAMILIES``. It is given the host's model (``MODEL.model``), which
holds the network under ``diffusion_model``; names of weights are those of that model: ``diffusion_model.….weight``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from ..artifact import ErasureError
from ..parts.branch import Branch
from ..parts.prompt import PromptTensors
from .rows import Rows

KEYS_AND_VALUES, VALUES, CROSS_ATTENTION, ALL_BUT_CROSS_ATTENTION = WEIGHTS = (
    "keys+values", "values", "cross-attention", "all but cross-attention",
)  # fmt: skip
"""Choices of the weights that change. The first two read text, and are what a closed form changes; the papers call the
third xattn, and the last noxattn."""
HostModel = Any
"""The host's model: ``MODEL.model``, of which each family's network has parts of its own."""
Hook = Callable[[torch.Tensor, Rows], torch.Tensor | None]
"""``(vectors [b, n, d] of a block, rows) -> vectors``, or None where nothing changes."""
TextPatch = Callable[..., tuple]
"""``(queries, context, value, options) -> (queries, context, value)``, for the context of one layer that reads text."""


class Family:
    """Networks that read text in the same way.

    ``name``: for people. ``learns``: whether an erasure can be learned on it. ``repeats``: whether a text that is said
    over again reads the same, so that texts of different lengths can be brought to one. ``attends``: whether layers
    attend to the text by itself, which can be watched. ``adapts``: whether the text passes what stands in front of the
    entry once before a run, and prompts join what comes of it. ``choices``: of the weights that change.
    """

    name = ""
    learns = False
    repeats = False
    attends = False
    adapts = False
    choices: Sequence[str] = (KEYS_AND_VALUES, VALUES)

    def fits(self, network: nn.Module) -> bool:
        """Whether a network (``diffusion_model``) is of this family, and reads text."""
        raise NotImplementedError

    def suits(self, model: HostModel) -> bool:
        """Whether a model gives a network that fits texts to read, and not pictures."""
        return True

    def reads_text(self, name: str) -> bool:
        """Whether a weight of this name is of the text entry: its input is the text encoding."""
        raise NotImplementedError

    def is_own_name(self, name: str) -> bool:
        """Whether a name of the text entry in a file, without its prefix, is the host's, and not another program's."""
        return True

    def text_entry(self, model: HostModel, choice: str = KEYS_AND_VALUES) -> list[str]:
        """Names of the weights whose input is the text encoding, of those that a choice allows."""
        return [name for name, _ in model.named_parameters() if self.reads_text(name)]

    def in_front(self, model: HostModel) -> Sequence[str]:
        """Names of weights that the text passes before the entry: norms and adapters."""
        return []

    def pooled_entry(self, model: HostModel) -> str | None:
        """The name of the weight whose first columns read the pooled text; None where none does."""
        return None

    def encodings(self, model: HostModel, rows: torch.Tensor, tokens: Mapping[str, Sequence]) -> torch.Tensor:
        """What the text entry is given for a text whose encoder gives ``rows`` [n, d]; ``tokens``: its tokens, by the
        names of the CLIP's text encoders, as the host's tokenizers have them."""
        return rows

    def adapted(self, model: HostModel, cond: list) -> list:
        """The host's conditioning of one text, with that done that is done before a run; see ``adapts``."""
        return cond

    def raw(self, model: HostModel, encodings: torch.Tensor) -> torch.Tensor | None:
        """What a prompt has to hold for the text entry to be given these ``encodings`` [n, d], or near to them; None
        where that cannot be told."""
        return encodings

    def lora_names(self, model: HostModel) -> Mapping[str, str]:
        """The names of weights -> those that LoRA files have for them, without their endings."""
        return {name: name.removesuffix(".weight").removesuffix(".bias") for name, _ in model.named_parameters()}

    def weights(self, model: HostModel, choice: str) -> list[str]:
        """Names of the weights that a choice changes. Raises ErasureError for a choice that the family lacks."""
        if choice not in self.choices:
            raise ErasureError(
                f"'{choice}' is no choice of weights for {self.name} models: choose '{KEYS_AND_VALUES}'."
            )
        pooled = self.pooled_entry(model)
        return [*self.text_entry(model, choice), *([pooled] if pooled else [])]

    def nearest(self, choice: str) -> str:
        """The choice of weights that comes nearest to one that the family may lack."""
        return choice if choice in self.choices else KEYS_AND_VALUES

    def not_learning(self, model: HostModel) -> str:
        """The name of what a model is that nothing can be learned on; empty for one that learns."""
        return "" if self.learns else self.name

    def blocks(self, model: HostModel) -> Sequence[str]:
        """The choices of ``parts.prompt.BLOCKS`` with which an erasure prompt joins somewhere."""
        return ()

    def join(self, options: dict, patch: TextPatch) -> None:
        """Has a patch take part in the layers that attend to the text, in a run with these transformer options, which
        are the caller's own but for what they hold; for families that have such layers."""
        raise NotImplementedError

    def join_prompt(
        self, options: dict, prompt: PromptTensors, strength: float, is_active: Callable[[dict], bool]
    ) -> None:
        """Has an erasure prompt take part in a run; ``is_active(options)`` says whether it acts in a call."""
        raise NotImplementedError

    def points(self, model: HostModel) -> Mapping[str, str]:
        """Blocks whose answers can be recorded and steered: what people call them -> the names of the modules; none
        where the family has none."""
        return {}

    def best_points(self, model: HostModel) -> Sequence[str]:
        """Of ``points``, those that are taken where nothing else is said."""
        return list(self.points(model))[:1]

    def hook(self, options: dict, hooks: Mapping[str, Hook], is_active: Callable[[dict], bool]) -> None:
        """Has hooks see, and change, what blocks give out, in a run with these transformer options; by the names of
        modules. Raises ErasureError where blocks cannot be hooked."""
        raise ErasureError(
            f"This erasure steers what blocks of another kind of model give out, which {self.name} models do not have: "
            "connect the model it was made for."
        )

    def branch(self, model: HostModel, dtype: torch.dtype, device: torch.device) -> nn.Module:
        """A control branch for a model's network, with weights of no use yet. Raises ErasureError where a network
        has no skips that a branch could add to."""
        raise ErasureError(
            f"A control branch adds to the skips of a UNet, which {self.name} models do not have: choose another "
            "method, or connect the model that the erasure was made for."
        )

    def join_branch(self, options: dict, branch: Branch, strength: float, is_active: Callable[[dict], bool]) -> None:
        """Has a control branch take part in a run, for families that have one."""
        raise NotImplementedError

    def checkpoint(self, options: dict) -> None:
        """Has the network's blocks run again in backward, in a run with these transformer options."""

    def differentiable(self) -> AbstractContextManager:
        """In it, gradients pass through the network."""
        return nullcontext()
