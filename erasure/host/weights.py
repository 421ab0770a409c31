"""Reading a host MODEL's weights as the host does for a LoRA: as plain numbers, however its layers keep them.

A layer keeps a weight as it is, in eight bits, *quantised* (a tensor type of the host's, with a scale), or *packed* in
bytes that only the loader's own layers understand (GGUF, bitsandbytes, …). The last kind is read by asking the layer:
what it makes of the unit vectors is its weight.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

import comfy.model_management
import comfy.utils
import torch
from comfy.float import stochastic_rounding
from comfy.lora import calculate_weight
from comfy.quant_ops import QuantizedTensor
from comfy.weight_adapter import LoRAAdapter
from torch import nn

from ..artifact import Change, ErasureError, LowRank
from ..protocols import Model

try:
    from comfy.utils import string_to_seed
except ImportError:  # where older hosts have it
    from comfy.model_patcher import string_to_seed

ORDINARY = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LINEAR = 0.05
"""A layer's answers may differ by this share from those of a matrix, as they do where it rounds its input."""
FROM_THE_DYNAMIC_LOADER = ("_v", "_prefetch", "weight_lowvram_function", "bias_lowvram_function")
"""What the host's dynamic loader leaves on a layer, with which it computes on the GPU alone."""


def stored_weights(model: Model) -> dict[str, torch.Tensor]:
    """The parameters of a host MODEL as its checkpoint has them, in whatever form its layers keep them.

    Clones share one network, which still carries the patches of whichever of them ran last; the host keeps what was
    there before in ``backup``.
    """
    backup = getattr(model, "backup", {})
    return {n: getattr(backup[n], "weight", p) if n in backup else p for n, p in model.model.named_parameters()}


class Weights(Mapping[str, torch.Tensor]):
    """The parameters of a host MODEL as its checkpoint has them, each read when it is asked for.

    A weight that is kept as it is comes as that very tensor; others as plain floats of their true shape. Asking raises
    ErasureError for packed weights that their layer does not give away.
    """

    def __init__(self, model: Model):
        self.model, self.stored = model, stored_weights(model)

    def __getitem__(self, name: str) -> torch.Tensor:
        return read(self.model, name, self.stored[name])

    def __contains__(self, name: object) -> bool:
        return name in self.stored  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def shape(self, name: str) -> torch.Size:
        """The true shape of a weight, without reading it."""
        return shape_of(self.model, name, self.stored[name])


def is_ordinary(weight: torch.Tensor) -> bool:
    """Whether a weight is kept as it is: a plain tensor of 16 bits or more."""
    return type(weight) in (torch.Tensor, nn.Parameter) and weight.dtype in ORDINARY


def is_packed(weight: torch.Tensor) -> bool:
    """Whether a weight is kept in a form that the host itself cannot read."""
    return not isinstance(weight, QuantizedTensor) and not weight.dtype.is_floating_point


def kind(weight: torch.Tensor) -> str:
    """What a user may know a weight's form by: ``float8_e4m3fn``, ``TensorCoreNVFP4Layout``, ``GGMLTensor``, …"""
    if isinstance(weight, QuantizedTensor):
        return str(getattr(weight, "_layout_cls", "") or type(weight).__name__)
    plain = type(weight) in (torch.Tensor, nn.Parameter)
    return str(weight.dtype).removeprefix("torch.") if plain else type(weight).__name__


def layer_of(model: Model, name: str) -> tuple[nn.Module, str]:
    """The layer of a host MODEL that has a weight, and the weight's name in it."""
    path, _, part = name.rpartition(".")
    return model.get_model_object(path), part


def shape_of(model: Model, name: str, weight: torch.Tensor) -> torch.Size:
    """The true shape of a weight, which a packed one may not tell."""
    if is_packed(weight):
        layer, part = layer_of(model, name)
        if part == "weight" and hasattr(layer, "in_features") and hasattr(layer, "out_features"):
            return torch.Size((int(layer.out_features), int(layer.in_features)))  # type: ignore[arg-type]
    return weight.shape


def read(model: Model, name: str, weight: torch.Tensor) -> torch.Tensor:
    """A stored weight as plain numbers of its true shape. Raises ErasureError where its layer does not give it away."""
    if is_ordinary(weight):
        return weight
    layer, part = layer_of(model, name)
    convert = getattr(layer, f"convert_{part}", None)  # what the host's own patches are added to
    plain = plain_numbers(weight if convert is None else convert(weight, inplace=False))
    shape = shape_of(model, name, weight)
    if plain.dtype.is_floating_point and plain.shape == shape:
        return plain
    leave_nothing_on(model)
    # the layer's own weight again: unloading may have put another tensor there
    return ask(layer_of(model, name)[0], name, kind(weight), shape)


def with_patches(model: Model, name: str, weight: torch.Tensor, patches: list) -> torch.Tensor:
    """A stored weight with patches as the host has it once the MODEL is loaded, float32: rounded to its own precision,
    or quantised anew by its layer. Not for packed weights."""
    dense = read(model, name, weight).detach().float().clone()
    if not patches:
        return dense
    patched = calculate_weight(patches, dense, name)
    layer, part = layer_of(model, name)
    seed = string_to_seed(name)
    assign = getattr(layer, f"set_{part}", None)
    if assign is None:
        return stochastic_rounding(patched, weight.dtype, seed=seed).float()
    return plain_numbers(assign(patched, inplace_update=False, seed=seed, return_weight=True)).float()


def plain_numbers(weight: torch.Tensor) -> torch.Tensor:
    """A weight without its tensor type: dequantised where the host can, else the bytes that are there."""
    if isinstance(weight, QuantizedTensor):
        return weight.dequantize()
    # no detach before: a tensor that was made outside of inference mode around one made inside cannot be detached
    return weight if type(weight) in (torch.Tensor, nn.Parameter) else weight.as_subclass(torch.Tensor)


def leave_nothing_on(model: Model) -> None:
    """Has the host take the patches of any clone off the network, where some are on it: a packed weight carries them.

    The model is loaded again when it draws.
    """
    if getattr(model.model, "current_weight_patches_uuid", None) is None:
        return
    unload = getattr(comfy.model_management, "unload_model_and_clones", None)
    with mode_of(model.model):
        if unload is None:
            comfy.model_management.unload_all_models()
        else:
            unload(model)


def mode_of(network: nn.Module) -> torch.inference_mode:
    """The mode in which a network's weights were made. A quantised weight that is moved or wrapped in the other one is
    half of each, and can no longer be read in inference mode, where the host runs its nodes."""
    return torch.inference_mode(any(p.is_inference() for p in network.parameters()))


def bare(layer: nn.Module) -> nn.Module:
    """The same layer with the same weights, without weight functions, hooks, and what a loader left on it.

    The layer itself, which all clones of a MODEL share, stays untouched.
    """
    out = copy.copy(layer)
    out._parameters = dict(layer._parameters)
    out._forward_hooks, out._forward_pre_hooks = OrderedDict(), OrderedDict()
    for name in (*FROM_THE_DYNAMIC_LOADER, "forward"):
        out.__dict__.pop(name, None)
    for functions in ("weight_function", "bias_function"):
        if hasattr(layer, functions):
            setattr(out, functions, [])
    return out


@torch.no_grad()
def asks_functions(layer: nn.Module, part: str) -> bool:
    """Whether a layer computes with what weight functions make of its weight, seen by two that make different things.

    Layers of the host do; those of other loaders may not, though they have a list for such functions.
    """
    if not hasattr(layer, f"{part}_function"):
        return False
    probe = bare(layer)
    weight = probe._parameters[part]
    assert weight is not None
    answers = []
    try:
        x = some_input(layer, weight)
        for change in (lambda w: w, lambda w: w + 1):
            setattr(probe, f"{part}_function", [change])
            answers.append(probe(x))
        return not torch.equal(*(torch.nan_to_num(answer) for answer in answers))
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception:  # whatever a stranger's layer raises, it did not do what was asked
        return False


def some_input(layer: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """As little as a layer of the host takes (linear, convolution, norm, embedding), and not constant."""
    size = [int(n) for n in getattr(layer, "normalized_shape", ())]
    for name in ("in_features", "in_channels", "num_channels", "num_features"):
        size = [*size, *([int(getattr(layer, name))] if hasattr(layer, name) else [])]
    if hasattr(layer, "num_embeddings"):
        return torch.zeros(1, dtype=torch.long, device=weight.device)
    size += getattr(layer, "kernel_size", (2,) if hasattr(layer, "num_groups") else ())
    dtype = weight.dtype if is_ordinary(weight) else torch.float32
    return torch.linspace(0.5, 1.0, math.prod(size), device=weight.device).to(dtype).view(1, *size)


def ask(layer: nn.Module, name: str, form: str, shape: torch.Size) -> torch.Tensor:
    """The weight [out, in] of a layer by what it makes of the unit vectors, float32. Raises ErasureError."""
    if name.endswith(".weight") and len(shape) == 2:
        layer = bare(layer)
        for dtype in (torch.float32, torch.bfloat16):
            matrix = _by_unit_vectors(layer, shape, dtype)
            if matrix is not None:
                return matrix
    raise ErasureError(
        f"The connected model's weights are packed in a form that only its own loader reads ({form}, {name}): make the "
        "erasure on an unpacked checkpoint of the same model, save it, and put it on this one with Load Erasure and "
        "Apply Erasure."
    )


@torch.no_grad()
def _by_unit_vectors(layer: nn.Module, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor | None:
    """None where the layer cannot be asked, or does not answer as a matrix would."""
    device = cast(torch.Tensor, layer.weight).device
    unit = torch.eye(shape[1], device=device, dtype=dtype)
    other = torch.linspace(-1, 1, shape[1], device=device).cos().to(dtype)[None]
    try:
        offset, rows, answer = (layer(x).float() for x in (torch.zeros_like(other), unit, other))
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception:  # whatever a stranger's layer raises, it means that it cannot be asked
        return None
    if rows.shape != (shape[1], shape[0]) or not torch.isfinite(rows).all():
        return None
    matrix = (rows - offset).T.contiguous()
    expected = other.float() @ matrix.T + offset
    if (answer - expected).norm() > LINEAR * (answer - offset).norm().clamp_min(1e-6):
        return None
    return matrix


def require_unpacked(model: Model) -> None:
    """Raises ErasureError for a MODEL with packed weights, through which gradients do not pass."""
    for name, weight in model.model.named_parameters():
        if is_packed(weight):
            raise ErasureError(
                f"The connected model's weights are packed by its loader ({kind(weight)}, {name}), which cannot be "
                "learned on: train on an unpacked checkpoint of the same model, save the erasure, and put it on this "
                "one with Load Erasure and Apply Erasure."
            )


def effective_weights(model: Model, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The named weights [out, in] of a host MODEL, float32, with this MODEL's own patches (LoRA, other erasures).

    Raises ErasureError for packed weights that their layer does not give away.
    """
    weights = Weights(model)
    return {
        name: calculate_weight(model.patches.get(name, []), weights[name].detach().float().clone(), name)
        for name in names
    }


def true_shapes(model: Model, names: Iterable[str]) -> dict[str, torch.Size]:
    """The shapes of named weights of a host MODEL, however its layers keep them."""
    weights = Weights(model)
    return {name: weights.shape(name) for name in names}


def patches(delta: Mapping[str, Change]) -> dict[str, object]:
    """The delta in the form that the host's ``ModelPatcher.add_patches`` takes."""
    return {name: _patch(change) for name, change in delta.items()}


def _patch(change: Change) -> object:
    if isinstance(change, LowRank):
        # alpha None makes the host apply up @ down without scaling
        return LoRAAdapter(set(), (change.up, change.down, None, None, None, None))
    return ("diff", (change.full,))
