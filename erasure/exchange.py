"""Erasures and other people's files: out as a plain LoRA, in from LoRA, difference and full-weight files."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import comfy.lora
import comfy.lora_convert
import comfy.utils
import torch
from comfy.weight_adapter import LoRAAdapter

from .artifact import Change, Erasure, ErasureError, Full, LowRank, Metadata
from .files import OWN_STRINGS, read_tensors, write_tensors
from .host import attach
from .host.subject import subject
from .host.weights import Weights
from .modelspec import lora_strings
from .parts.delta import changing
from .protocols import Model
from .texts.names import lines, read_field
from .version import host_version, pack_version

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
CONTENTS = ("find out", "full weights", "difference")
PREFIXES = ("", "unet.", "model.diffusion_model.", "diffusion_model.")
"""What public files put before the names of a UNet's weights."""
PEFT_PREFIXES = ("", "unet.", "base_model.model.", "unet.base_model.model.", "base_model.model.unet.")
ENDS = re.compile(
    r"([._]lora[._].*|\.(hada|lokr|oft|boft|glora|vera)_.*|\.[ab][12]\.weight|\.bias_(indices|values|size)"
    r"|\.(alpha|dora_scale|diff|diff_b|w_norm|b_norm|set_weight|reshape_weight|rescale|scalar|on_input))$"
)
"""What public files put behind the name of a layer that they change."""
TEXT_LAYER = re.compile(
    r"(base_model\.model\.)?(lora_(prior_)?te\d*_|lycoris_te|te\d?[._]|text_|cond_stage_model\.|conditioner\.|clip_[lgh]\.|"
    r"bundle_emb\.)"
)
OTHER_LAYER = re.compile(r"first_stage_model\.|vae\.|lora_vae|model_ema\.|embedder\.|denoiser\.|depth_model\.")
QUANTISED = (".scale_weight", ".weight_scale", ".comfy_quant", "scaled_fp8", ".absmax", ".quant_map")
LARGEST = torch.finfo(torch.float16).max
NAMED = 8
"""Concepts that a title names; lists in other programs are narrow."""
EXACT = 1e-6
"""Singular values below this share of the largest are float32 rounding."""


# ---------------------------------------------------------------- out


def lora_keys(model: Model) -> dict[str, str]:
    """Host weight name -> the key under which LoRA files keep it, for every weight of a MODEL's network."""
    return dict(subject(model).family.lora_names(model.model))


def lora_tensors(model: Model, erasure: Erasure, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    """The erasure's change as the tensors of a LoRA file. Raises ErasureError when it has none or fits another model.

    Low-rank parts go out as they are; parts that are written out are factored without loss of more than rounding.
    """
    attach.check_fit(model, erasure)
    if not erasure.delta:
        raise ErasureError(
            "This erasure changes no weights, and a LoRA can hold nothing else: keep it with Save Erasure."
        )
    keys = lora_keys(model)
    out: dict[str, torch.Tensor] = {}
    for name, change in erasure.delta.items():
        if name not in keys:
            raise ErasureError(f"The weight {name} has no name in LoRA files: keep this erasure with Save Erasure.")
        out |= _lora_part(keys[name], name, change, dtype)
    return out


def _lora_part(key: str, name: str, change: Change, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    if name.endswith(".bias"):
        return _in_precision(name, {f"{key}.diff_b": change.dense()}, dtype)
    if isinstance(change, Full) and change.full.ndim != 2:
        return _in_precision(name, {f"{key}.diff": change.dense()}, dtype)
    part = change if isinstance(change, LowRank) else factor(change.dense())
    if max(float(part.up.abs().max()), float(part.down.abs().max())) > torch.finfo(dtype).max:
        part = factor(change.dense())  # one factor is too large where both could be of a middling size
    alpha = torch.tensor(float(len(part.down)))  # alpha / rank scales the product: 1
    factors = _in_precision(name, {f"{key}.lora_up.weight": part.up, f"{key}.lora_down.weight": part.down}, dtype)
    return {**factors, f"{key}.alpha": alpha}


def _in_precision(name: str, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Raises ErasureError for numbers that are not finite in a precision."""
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise ErasureError(f"The change of {name} is not finite: make this erasure again.")
    out = {key: t.to(dtype) for key, t in tensors.items()}
    if not all(bool(torch.isfinite(t).all()) for t in out.values()):
        raise ErasureError(f"The change of {name} is too large for this precision: choose fp32.")
    return out


def factor(matrix: torch.Tensor) -> LowRank:
    """A matrix [out, in] as a product of its own rank, by singular value decomposition."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    rank = max(1, int((s > EXACT * s[0]).sum()))
    root = s[:rank].sqrt()
    return LowRank((u[:, :rank] * root).float(), (root[:, None] * v[:rank]).float())


def export_lora(model: Model, erasure: Erasure, path: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Writes the LoRA file in one move and returns its tensors. Raises ErasureError."""
    tensors = lora_tensors(model, erasure, dtype)
    m = erasure.metadata
    rank = max((len(t) for key, t in tensors.items() if key.endswith("lora_down.weight")), default=0)
    strings = {
        **lora_strings(model, m, _title(lines(m.concept)), rank, tensors),
        "ss_output_name": path.stem,
        **{f"erasure.{name}": value for name in ("method", "concept", "target", "preserve", "family", "fingerprint",
                                                 "settings", "pack_version") if (value := getattr(m, name))},
    }  # fmt: skip
    write_tensors(tensors, strings, path)
    return tensors


def _title(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"Erases {', '.join(names[:NAMED])}{more}"


# ---------------------------------------------------------------- in


TEXT_ENCODER, OTHER_PART = "of the text encoder, which an erasure does not change", "of a part other than the UNet"
NO_WEIGHT, OTHER_SHAPE = "of weights that this model does not have", "of weights that have another shape here"
OTHER_FORM, TWICE = "in a form that is not read here", "of weights that the file changes a second time"
UNFIT = (NO_WEIGHT, OTHER_SHAPE, OTHER_FORM)
"""Why a change of the UNet is left out."""


@dataclass(frozen=True)
class Coverage:
    """How much of another program's file became an erasure.

    ``taken``: changes that did, one for each layer or weight. ``left``: why others were left out -> their names.
    """

    file: str
    taken: int
    left: Mapping[str, Sequence[str]]

    def text(self) -> str:
        """What a node says of it, a line or two."""
        total = self.taken + sum(map(len, self.left.values()))
        share = f"all {total}" if self.taken == total else f"{self.taken} of {total}"
        reasons = [f"{len(names)} {why} ({names[0]}{', …' * (len(names) > 1)})" for why, names in self.left.items()]
        return f"Taken: {share} changes in {self.file}" + (f"\n⚠ Left out: {'; '.join(reasons)}" if reasons else "")

    def as_string(self) -> str:
        """For an erasure's metadata."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, metadata: Metadata) -> Coverage | None:
        """The inverse, for an imported erasure; None for any other."""
        try:
            facts = json.loads(metadata.settings) if metadata.method == "imported" else None
            return None if facts is None else cls(facts["file"], facts["taken"], facts["left"])
        except (ValueError, TypeError, KeyError):
            return None


class Misfit(Exception):
    """A change in a file that an erasure of the connected model cannot hold: why, and a sentence that says so."""

    def __init__(self, why: str, sentence: str):
        super().__init__(sentence)
        self.why = why


@torch.inference_mode(False)  # nothing can be learned through what is made in it
def import_erasure(model: Model, path: Path, concept: str, content: str = CONTENTS[0]) -> Erasure:
    """An erasure from a file of another program; the MODEL tells names and, for full weights, what they differ from.

    Read are LoRA files (kohya, diffusers, peft and this pack's own), ``.diff`` files, and what the public UCE and ESD
    scripts save: UNet weights under diffusers' or the checkpoint's names, whole or as differences. What is left out of
    a file is in the metadata's settings, see ``Coverage``. Raises ErasureError, also where most of it does not fit.
    """
    here = subject(model)
    tensors, strings = read_tensors(path)
    if set(strings) >= OWN_STRINGS:
        raise ErasureError(f"'{path.name}' is an erasure of this pack already: load it with Load Erasure.")
    _check_numbers(path.name, tensors)
    delta, coverage = _read(path.name, model, tensors, content)
    return Erasure(
        Metadata(
            method="imported",
            concept="\n".join(read_field(concept).texts) or strings.get("erasure.concept", path.stem),
            target=strings.get("erasure.target", ""),
            preserve=strings.get("erasure.preserve", ""),
            **{**here.stamp(), "fingerprint": strings.get("erasure.fingerprint", "")},
            settings=coverage.as_string(),
            pack_version=pack_version(),
            host_version=host_version(),
        ),
        changing(delta),
    )


def _check_numbers(file: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises ErasureError for numbers that are not finite, and for quantised weights, which mean nothing alone."""
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise ErasureError(
                f"'{file}' contains numbers that are not finite (in {key}): download it again, or train it again."
            )
        if key.endswith(QUANTISED):
            raise ErasureError(
                f"'{file}' holds quantised weights, which cannot be told from the model's: get it in half precision."
            )


def _read(
    file: str, model: Model, tensors: Mapping[str, torch.Tensor], content: str
) -> tuple[dict[str, Change], Coverage]:
    """What a file changes, and how much of it that is."""
    weights, misfits = Weights(model), dict[str, Misfit]()
    names = {key: ours for key, ours in _weight_names(model, tensors).items() if ours in weights}
    delta = _from_weights(file, {key: tensors[key] for key in names}, names, weights, content, misfits)
    taken = len(names) - len(misfits)
    rest = {key: tensor for key, tensor in tensors.items() if key not in names}
    known = _lora_names(model)
    for layer, part in _layers(comfy.lora_convert.convert_lora(rest)).items():
        try:
            changes = _from_lora(file, layer, part, known, weights)
            if set(changes) & set(delta):
                raise Misfit(TWICE, "")
            delta |= changes
            taken += 1
        except Misfit as misfit:
            misfits[layer] = misfit
    _check_coverage(file, taken, misfits)
    delta = {name: change for name, change in delta.items() if all(bool(t.any()) for t in change.tensors().values())}
    if not delta:
        raise ErasureError(
            f"'{file}' holds nothing that changes the connected model, whose weights it leaves as they are: check that "
            "it is the right file."
        )
    for name, change in delta.items():
        _check_size(file, name, change)
    left: dict[str, list[str]] = {}
    for key in sorted(misfits):
        left.setdefault(misfits[key].why, []).append(key)
    return delta, Coverage(file, taken, left)


def _check_coverage(file: str, taken: int, misfits: Mapping[str, Misfit]) -> None:
    """Raises ErasureError, with the most frequent reason, when most of what a file changes in the UNet does not fit."""
    unfit = {name: misfit for name, misfit in misfits.items() if misfit.why in UNFIT}
    if len(unfit) > taken:
        why = Counter(misfit.why for misfit in unfit.values()).most_common(1)[0][0]
        name, misfit = next((name, misfit) for name, misfit in unfit.items() if misfit.why == why)
        if why == NO_WEIGHT and taken:
            raise ErasureError(
                f"Only {taken} of the {taken + len(unfit)} changes in '{file}' fit the connected model, which has no "
                f"{name}, for example: connect the model it was made for."
            )
        raise ErasureError(str(misfit))
    if not taken:
        text = any(misfit.why == TEXT_ENCODER for misfit in misfits.values())
        raise ErasureError(
            f"'{file}' changes the text encoder alone, which an erasure does not: load it with the stock LoRA loader."
            if text
            else _nothing(file)
        )


def _nothing(file: str) -> str:
    return (
        f"'{file}' holds nothing that changes the connected model: check that both are of one family, or load the file "
        "with the node it was made for."
    )


def _check_size(file: str, name: str, change: Change) -> None:
    """Raises ErasureError for a change that a model in half precision cannot hold, where it would draw black."""
    if isinstance(change, LowRank):  # no entry of a product is larger than the longest row times the longest column
        bound = change.up.norm(dim=1).max() * change.down.norm(dim=0).max()
        if float(bound) <= LARGEST:
            return
    if not float(change.dense().abs().max()) <= LARGEST:  # not finite is not smaller
        raise ErasureError(
            f"'{file}' changes {name} by more than a model can hold (scaled by its alpha): download or train it again."
        )


def _weight_names(model: Model, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Which tensors of a file are weights of the UNet, and their names in the host."""
    theirs = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    known = {name: f"diffusion_model.{ours}" for name, ours in theirs.items()}
    known |= {ours.removeprefix("diffusion_model."): ours for ours in model.model.state_dict()}
    bare = [(key, key.removeprefix(prefix)) for key in tensors for prefix in PREFIXES]
    return {key: known[name] for key, name in bare if name in known}


def _lora_names(model: Model) -> dict[str, str]:
    """The layers of LoRA files -> the host's weights: the host's table, and what peft writes."""
    theirs = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    known = {
        prefix + name.removesuffix(".weight"): f"diffusion_model.{ours}"
        for name, ours in theirs.items()
        if name.endswith(".weight")
        for prefix in PEFT_PREFIXES
    }
    return {**known, **comfy.lora.model_lora_keys_unet(model.model, {})}


def _layers(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of a LoRA file, by the layer that they change together."""
    out: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        out.setdefault(ENDS.sub("", key), {})[key] = tensor
    return out


def _check_shape(file: str, name: str, theirs: Sequence[int], ours: torch.Size) -> None:
    """Raises Misfit for a weight of another shape; a kernel of 1 × 1 is as good as none."""
    shape, expected = (list(shape[:2]) if set(shape[2:]) <= {1} else list(shape) for shape in (theirs, ours))
    if shape != expected:
        raise Misfit(
            OTHER_SHAPE,
            f"'{file}' was made for a model whose {name} is {list(theirs)} and not {list(ours)}: connect the model it "
            "was made for.",
        )


def _from_weights(
    file: str, tensors: Mapping[str, torch.Tensor], names: Mapping[str, str], weights: Mapping[str, torch.Tensor],
    content: str, misfits: dict[str, Misfit],
) -> dict[str, Change]:  # fmt: skip
    """Changes of the weights that a file holds, as the content says; ``misfits`` gets what is left out."""
    named = {}
    for key, tensor in tensors.items():
        name = names[key]
        try:
            if name in named:
                raise Misfit(TWICE, "")
            _check_shape(file, name, tensor.shape, weights[name].shape)
            named[name] = tensor.reshape(weights[name].shape)
        except Misfit as misfit:
            misfits[key] = misfit
    # the model as the file's precision has it, so that rounding is not taken for erasing
    base = {name: weights[name].detach().cpu().to(tensor.dtype).float() for name, tensor in named.items()}
    apart = {name: tensor.float() - base[name] for name, tensor in named.items()}
    if content == CONTENTS[0]:
        nearer = sum(float(t.square().sum()) for t in apart.values()) < sum(
            float(t.float().square().sum()) for t in named.values()
        )
        content = CONTENTS[1] if nearer else CONTENTS[2]
    tensors = apart if content == CONTENTS[1] else {name: tensor.float() for name, tensor in named.items()}
    return {name: Full(tensor) for name, tensor in tensors.items()}


def _from_lora(
    file: str, layer: str, part: Mapping[str, torch.Tensor], known: Mapping[str, str],
    weights: Mapping[str, torch.Tensor],
) -> dict[str, Change]:  # fmt: skip
    """What a layer's tensors change, by weight. Raises Misfit."""
    target = known.get(layer, "")
    if target not in weights:
        raise Misfit(_foreign(layer, part), _nothing(file))
    try:
        patches = comfy.lora.load_lora(dict(part), {layer: target}, log_missing=False)
        read = {f"{layer}.{end}" for end in ("alpha", "diff", "diff_b", "w_norm", "b_norm")}
        read = read.union(*(getattr(patch, "loaded_keys", ()) for patch in patches.values()))
        if not patches or set(part) - read:
            raise _other_form(file, target)
        if not set(patches) <= set(weights):
            raise Misfit(NO_WEIGHT, _nothing(file))
        return {name: _change(file, name, patch, weights[name].shape) for name, patch in patches.items()}
    except (LookupError, RuntimeError, ValueError, TypeError) as error:  # of the host's reader: tensors are missing
        raise ErasureError(f"'{file}' lacks a part of its change of {layer}: download or save it again.") from error


def _foreign(layer: str, part: Mapping[str, torch.Tensor]) -> str:
    """Why a layer that the UNet does not have is left out."""
    if TEXT_LAYER.match(layer):
        return TEXT_ENCODER
    beside = OTHER_LAYER.match(layer) or not any("." in key for key in part)  # betas, v_pred and so on
    return OTHER_PART if beside else NO_WEIGHT


def _other_form(file: str, name: str) -> Misfit:
    return Misfit(
        OTHER_FORM,
        f"'{file}' changes {name} in a form that is not read here: load it with the stock LoRA loader.",
    )


def _change(file: str, name: str, patch: object, shape: torch.Size) -> Change:
    """What the host read for a weight of a shape; convolutions are written out. Raises Misfit."""
    if isinstance(patch, LoRAAdapter):
        up, down, alpha, middle, dora, _ = patch.weights
        if middle is None and dora is None and up.flatten(1).shape[1] == len(down) > 0:
            scale = 1.0 if alpha is None else alpha / len(down)
            _check_shape(file, name, [len(up), *down.shape[1:]], shape)
            if up.ndim == down.ndim == len(shape) == 2:
                return LowRank(up.float() * scale, down.float())
            return Full((up.flatten(1).float() * scale @ down.flatten(1).float()).reshape(shape))
    elif isinstance(patch, tuple) and patch[0] == "diff":
        _check_shape(file, name, patch[1][0].shape, shape)
        return Full(patch[1][0].float().reshape(shape))
    raise _other_form(file, name)
