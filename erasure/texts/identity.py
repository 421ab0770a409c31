"""What the encodings of a text encoder depend on, in one short string, so that they can be remembered under it.

The tokens of a text are no part of it: whoever remembers encodings does so under their tokens. Where something may
change the encodings that cannot be told from outside – hooks, wrappers, functions that another pack has put in the
place of the host's – there is no string, and nothing is remembered.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from types import FunctionType
from weakref import WeakKeyDictionary

import comfy.ldm.modules.attention as attention
import comfy.sd
import torch
from comfy.cli_args import args
from comfy.quant_ops import QuantizedTensor
from torch import nn

from ..host.weights import stored_weights
from ..protocols import Clip
from ..version import host_version

SAMPLES = 16
"""So many bytes of each weight are looked at every time, to see whether somebody has changed it in place."""
ROW = 1024
"""Words of eight bytes that are summed up as one row, when all bytes are."""
ENCODING = ("encode_from_tokens", "encode_from_tokens_scheduled", "load_model")
"""What the host's CLIP does to encode."""
READING = ("__call__", "forward", "encode", "encode_token_weights", "process_tokens", "gen_empty_tokens")
"""What a text encoder's modules do."""
POOLED = ("text_projection.weight", "logit_scale")
"""Weights that only the pooled text depends on, which is not remembered. Checkpoints of SD 1 lack them, and the host
leaves there what is in memory by chance."""
RUNNING = {"execution_device", "layer", "layer_idx", "return_projected_pooled", "training", "can_assign_sd"}
"""Attributes of modules that encoding itself sets."""
PASSING = ("_", "comfy_", "prev_", "model_", "lowvram_", "current_", "weight_", "bias_")
"""How attributes begin that loading onto a device sets."""
QUIET = ("hook_patches", "injections", "additional_models", "attachments", "weight_wrapper_patches", "current_hooks")
"""What a patcher holds nothing in, when nobody has asked it for more than patches of its weights."""

_sums: WeakKeyDictionary[nn.Module, tuple[str, str]] = WeakKeyDictionary()


class Untold(Exception):
    """Something may change the encodings that cannot be told from outside."""


def identity(clip: Clip) -> str | None:
    """What the encodings of a CLIP depend on; None where that cannot be told."""
    try:
        _check_clip(clip)
        out = hashlib.sha256()
        for part in (_surroundings(clip), _structure(clip.cond_stage_model), weights_sum(clip.patcher)):
            out.update(part.encode())
        _feed(out, clip.patcher.patches)
        return out.hexdigest()[:32]
    except (Untold, AttributeError, NotImplementedError, RuntimeError, TypeError):
        return None


# ---------------------------------------------------------------- nothing in the host's way


def _check_clip(clip: Clip) -> None:
    """Raises Untold for a CLIP that does not encode as the host's own does."""
    patcher = clip.patcher
    own = all(_is_of(getattr(type(clip), name), comfy.sd.__file__) and name not in vars(clip) for name in ENCODING)
    if not own or not type(patcher).__module__.startswith("comfy."):
        raise Untold
    options = {name: value for name, value in patcher.model_options.items() if value}
    told = [clip.apply_hooks_to_conds, patcher.forced_hooks, options]
    told += [getattr(patcher, name, None) for name in QUIET]
    groups = [*patcher.callbacks.values(), *patcher.wrappers.values()]
    told += [functions for group in groups for functions in group.values()]
    told += [name for name in patcher.object_patches if name != "manual_cast_dtype"]
    if any(told) or patcher.model is not clip.cond_stage_model:
        raise Untold
    for module in clip.cond_stage_model.modules():
        _check_module(module)


def _check_module(module: nn.Module) -> None:
    if module._forward_hooks or module._forward_pre_hooks or any(name in vars(module) for name in READING):
        raise Untold


def _is_of(function, file: str) -> bool:
    return isinstance(function, FunctionType) and function.__code__.co_filename == file


# ---------------------------------------------------------------- what it is made of


def _surroundings(clip: Clip) -> str:
    """The layer that is read, and what computes."""
    device = clip.patcher.load_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    compute = clip.patcher.object_patches.get("manual_cast_dtype")
    choose = attention.optimized_attention_for_device
    attending = [choose(device, small_input=small).__name__ for small in (True, False)]
    facts = (host_version(), torch.__version__, device.type, name, compute, attending, str(args.fast), clip.layer_idx)
    return repr((*facts, torch.backends.cuda.matmul.allow_tf32, torch.are_deterministic_algorithms_enabled()))


def _structure(model: nn.Module) -> str:
    """The modules, with their settings and the functions that they read with."""
    out, classes = [], dict[type, list]()
    for name, module in model.named_modules():
        if type(module) not in classes:
            classes[type(module)] = [code for function in READING for code in _code_of(type(module), function)]
            out.append(repr(classes[type(module)]))
        settings = {n: v for n, v in vars(module).items() if n not in RUNNING and not n.startswith(PASSING)}
        out.append(f"{name} {type(module).__qualname__} {sorted(_settings(settings))}")
    return "\n".join(out)


def _code_of(kind: type, name: str) -> list[bytes]:
    """A function's code; raises Untold where it is not what its class was written with."""
    owner = next((one for one in kind.__mro__ if name in vars(one)), None)
    if owner is None or owner.__module__.startswith("torch."):
        return []
    function, file = vars(owner)[name], getattr(sys.modules.get(owner.__module__), "__file__", None)
    if file is None or not _is_of(function, file):
        raise Untold
    return [function.__code__.co_code, repr(function.__code__.co_names).encode()]


def _settings(values: Mapping[str, object]) -> Iterable[str]:
    """Settings that are plain; a function among them by its code."""
    for name, value in values.items():
        if isinstance(value, FunctionType):
            yield f"{name} {value.__module__} {value.__code__.co_code!r} {value.__code__.co_consts!r}"
        elif isinstance(value, (bool, int, float, str, bytes, type, type(None), list, tuple, dict)):
            yield f"{name} {_plain(value)}"


def _plain(value: object) -> str:
    """The text of a setting without addresses."""
    if isinstance(value, dict):
        return repr(sorted((str(key), _plain(one)) for key, one in value.items()))
    if isinstance(value, (list, tuple)):
        return repr([_plain(one) for one in value])
    return repr(value) if isinstance(value, (bool, int, float, str, bytes)) else type(value).__qualname__


# ---------------------------------------------------------------- weights


def weights_sum(patcher) -> str:
    """What the weights of a host's patcher are without its patches: a sum over all bytes, taken again when some of
    the bytes have changed."""
    stored = {name: weight for name, weight in stored_weights(patcher).items() if not name.endswith(POOLED)}
    some = hashlib.sha256()
    for name, weight in stored.items():
        for part in _plain_parts(weight):
            flat = _bytes(part)
            some.update(f"{name} {part.dtype} {tuple(part.shape)}".encode())
            some.update(bytes(flat[:: max(1, len(flat) // SAMPLES)].tolist()))
    known = _sums.get(patcher.model)
    if known is None or known[0] != some.hexdigest():
        total = hashlib.sha256(some.digest())
        for weight in (*stored.values(), *patcher.model.buffers()):
            _feed(total, weight)
        _sums[patcher.model] = known = (some.hexdigest(), total.hexdigest())
    return known[1]


def pooling(clip: Clip) -> str:
    """What pooled vectors depend on beside what encodings do."""
    stored = stored_weights(clip.patcher)
    return repr([checksum(weight) for name, weight in stored.items() if name.endswith(POOLED)])


def _plain_parts(weight: torch.Tensor) -> list[torch.Tensor]:
    """The tensors that a weight is kept in. Raises Untold for a kind that the host does not have."""
    if isinstance(weight, QuantizedTensor):
        return list(weight.state_dict("").values())
    if type(weight) not in (torch.Tensor, nn.Parameter) or weight.is_meta:
        raise Untold
    return [weight]


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def checksum(tensor: torch.Tensor) -> str:
    """A sum over all bytes of a tensor, in which the place of each of them counts."""
    flat = _bytes(tensor)
    count = len(flat) // (8 * ROW) * ROW
    words, rest = flat[: 8 * count].view(torch.int64).view(-1, ROW), flat[8 * count :]
    numbers = [_weighed(words.sum(0)), _weighed(words.sum(1)), _weighed(rest.long())]
    return repr((str(tensor.dtype), tuple(tensor.shape), numbers))


def _weighed(numbers: torch.Tensor) -> int:
    """A sum of numbers [n] under other weights each; it wraps around."""
    return int((numbers * (torch.arange(len(numbers), device=numbers.device) * 0x9E3779B1 + 1)).sum())


def _feed(out, value: object) -> None:
    """Adds to a hash what patches are made of. Raises Untold for what it does not know."""
    if isinstance(value, torch.Tensor):
        for part in _plain_parts(value):
            out.update(checksum(part).encode())
    elif isinstance(value, (str, int, float, bool, bytes, type(None), torch.dtype, torch.device)):
        out.update(repr(value).encode())
    elif isinstance(value, Mapping):
        _feed(out, sorted(value.items(), key=lambda item: str(item[0])))
    elif isinstance(value, (set, frozenset)):
        out.update(repr(sorted(map(str, value))).encode())
    elif isinstance(value, (list, tuple)):
        out.update(f"{len(value)}".encode())
        for one in value:
            _feed(out, one)
    elif type(value).__module__.startswith("comfy.weight_adapter"):
        _feed(out, [type(value).__qualname__, getattr(value, "weights", None)])
    else:
        raise Untold
