"""The host's network as a function: of latents, texts, and the weights that it computes with instead of its own.

It is asked through the host's own ``apply_model``, so that the MODEL's patches, precision and schedule are all in the
answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import comfy.ldm.modules.attention as host_attention
import comfy.model_management
import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import nn

from ..parts.delta import Delta, Mask
from ..parts.part import Part
from ..protocols import Model
from ..texts.encoder import Text
from ..training.choice import Mixture, Soft
from . import attach
from .attention import AttentionMaps
from .subject import subject
from .weights import is_ordinary, mode_of, read

_T = TypeVar("_T")


class Network:
    """A MODEL's network, whole in memory, with its weights as they came: ``base``.

    ``shape``: of a latent [c, h, w]. ``checkpointing``: layers are run again in backward, which saves memory.
    """

    def __init__(self, model: Model, shape: Sequence[int], checkpointing: bool):
        self.model, self.shape, self.checkpointing = model, shape, checkpointing
        self.family = subject(model).family
        self.device: torch.device = model.load_device
        inner = model.model
        with mode_of(inner):
            comfy.model_management.load_models_gpu([model, *model.get_nested_additional_models()], force_full_load=True)
        self.base = {n: autograd_safe(t) for n, t in [*inner.named_parameters(), *inner.named_buffers()]}
        self._conds: dict[str, dict[str, Any]] = {}

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.model.model.manual_cast_dtype or self.model.model.get_dtype()

    def changed(self, delta: Delta | Mask | None) -> dict[str, torch.Tensor]:
        """Its weights with a delta, as that stands, added."""
        changes = {} if delta is None else delta.changes()
        return self.base | {name: self._changed(name, change) for name, change in changes.items()}

    def _changed(self, name: str, change: torch.Tensor) -> torch.Tensor:
        """A weight with a change, in the precision that it is kept in; one of fewer than 16 bits in that of the
        computation, because steps of learning are too small for it and gradients cannot be summed in it."""
        weight = self.base[name]
        if is_ordinary(weight):
            return (weight.float() + change).to(weight.dtype)
        return (read(self.model, name, weight).float() + change).to(self.dtype)

    def computing_with(self, weights: dict[str, torch.Tensor], function: Callable[[], _T]) -> _T:
        """Calls ``function`` while the host's module computes with these tensors instead of its own."""
        scope = Scope(self.model.model)
        return torch.func.functional_call(scope, {f"model.{n}": w for n, w in weights.items()}, (function,))

    def predict(
        self, z: torch.Tensor, sigma: torch.Tensor, texts: Sequence[Text | Mixture | Soft],
        part: Part | None = None, maps: AttentionMaps | None = None, checkpointed: bool = True,
    ) -> torch.Tensor:  # fmt: skip
        """The noise in z [b, c, ...] at sigma [b], for one text a row; in flow models the velocity.

        ``part`` joins the call, and gradients flow into what learns of it; ``maps`` gets what layers attend to.
        Where a network reads no text that is said over again as that text, rows are computed with those of one length.
        """
        conds = [self.conditioning(text) for text in texts]
        groups = self.together(texts)
        parts = [self._predict(z[g], sigma[g], [conds[i] for i in g], part, maps, checkpointed) for g in groups]
        if len(parts) == 1:
            return parts[0]
        order = torch.tensor([i for group in groups for i in group], device=z.device).argsort()
        return torch.cat(parts)[order]

    def together(self, texts: Sequence[Text | Mixture | Soft]) -> list[list[int]]:
        """The places of texts that the network can be given in one batch: all of them, or those of one length."""
        if self.family.repeats:
            return [list(range(len(texts)))]
        return _alike([self.conditioning(text) for text in texts])

    def _predict(
        self, z: torch.Tensor, sigma: torch.Tensor, conds: Sequence[Mapping[str, Any]], part: Part | None,
        maps: AttentionMaps | None, checkpointed: bool,
    ) -> torch.Tensor:  # fmt: skip
        joined = {name: _together([cond[name] for cond in conds]) for name in conds[0]}
        options = self._options(sigma, checkpointed and self.checkpointing)
        if maps is not None:
            self.family.join(options, maps.patch)
            options["optimized_attention_override"] = lambda _, *a, **o: maps.attention(
                host_attention.attention_pytorch, *a, **o
            )
        if part is not None:
            part.join(options, self.family, 1.0, attach.Active(None))
        with self.family.differentiable():
            denoised = self.model.model.apply_model(z, sigma, transformer_options=options, **joined)
        return (z - denoised) / sigma.view(-1, *[1] * (z.ndim - 1))

    def _options(self, sigma: torch.Tensor, checkpointed: bool) -> dict:
        """Transformer options as the host would build them, with the MODEL's own patches in front of ours."""
        options = comfy.model_patcher.create_model_options_clone(self.model.model_options)["transformer_options"]
        for attachment in attach.attachments(self.model):
            attachment.join(options, self.family, self.model.get_model_object("model_sampling"))
        options |= {"sigmas": sigma, "cond_or_uncond": [0], "uuids": [], "sample_sigmas": sigma}
        options["optimized_attention_override"] = _differentiable_attention
        if checkpointed and torch.is_grad_enabled():
            self.family.checkpoint(options)
        return options

    def conditioning(self, text: Text | Mixture | Soft) -> dict[str, Any]:
        """What the host feeds its network for a text, one row of each: cross-attention context, pooled text, …"""
        if isinstance(text, Mixture):
            return self._mixed([self.conditioning(part) for part in text.texts], text.weights.to(self.device))
        if isinstance(text, Soft):
            conditioning = self.conditioning(text.text)
            return conditioning | {"c_crossattn": text.within(conditioning["c_crossattn"])}
        if text.text not in self._conds:
            noise = torch.zeros(1, *self.shape, device=self.device)
            conds = comfy.sampler_helpers.convert_cond(text.cond)
            conds = comfy.samplers.encode_model_conds(
                self.model.model.extra_conds, conds, noise, self.device, "positive", latent_image=noise
            )
            entries = conds[0]["model_conds"].items()
            rows = {name: entry.process_cond(batch_size=1, area=None).cond for name, entry in entries}
            tensors = {n: row.to(self.device) for n, row in rows.items() if isinstance(row, torch.Tensor)}
            numbers = {n: row for n, row in rows.items() if isinstance(row, (int, float))}
            self._conds[text.text] = tensors | numbers
        return self._conds[text.text]

    def _mixed(self, parts: Sequence[Mapping[str, Any]], weights: torch.Tensor) -> dict[str, Any]:
        """Conditioning between those of several texts; numbers and masks are those of the longest."""
        longest = max(parts, key=lambda part: part["c_crossattn"].shape[1])
        as_long_as = as_long if self.family.repeats else extended
        tensors = {n: row for n, row in longest.items() if torch.is_tensor(row) and row.is_floating_point()}
        rows = {name: as_long_as([part[name] for part in parts]) for name in tensors}
        return {**longest, **{n: sum(w * row for w, row in zip(weights, rows[n], strict=True)) for n in rows}}


def _alike(conds: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Places of the texts whose conditioning has the same shapes, and the same numbers beside them, together."""
    groups: dict[tuple, list[int]] = {}
    for i, cond in enumerate(conds):
        key = tuple((name, tuple(getattr(part, "shape", (part,)))) for name, part in cond.items())
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _together(parts: Sequence[Any]) -> Any:
    """The conditioning of several texts as one; a number is the same for all of them."""
    return torch.cat(as_long(parts)) if isinstance(parts[0], torch.Tensor) else parts[0]


class Scope(nn.Module):
    """Calls a function, for ``torch.func.functional_call`` to do so with other weights of ``model``."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, function: Callable):
        return function()


def autograd_safe(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as a tensor that autograd accepts; those made in inference mode are refused by it."""
    if hasattr(tensor, "__tensor_flatten__"):  # a quantised tensor, which is made of others
        parts, how = tensor.__tensor_flatten__()
        inner = {part: autograd_safe(getattr(tensor, part)) for part in parts}
        return cast(Any, type(tensor)).__tensor_unflatten__(inner, how, tensor.size(), tensor.stride())
    if not tensor.is_inference():
        return tensor.detach()
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


def _differentiable_attention(_, *arguments, **options):
    """Pins the one attention of the host that is sure to have a backward pass."""
    return host_attention.attention_pytorch(*arguments, **options)


def rows_as_conditioning(texts: Sequence[Text]) -> list:
    """One conditioning entry of the host whose batch rows are different texts."""
    extra = dict(texts[0].cond[0][1])
    for name, value in extra.items():
        if isinstance(value, torch.Tensor):
            extra[name] = torch.cat(as_long([t.cond[0][1][name] for t in texts]))
    return [[torch.cat(as_long([t.cond[0][0] for t in texts])), extra]]


def as_long(rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Contexts [1, n, d] repeated until all have the same n, as the host does. Repeating every key equally leaves
    attention unchanged.

    What has no such axis (pooled text, sizes) comes back as it is.
    """
    if rows[0].ndim != 3:
        return list(rows)
    longest = math.lcm(*(row.shape[1] for row in rows))
    return [row.repeat(1, longest // row.shape[1], 1) for row in rows]


def extended(rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Contexts [1, n, d], the shorter ones filled up with their last row until all have the same n: for networks to
    which a repeated text is another text. What is of one shape already comes back as it is."""
    if len({row.shape for row in rows}) == 1:
        return list(rows)
    longest = max(row.shape[1] for row in rows)
    return [torch.cat([row, row[:, -1:].expand(-1, longest - row.shape[1], *row.shape[2:])], 1) for row in rows]
