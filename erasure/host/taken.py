"""Whether a MODEL's weights really take an erasure's change: how many, how far, and what rounding leaves of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..artifact import Change, ErasureError
from ..families import reads_text
from ..protocols import Model
from .subject import subject
from .weights import (
    Weights,
    ask,
    is_packed,
    kind,
    layer_of,
    leave_nothing_on,
    mode_of,
    patches,
    plain_numbers,
    read,
    shape_of,
    stored_weights,
    with_patches,
)

SAMPLE = 8
"""So many weights are looked at closely."""
WHOLE = 0.9
"""A change of which at least this share is left has arrived."""
LOST = 0.05
"""A change of which no more than this share is left has not."""
DROWNED = 100.0
"""Nor has one that rounding exceeds so many times over: of noise in d directions, a change of rank r meets the share
(r / d) ** .5, which is .1 for 8 of 768."""
QUIET = 3.0
"""Rounding that adds up to so many times the change's own norm does little: it is spread over all directions, and the
change is in a few."""
CALLED = {
    "float8": "fp8", "FP8": "fp8", "MXFP8": "mxfp8", "NVFP4": "nvfp4", "INT8": "int8", "W4A4": "4-bit",
    "float16": "fp16", "bfloat16": "bf16", "float32": "fp32",
}  # fmt: skip
"""Part of the name of a weight's form -> what a user calls it; the last that fits."""
PLAIN = ("", "fp16", "bf16", "fp32", "float64")
"""Forms of weights that are not quantised."""


@dataclass(frozen=True)
class Taken:
    """How an erasure's change of the weights arrives on a MODEL.

    ``changed`` of ``total`` weights are other than before. ``share``: the norm of the change, relative to that of the
    weights. ``left``: how much of the change there still is once it is rounded to the form that the weights are kept
    in (its projection on the change, 1: all of it); ``noise``: the norm of what rounding does beside it, relative to
    that of the change. ``form``: that form, as a user calls it. ``beside``: the weights stay as they are, and the
    change is added while the model draws. ``unseen``: so many of ``changed`` have got the change, and their loader does
    not show what becomes of it. ``of_text``: all of them read text.
    """

    changed: int
    total: int
    share: float
    left: float = 1.0
    noise: float = 0.0
    form: str = ""
    beside: bool = False
    unseen: int = 0
    of_text: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether there is nothing to warn of."""
        return self.changed == self.total and not self.doubt()

    @property
    def is_quantised(self) -> bool:
        """Whether the weights are kept in a form of fewer bits than they are computed with."""
        return self.form not in PLAIN

    @property
    def is_better_beside(self) -> bool:
        """Whether rounding to quantised weights would cost so much that the change had better stay beside them."""
        return self.is_quantised and not self.beside and (self.left < WHOLE or self.noise > QUIET)

    @property
    def is_dropped(self) -> bool:
        """Whether the loader of packed weights does nothing with a change."""
        return self.beside and self.changed == 0 and self.share > 0

    @property
    def is_lost(self) -> bool:
        """Whether the change cannot be seen in any picture."""
        return self.unseen == 0 and (self.changed == 0 or self.left <= LOST or self.noise > DROWNED)

    def sentence(self) -> str:
        """Everything in plain words."""
        noun = "text weights" if self.of_text else "weights"
        first = self._changed()
        if self.changed == 0:
            first = f"None of {self.total} {noun} changed."
        elif self.unseen == self.changed:
            first = f"{self.changed} of {self.total} {noun} have been given the change."
        return " ".join(part for part in (first, self.doubt()) if part)

    def _changed(self) -> str:
        """How many changed and how far; four sentences, so that each can be translated as a whole."""
        by = percent(self.share)
        if self.beside and self.is_quantised:
            if self.of_text:
                return (
                    f"{self.changed} of {self.total} text weights changed, by {by} of their norm (quantised: applied "
                    "beside them)."
                )
            return (
                f"{self.changed} of {self.total} weights changed, by {by} of their norm (quantised: applied beside "
                "them)."
            )
        if self.of_text:
            return f"{self.changed} of {self.total} text weights changed, by {by} of their norm."
        return f"{self.changed} of {self.total} weights changed, by {by} of their norm."

    def doubt(self) -> str:
        """What speaks against relying on it, in a sentence; empty where nothing does."""
        if self.is_dropped:
            return f"The loader of the model's weights ({self.form}) drops the change."
        if self.share and self.left < WHOLE:
            return (
                f"This change is too small for the model's {self.form} weights: only {percent(self.left)} of it is "
                "left after rounding."
            )
        if self.noise > QUIET:
            return (
                f"Rounding to the model's {self.form} weights adds {self.noise:.0f} times as much as the change "
                "itself, for all prompts alike."
            )
        if self.unseen:
            return f"The loader of {self.unseen} of them ({self.form}) does not show whether it adds the change."
        return ""


def percent(share: float) -> str:
    """A share in two digits at most."""
    value = 100 * max(0.0, share)
    if 0 < value < 0.01:
        return "less than 0.01 %"
    return f"{value:.0f} %" if value >= 9.95 or value == 0 else f"{value:.2g} %"


def taken(model: Model, delta: Mapping[str, Change], strength: float = 1.0, beside: bool = False) -> Taken:
    """How a change at a strength arrives on the MODEL that it is put on, which stays as it is and is not loaded.

    ``beside``: it acts in a part of sampling only, so that no weight is rounded. Counts and shares are of a sample of
    every kind of layer. Raises ErasureError for numbers that are not finite, in the change or where it arrives.
    """
    _require_finite(delta)
    weights = Weights(model)
    fitting = [n for n, change in delta.items() if n in weights and _fits(change, weights.shape(n)) and strength]
    pooled = subject(model).family.pooled_entry(model.model)
    of_text = all(reads_text(name) or name == pooled for name in delta)
    arrivals: list[Arrival] = []
    changed, unseen, form = 0.0, 0, ""
    for group in sample(model, fitting):
        looks = [one for name in group.names if (one := look(model, name, delta[name], strength, beside)) is not None]
        arrivals += looks
        if looks:
            changed += group.count * sum(one.real > 0 for one in looks) / len(looks)
        else:
            changed, unseen, form = changed + group.count, unseen + group.count, group.form
    if not arrivals:
        return Taken(round(changed), len(delta), 0.0, form=form, beside=bool(unseen), unseen=unseen, of_text=of_text)
    wanted, kept, real, norm = (sum(getattr(one, f) for one in arrivals) for f in ("wanted", "kept", "real", "norm"))
    if not wanted:  # a change of zeros
        return Taken(0, len(delta), 0.0, of_text=of_text)
    worst = min(arrivals, key=lambda one: one.kept / one.wanted - one.real / one.wanted / 1e6)
    left = kept / wanted
    return Taken(
        changed=round(changed), total=len(delta), share=math.sqrt(wanted / max(norm, 1e-30)), left=left,
        noise=math.sqrt(max(0.0, real - left * kept) / wanted), form=form or called(worst.form),
        beside=all(one.beside for one in arrivals), unseen=unseen, of_text=of_text,
    )  # fmt: skip


def require_taken(of: Taken) -> None:
    """Raises ErasureError for a change that cannot be seen in any picture."""
    if of.changed == 0 and of.share == 0:
        raise ErasureError(
            f"This erasure changes none of the {of.total} weights that it is for on the connected model: make it anew, "
            "for more steps or with another target, and connect the model it was made for."
        )
    if of.is_dropped:
        raise ErasureError(
            f"The loader of the connected model's weights ({of.form}) drops changes of them, so that nothing would be "
            "erased: load the model with another loader, or an unpacked checkpoint of it."
        )
    if of.is_lost:
        raise ErasureError(
            f"This change is too small for the model's {of.form} weights, and rounding leaves nothing of it: raise the "
            "strength, or load the model in a higher precision."
        )


# ---------------------------------------------------------------- a few weights, closely


@dataclass(frozen=True)
class Group:
    """Weights of one kind of layer: some of their ``names``, the ``count`` of all, and the form that they have."""

    names: Sequence[str]
    count: int
    form: str


def sample(model: Model, names: Sequence[str]) -> list[Group]:
    """Some weights of every kind of layer, ``SAMPLE`` in all where there are not more kinds."""
    stored = stored_weights(model)
    kinds: dict[tuple, list[str]] = {}
    for name in names:
        kinds.setdefault((type(layer_of(model, name)[0]), kind(stored[name])), []).append(name)
    each = max(1, SAMPLE // max(1, len(kinds)))
    return [Group(group[:: -(-len(group) // each)], len(group), form) for (_, form), group in kinds.items()]


@dataclass(frozen=True)
class Arrival:
    """One weight: squared norms of the change that is ``wanted``, of the ``real`` one and of the weight (``norm``);
    ``kept`` is the inner product of the first two."""

    wanted: float
    real: float
    kept: float
    norm: float
    form: str
    beside: bool


def look(model: Model, name: str, change: Change, strength: float, beside: bool) -> Arrival | None:
    """How the change of one weight arrives; None where its loader does not show it."""
    wanted = change.dense().double() * strength
    stored = stored_weights(model)[name]
    own = model.patches.get(name, [])
    more = [*own, (strength, patches({name: change})[name], 1.0, None, None)]
    as_loaded = _packed if is_packed(stored) else with_patches
    try:
        before = as_loaded(model, name, stored, own)
        after = before + wanted.to(before) if beside else as_loaded(model, name, stored, more)
    except ErasureError:  # its layer cannot be asked
        return None
    if not torch.isfinite(after).all():
        raise ErasureError(
            f"With this erasure some of the model's weights ({name}) are no longer numbers: lower the strength."
        )
    wanted = wanted.to(before.device)
    real = after.double() - before.double()
    sums = (wanted.square(), real.square(), real * wanted, before.double().square())
    w, r, k, n = (float(s.sum()) for s in sums)
    return Arrival(w, r, k, n, kind(stored), beside or is_packed(stored))


def _packed(model: Model, name: str, stored: torch.Tensor, patches: list) -> torch.Tensor:
    """A packed weight as its layer computes with it once its loader's patcher has put patches on it, float32."""
    if not patches:
        return read(model, name, stored).float()
    leave_nothing_on(model)
    patcher = model.clone()
    patcher.patches = {name: patches}
    with mode_of(model.model):
        try:
            patcher.patch_weight_to_device(name, plain_numbers(stored).device)
            return ask(layer_of(model, name)[0], name, kind(stored), shape_of(model, name, stored))
        finally:
            patcher.unpatch_model(patcher.offload_device)


def _fits(change: Change, shape: torch.Size) -> bool:
    """Whether a change is of a weight's shape and not zero; what is of another shape the host leaves out."""
    tensors = change.tensors()
    own = (len(tensors["up"]), tensors["down"].shape[1]) if "up" in tensors else tensors["full"].shape
    return tuple(own) == tuple(shape) and all(bool(tensor.any()) for tensor in tensors.values())


def _require_finite(delta: Mapping[str, Change]) -> None:
    for name, change in delta.items():
        if not all(bool(torch.isfinite(tensor).all()) for tensor in change.tensors().values()):
            raise ErasureError(
                f"This erasure's change of {name} contains numbers that are not finite: make or download it again."
            )


def called(form: str) -> str:
    """What a user calls the form of a weight."""
    names = [name for part, name in CALLED.items() if part in form]
    return names[-1] if names else form
