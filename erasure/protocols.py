"""The host's MODEL, CLIP and VAE: what this pack uses of them, and nothing else. torch only.

They are the host's ``ModelPatcher``, ``CLIP`` and ``VAE``; other packs' loaders give subclasses and stand-ins, which
are welcome as long as they have what is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from typing_extensions import Self


class Model(Protocol):
    """A MODEL: the host's module with patches that are not in its weights. A clone shares the module.

    ``model``: the module, whose network is ``diffusion_model``. ``patches``: by the names of weights.
    """

    model: Any
    model_options: dict
    patches: dict[str, list]
    patches_uuid: Any
    load_device: Any
    offload_device: Any
    cached_patcher_init: Any

    def clone(self, disable_dynamic: bool = False) -> Self: ...

    def add_patches(self, patches: Mapping[str, Any], strength_patch: float = 1.0) -> Any: ...

    def add_weight_wrapper(self, name: str, function: Callable) -> None: ...

    def add_wrapper_with_key(self, wrapper_type: str, key: str, wrapper: Callable) -> None: ...

    def get_wrappers(self, wrapper_type: str, key: str) -> list: ...

    def set_attachments(self, key: str, attachment: Any) -> None: ...

    def get_attachment(self, key: str) -> Any: ...

    def set_additional_models(self, key: str, models: list) -> None: ...

    def get_additional_models_with_key(self, key: str) -> list: ...

    def get_nested_additional_models(self) -> list: ...

    def get_model_object(self, name: str) -> Any: ...

    def is_dynamic(self) -> bool: ...

    def patch_weight_to_device(self, key: str, device_to: Any = None) -> Any: ...

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> Any: ...


class Clip(Protocol):
    """A CLIP: the text encoders of a model, and their tokenizers. ``patcher``: their own ``Model``."""

    cond_stage_model: Any
    tokenizer: Any
    patcher: Any
    layer_idx: int | None
    apply_hooks_to_conds: Any

    def tokenize(self, text: str) -> dict[str, list]: ...

    def encode_from_tokens(
        self, tokens: Mapping[str, Sequence], return_pooled: Any = False, return_dict: bool = False
    ) -> Any: ...

    def encode_from_tokens_scheduled(self, tokens: Mapping[str, Sequence]) -> list: ...


class Vae(Protocol):
    """A VAE: pictures [b, h, w, 3] of numbers from 0 to 1, and their latents."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor: ...

    def decode(self, samples: torch.Tensor) -> torch.Tensor: ...
