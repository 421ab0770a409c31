"""Anima and Cosmos-Predict2: cross-attention in every block reads the text, in Anima behind an adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from ..parts.prompt import PromptTensors
from .calls import join_calls
from .entry import LinearEntry, as_given
from .family import CROSS_ATTENTION, KEYS_AND_VALUES, VALUES, WEIGHTS, HostModel, TextPatch
from .gradients import OutOfPlace, normed_and_turned
from .joint import CrossPrompt
from .unet import CROSS_PATCH, join_patch

ADAPTER = "llm_adapter"
IDS, SCALES = "t5xxl_ids", "t5xxl_weights"
"""The host's names of the tokens that the adapter reads beside an encoding, and of their weights in the prompt."""
ADAPTERS = (IDS, SCALES, "attention_mask")
"""What a conditioning has for the adapter alone."""
PROJECTIONS = {
    KEYS_AND_VALUES: ("k_proj", "v_proj"), VALUES: ("v_proj",),
    CROSS_ATTENTION: ("q_proj", "k_proj", "v_proj", "output_proj"),
}  # fmt: skip
"""Choice of weights -> projections of ``cross_attn``."""
KERNEL = "rms_rope_split_half"
"""The host's own operation that has no backward pass."""


class Cosmos(LinearEntry):
    """The adapter gives one encoding for each token of T5's tokenizer, from what a language model makes of the text."""

    name = "Anima"
    learns = True
    attends = True
    adapts = True
    choices = WEIGHTS
    networks = ("cosmos.predict2.MiniTrainDIT",)
    entries = ("cross_attn.k_proj", "cross_attn.v_proj")

    def text_entry(self, model: HostModel, choice: str = KEYS_AND_VALUES) -> list[str]:
        crossing = [name.split(".cross_attn.") for name in self._own(model) if ".cross_attn." in name]
        return [".cross_attn.".join(p) for p in crossing if p[1].removesuffix(".weight") in PROJECTIONS[choice]]

    def _own(self, model: HostModel) -> list[str]:
        """Names of the network's weights, but for the adapter's: what has passed that is given to a run."""
        names = dict(model.named_parameters())
        return [name for name in names if name.startswith("diffusion_model.") and f".{ADAPTER}." not in name]

    def weights(self, model: HostModel, choice: str) -> list[str]:
        if choice not in self.choices or choice in (KEYS_AND_VALUES, VALUES):
            return super().weights(model, choice)
        if choice == CROSS_ATTENTION:
            return self.text_entry(model, choice)
        own = [name for name in self._own(model) if ".cross_attn." not in name]
        return [name for name in own if model.get_parameter(name).ndim > 1]

    def reads_text(self, name: str) -> bool:
        return super().reads_text(name) and ADAPTER not in name.split(".")

    def in_front(self, model: HostModel) -> Sequence[str]:
        return [name for name, _ in model.named_parameters() if name.startswith(f"diffusion_model.{ADAPTER}.")]

    def encodings(self, model: HostModel, rows: torch.Tensor, tokens: Mapping[str, Sequence]) -> torch.Tensor:
        network = model.diffusion_model
        if not hasattr(network, ADAPTER):
            return rows
        ids, weights = zip(*((int(token[0]), float(token[1])) for token in tokens["t5xxl"][0]), strict=True)
        source = as_given(model, network.llm_adapter, rows)
        out = network.llm_adapter(source, torch.tensor([ids], device=source.device))[0]
        return out.float().cpu() * torch.tensor(weights)[:, None]

    def blocks(self, model: HostModel) -> Sequence[str]:
        reads = model.diffusion_model.blocks[0].cross_attn.compute_qkv
        # older hosts ask for no patches in these layers
        return super().blocks(model) if CROSS_PATCH in reads.__code__.co_consts else ()

    def not_learning(self, model: HostModel) -> str:
        return "" if self.blocks(model) else self.name

    def adapted(self, model: HostModel, cond: list) -> list:
        # the host does so in inference mode only, and for one text at a time
        [[context, extra]] = cond
        if extra.get(IDS) is None:
            return cond
        network = model.diffusion_model
        source = as_given(model, network.llm_adapter, context[0])
        scales = extra[SCALES].to(source)[None, :, None]
        adapted = network.preprocess_text_embeds(source, extra[IDS].to(source.device)[None], t5xxl_weights=scales)
        return [[adapted.to(context), {name: one for name, one in extra.items() if name not in ADAPTERS}]]

    def join(self, options: dict, patch: TextPatch) -> None:
        def in_the_hosts_words(q, k, v, extra_options, **_: object) -> dict:
            return dict(zip("qkv", patch(q, k, v, extra_options), strict=True))

        join_patch(options, in_the_hosts_words)

    def join_prompt(
        self, options: dict, prompt: PromptTensors, strength: float, is_active: Callable[[dict], bool]
    ) -> None:
        join_calls(options, CrossPrompt(prompt, strength, is_active, self.join))

    def differentiable(self) -> AbstractContextManager:
        return OutOfPlace(_turning()) if torch.is_grad_enabled() else nullcontext()


def _turning() -> dict[object, Callable]:
    """What is called in the place of the host's operation, by whichever name it calls that; nothing in older hosts,
    which are written without it."""
    operations = torch.ops.comfy_kitchen
    return {getattr(operations, KERNEL): normed_and_turned} if hasattr(operations, KERNEL) else {}
