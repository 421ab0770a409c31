"""The UNet of SD 1.x, SD 2.x and SDXL: text is read by the keys and values of the cross-attention ``attn2`` alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import comfy.ops
import comfy.utils
import torch
from comfy.cldm.cldm import ControlNet
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel, forward_timestep_embed
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding
from comfy.patcher_extension import WrappersMP
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..parts.branch import Branch
from ..parts.gate import is_open
from ..parts.prompt import BLOCKS, PromptTensors, extend
from .branch import BranchCall
from .calls import PooledPrompt, join_calls
from .family import (
    CROSS_ATTENTION,
    KEYS_AND_VALUES,
    VALUES,
    WEIGHTS,
    Family,
    Hook,
    HostModel,
    TextPatch,
)
from .hooks import Hooked

PROJECTIONS = {
    KEYS_AND_VALUES: ("to_k", "to_v"), VALUES: ("to_v",), CROSS_ATTENTION: ("to_q", "to_k", "to_v", "to_out"),
}  # fmt: skip
"""Choice of weights -> projections of ``attn2``."""
PARTS = {"input_blocks": "input", "middle_block": "middle", "output_blocks": "output"}
"""The host's name of a part of the UNet -> the same in ``BLOCKS``."""
READ_PICTURES = {"SVD_img2vid", "Stable_Zero123"}
"""The host's classes of models that give the UNet a picture where others give it a text."""
PUBLISHED = "output 4"
"""diffusers' up_blocks.1.attentions.1."""
CROSS_PATCH = "attn2_patch"
"""The host's name of patches of cross-attention, in networks of other families, too."""
ATTENTION = "optimized_attention_override"
"""The host's option for which attention is computed with."""
CONTEXT = "concept_erasure"
"""Under this name, options hold a layer's text before any erasure joined it."""


class UNet(Family):
    """Cross-attention on text, the same encodings for every layer; small versions of SDXL have none in the middle."""

    name = "SD 1.x, SD 2.x, SDXL"
    learns = True
    repeats = True
    attends = True
    choices = WEIGHTS

    def fits(self, network: nn.Module) -> bool:
        return isinstance(network, UNetModel) and any(self.reads_text(name) for name, _ in network.named_parameters())

    def suits(self, model: HostModel) -> bool:
        return READ_PICTURES.isdisjoint(kinds_of(model))

    def reads_text(self, name: str) -> bool:
        return name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))

    def is_own_name(self, name: str) -> bool:
        return name.split(".")[0] in PARTS

    def text_entry(self, model: HostModel, choice: str = KEYS_AND_VALUES) -> list[str]:
        crossing = [name for name, _ in model.named_parameters() if ".attn2." in name]
        return [name for name in crossing if name.split(".attn2.")[1].split(".")[0] in PROJECTIONS[choice]]

    def weights(self, model: HostModel, choice: str) -> list[str]:
        if choice in (KEYS_AND_VALUES, VALUES):
            return super().weights(model, choice)
        if choice == CROSS_ATTENTION:
            return self.text_entry(model, choice)
        parameters = {name: p for name, p in model.named_parameters() if ".attn2." not in name}
        return [name for name, p in parameters.items() if name.startswith("diffusion_model.") and p.ndim > 1]

    def pooled_entry(self, model: HostModel) -> str | None:
        # of other UNets it reads pictures
        return "diffusion_model.label_emb.0.0.weight" if kinds_of(model) & {"SDXL", "SDXLRefiner"} else None

    def blocks(self, model: HostModel) -> Sequence[str]:
        parts = {PARTS[name.split(".")[1]] for name in self.text_entry(model) if name.split(".")[1] in PARTS}
        return [choice for choice, wanted in BLOCKS.items() if not parts.isdisjoint(wanted)]

    def lora_names(self, model: HostModel) -> Mapping[str, str]:
        # those of kohya's trainer after diffusers' blocks, which trainers and loaders share
        known = comfy.utils.unet_to_diffusers(model.model_config.unet_config)
        return {
            f"diffusion_model.{ours}": "lora_unet_"
            + theirs.removesuffix(".weight").removesuffix(".bias").replace(".", "_")
            for theirs, ours in known.items()
        }

    def join(self, options: dict, patch: TextPatch) -> None:
        join_patch(options, patch)

    def join_prompt(
        self, options: dict, prompt: PromptTensors, strength: float, is_active: Callable[[dict], bool]
    ) -> None:
        self.join(options, PromptPatch(prompt, strength, is_active))
        if prompt.pooled is not None or prompt.pooled_turn is not None:
            join_calls(options, PooledPrompt(prompt, strength, is_active))

    def points(self, model: HostModel) -> Mapping[str, str]:
        modules = model.diffusion_model.named_modules()
        names = [name for name, module in modules if isinstance(module, SpatialTransformer)]
        return {_called(name): f"diffusion_model.{name}" for name in names}

    def best_points(self, model: HostModel) -> Sequence[str]:
        points = self.points(model)
        # the block of SD 1.x and SDXL that is published for objects (arXiv 2501.18052); networks with fewer are small
        return [PUBLISHED] if PUBLISHED in points else list(points)

    def hook(self, options: dict, hooks: Mapping[str, Hook], is_active: Callable[[dict], bool]) -> None:
        join_calls(options, Hooked(hooks, 1, is_active))

    def branch(self, model: HostModel, dtype: torch.dtype, device: torch.device) -> nn.Module:
        operations = comfy.ops.disable_weight_init
        return ControlBranch(model.model_config.unet_config, dtype, device, operations)

    def join_branch(self, options: dict, branch: Branch, strength: float, is_active: Callable[[dict], bool]) -> None:
        join_calls(options, BranchCall(branch, strength, is_active), WrappersMP.DIFFUSION_MODEL)

    def checkpoint(self, options: dict) -> None:
        options["patches"] = {**options.get("patches", {}), "forward_timestep_embed_patch": CHECKPOINTED}


def join_patch(options: dict, patch: Callable) -> None:
    """Has a patch of cross-attention take part in a run with these options, behind those that are there."""
    patches = options.get("patches", {})
    options["patches"] = {**patches, CROSS_PATCH: [*patches.get(CROSS_PATCH, []), patch]}


def _called(name: str) -> str:
    """What people call a block: "output 2" for the third behind the middle."""
    part, *rest = name.split(".")
    return "middle" if PARTS[part] == "middle" else f"{PARTS[part]} {rest[0]}"


def kinds_of(model: HostModel) -> set[str]:
    """The names of a model's class and of those that it is made from."""
    return {kind.__name__ for kind in type(model).__mro__}


class ControlBranch(ControlNet):
    """A copy of a UNet's encoder and middle, in the host's class for ControlNets, with a layer behind each block.

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


class PromptPatch:
    """The ``attn2_patch`` of one prompt in one run: ``(n, context, value, options) -> (n, context, value)``.

    Lives for one run only, so what it remembers (this context's open rows, and this one turned) is never shared.
    """

    def __init__(self, prompt: PromptTensors, strength: float, is_active: Callable[[dict], bool]):
        self.prompt, self.strength, self.is_active = prompt, strength, is_active
        self.parts = BLOCKS[prompt.blocks]
        self._context: torch.Tensor | None = None
        self._rows: torch.Tensor | None = None
        self._turned: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, n, context, value, options):
        block = options.get("block")
        if block is None or block[0] not in self.parts or not self.is_active(options):
            return n, context, value
        if context.shape[-1] != self.prompt.keys.shape[-1]:
            return n, context, value  # a temporal block attends to something else than text
        rows = self._open_rows(options.setdefault(CONTEXT, context))
        if rows is None:
            return n, context, value
        if not self.prompt.is_turn or value is not context:
            return n, *extend(context, value, self.prompt, rows, self.strength)
        if self._turned is None or context is not self._turned[0]:  # every block is given the same one
            self._turned = context, extend(context, value, self.prompt, rows, self.strength)[0]
        return n, self._turned[1], self._turned[1]

    def _open_rows(self, context: torch.Tensor) -> torch.Tensor | None:
        """Open rows of this context, or None when all are closed; the same context is asked for by every block."""
        if context is not self._context:
            rows = is_open(context, self.prompt.gate)
            self._context, self._rows = context, (rows if bool(rows.any()) else None)
        return self._rows


def _checkpoint_transformer(layer, x, emb, context, options, *rest):
    now = dict(options)  # the host changes them as it goes, and the second run, in backward, must see these
    return checkpoint(lambda h: layer(h, context, dict(now)), x, use_reentrant=False)


def _checkpoint_residual(layer, x, emb, context, options, *rest):
    return checkpoint(layer, x, emb, use_reentrant=False)


CHECKPOINTED = [(SpatialTransformer, _checkpoint_transformer), (ResBlock, _checkpoint_residual)]
