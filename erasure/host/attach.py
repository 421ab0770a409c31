"""Putting an erasure onto a host MODEL, and taking part in its runs.

A part that is no change of weights joins a run late: an ``OUTER_SAMPLE`` wrapper has it add to that run's own
options, so it acts after every other patch, wherever its node stands in the graph, and nothing stays behind.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from comfy.patcher_extension import WrappersMP

from ..artifact import Change, Erasure, ErasureError, identity_of
from ..families.family import Family
from ..parts.branch import Branch
from ..parts.delta import add
from ..parts.part import Part
from ..parts.prompt import PromptTensors
from ..parts.turning import turn_back
from ..protocols import Model
from .beside import patcher_of
from .fingerprint import of_one_checkpoint, parse_fingerprint
from .subject import subject
from .taken import Taken, require_taken, taken
from .weights import asks_functions, effective_weights, kind, layer_of, patches

KEY, KEYS = "concept_erasure", "concept_erasure_keys"
log = logging.getLogger(KEY)
Warn = Callable[[str], None]
"""Takes a sentence for the user, once a run is on its way."""


@dataclass(frozen=True)
class Window:
    """The part of sampling in which something acts, as shares of it: 0 is the first step, 1 the last."""

    start: float
    end: float

    @classmethod
    def of(cls, start_percent: float, end_percent: float) -> Window | None:
        """None when that is all of it."""
        return None if start_percent <= 0 and end_percent >= 1 else cls(start_percent, end_percent)

    def levels(self, sampling) -> Levels:
        """The same as noise levels, by the ``model_sampling`` of the model that runs: a node behind ours may have
        changed it."""
        low = 0.0 if self.end >= 1 else float(sampling.percent_to_sigma(self.end))
        return Levels(low, float(sampling.percent_to_sigma(self.start)))


@dataclass(frozen=True)
class Levels:
    """Noise levels at which something acts: ``low <= sigma <= high``."""

    low: float
    high: float

    def __contains__(self, sigma: float) -> bool:
        return self.low <= sigma <= self.high


class Active:
    """Whether a part acts in a call, by its noise level; None for all ``levels``."""

    def __init__(self, levels: Levels | None):
        self.levels, self._sigmas, self._is = levels, torch.tensor(()), True

    def __call__(self, options: dict) -> bool:
        sigmas = options.get("sigmas")
        if self.levels is not None and sigmas is not None and sigmas is not self._sigmas:
            self._sigmas, self._is = sigmas, float(sigmas.flatten()[0]) in self.levels
        return self._is


@dataclass(frozen=True)
class Attachment:
    """A part on a MODEL that joins its runs: an ``OUTER_SAMPLE`` wrapper without state."""

    part: Part
    strength: float
    window: Window | None
    warn: Warn = log.warning

    def join(self, options: dict, family: Family, sampling) -> None:
        """Has the part join a run with these transformer options, on a network of a family."""
        levels = None if self.window is None else self.window.levels(sampling)
        self.part.join(options, family, self.strength, Active(levels))

    def __call__(self, executor, *args, **kwargs):
        guider = executor.class_obj
        options = guider.model_options.setdefault("transformer_options", {})
        model = guider.model_patcher
        self.join(options, subject(model).family, model.get_model_object("model_sampling"))
        if options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {}).pop("torch.compile", None):
            self.warn("The erasure joins this run, which is not compiled: a compiled model would not see it.")
        return executor(*args, **kwargs)


def attachments(model: Model) -> list[Attachment]:
    """The parts already on a MODEL that join its runs, in order."""
    return list(model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY))


def is_windowed(model: Model) -> bool:
    """Whether an erasure on a MODEL acts in a part of sampling only."""
    windows = [switch.window for switch in switches(model)] + [attachment.window for attachment in attachments(model)]
    return any(window is not None for window in windows)


def is_beside(model: Model) -> bool:
    """Whether the change of an erasure on a MODEL is beside its quantised weights, in all of sampling."""
    return any(switch.window is None for switch in switches(model))


def switches(model: Model) -> list[Switch]:
    """What adds changes beside the weights of a MODEL while it draws."""
    return list(model.get_wrappers(WrappersMP.APPLY_MODEL, KEY))


def acts_while_drawing(erasure: Erasure, start_percent: float, end_percent: float) -> bool:
    """Whether a part of an erasure is no change of the weights, which is all that the host saves and merges."""
    return bool(erasure.beside) or Window.of(start_percent, end_percent) is not None


@dataclass(frozen=True)
class Applied:
    """An erasure on a MODEL: how strongly it acts, in which part of sampling, and how its change arrived."""

    erasure: Erasure
    strength: float
    window: Window | None
    arrival: Taken | None = None


def applied(model: Model) -> tuple[Applied, ...]:
    """The erasures on a MODEL, in the order of its nodes."""
    return model.get_attachment(KEY) or ()


def changes_in_front(model: Model, names: Collection[str]) -> dict[str, Change]:
    """What the erasures on a MODEL change of some of its weights in all of sampling; none for what they leave alone."""
    summands: dict[str, list[tuple[Change, float]]] = {}
    for one in applied(model):
        for name, change in one.erasure.delta.items() if one.window is None else ():
            if name in names:
                summands.setdefault(name, []).append((change, one.strength))
    return {name: add(changes) for name, changes in summands.items()}


def weights_now(model: Model, names: Collection[str]) -> dict[str, torch.Tensor]:
    """Named weights [out, in] of a MODEL as a run computes with them, float32: with its patches, and with what erasures
    add beside quantised weights in all of sampling. Raises ErasureError for packed weights."""
    weights = effective_weights(model, names)
    for switch in switches(model):
        for name, change in switch.changes.items() if switch.window is None else ():
            if name in weights:
                weights[name] = weights[name] + change.strength * change.change.dense().to(weights[name])
    return weights


def carrier(model: Model, erasure: Erasure) -> Applied | None:
    """The erasure on a MODEL that a key is for: its own, by itself or as a part of a combined one. A key without its
    erasure is for what was applied with the same key, or else for what erases the same names, best in the same way."""
    there = applied(model)
    names = {*erasure.recovered}
    if erasure.erasers and names <= {*erasure.names}:
        known = erasure.identity()
        found = [one for one in there if known in (one.erasure.identity(), *one.erasure.metadata.parts.splitlines())]
    else:
        keys = {*erasure.identities_of_keys()}
        found = [one for one in there if not keys.isdisjoint(one.erasure.identities_of_keys())]
        named = [one for one in there if one.erasure.erasers and names <= {*one.erasure.names}]
        found += sorted(named, key=lambda one: one.erasure.metadata.method != erasure.metadata.method)
    return found[0] if found else None


def is_twice(model: Model, erasure: Erasure) -> bool:
    """Whether an erasure is on a MODEL already, or one that it is combined from."""
    there = {known for one in applied(model) for known in (one.erasure.identity(), *one.erasure.metadata.parts.split())}
    return not there.isdisjoint((erasure.identity(), *erasure.metadata.parts.split()))


def keys_on(model: Model) -> tuple[Erasure, ...]:
    """The erasures whose keys are on a MODEL."""
    return model.get_attachment(KEYS) or ()


def arrival_on(model: Model) -> Taken | None:
    """How the change of the last erasure that was put on a MODEL arrived there; None without one."""
    return applied(model)[-1].arrival if applied(model) else None


def erase(
    model: Model, erasure: Erasure, strength: float = 1.0, start_percent: float = 0.0, end_percent: float = 1.0,
    warn: Warn = log.warning,
) -> Model:  # fmt: skip
    """The model with the parts of the erasure that erase on it; the same object when strength is 0.

    ``warn`` is told what goes otherwise than expected while the model runs. Raises ErasureError when the erasure does
    not fit the model or holds nothing that erases.
    """
    if strength == 0 or start_percent >= end_percent:
        return model
    check_fit(model, erasure)
    if not erasure.erasers:
        raise ErasureError("This erasure holds only a key and erases nothing: connect it to Recover Concept instead.")
    window, arrival = Window.of(start_percent, end_percent), None
    out = _with_parts(model, erasure.erasers, strength, window, warn)
    if erasure.delta:
        beside = len(switches(out)) > len(switches(model))
        arrival = taken(model, erasure.delta, strength, beside)
        if not erasure.beside:
            require_taken(arrival)
    out.set_attachments(KEY, (*applied(model), Applied(erasure, strength, window, arrival)))
    return out


def recover(model: Model, erasure: Erasure, strength: float = 1.0, warn: Warn = log.warning) -> Model:
    """The erased model with the erasure's key on it, which brings the concept back; the same object at strength 0.

    What a key adds to a text was solved for with its own erasure on the model, and for that alone. Where the model has
    more on it, or less of it, it is solved for again: so that a text is read as without that erasure. Keys that are on
    the model already are left out.

    Raises ErasureError when the erasure has no key or does not fit the model.
    """
    if strength == 0:
        return model
    check_fit(model, erasure)
    if not erasure.key:
        raise ErasureError(
            "This erasure has no key: a prompt-only or closed-form erasure is undone by taking its Apply Erasure node "
            "out, and a key saved apart must be loaded with Load Erasure."
        )
    there = {known for one in keys_on(model) for known in one.identities_of_keys()}
    new = [part for part, known in zip(erasure.key, erasure.identities_of_keys(), strict=True) if known not in there]
    if not new:
        raise ErasureError(
            f"The key for '{', '.join(erasure.recovered)}' is on this model already: take one of the two Recover "
            "Concept nodes out."
        )
    out = _with_parts(model, [_turning_back(model, part, erasure) for part in new], strength, None, warn)
    out.set_attachments(KEYS, (*keys_on(model), erasure.key_only()))
    return out


def _turning_back(model: Model, part: Part, erasure: Erasure) -> Part:
    """A part of an erasure's key as it is for what is on a MODEL where that erasure begins to act."""
    own = carrier(model, erasure)
    if own is None or not isinstance(part, PromptTensors) or not part.turns_back:
        return part
    on = [one for one in applied(model) if one.erasure.delta and _begins_beside(one.window, own.window)]
    is_made_for = len(on) == 1 and on[0] is own and own.strength == 1 and not own.erasure.metadata.parts
    changes = _undone(part, erasure, own.erasure)
    here = subject(model)
    raw = here.family.raw(here.model.model, torch.ones(1, here.width))
    if is_made_for or not changes or raw is None:
        return part
    try:
        weights = weights_now(model, [name for name in here.entry if name in changes])
    except ErasureError:  # packed weights, which nothing can be solved for
        return part
    with torch.inference_mode(False), torch.no_grad():
        for one in on:
            for name in weights.keys() & one.erasure.delta.keys() if one.window is not None else ():
                weights[name] = weights[name] + one.strength * one.erasure.delta[name].dense().to(weights[name])
        turn = turn_back(((weight, changes[name]) for name, weight in weights.items()), raw[0])
    return replace(part, turn=replace(turn, up=own.strength * turn.up))


def _undone(part: PromptTensors, erasure: Erasure, carrier: Erasure) -> Mapping[str, Change]:
    """The changes that a key makes up for: as the erasure on the MODEL says it of the same key, then as its own does;
    none where they are added up with others'."""
    known = dict(zip(carrier.identities_of_keys(), carrier.key, strict=True))
    there = known.get(identity_of(part))
    if isinstance(there, PromptTensors) and there.undoes:
        return there.undoes
    return part.undoes or next((e.delta for e in (erasure, carrier) if e.delta and not e.metadata.parts), {})


def _begins_beside(window: Window | None, own: Window | None) -> bool:
    """Whether something acts at the step at which another begins to."""
    start = 0.0 if own is None else own.start
    return window is None or window.start <= start < window.end


def with_part(model: Model, part: Part) -> Model:
    """A clone of the model with one part on it, as learned."""
    return _with_parts(model, [part], 1.0, None)


def _with_parts(
    model: Model, parts: Sequence[Part], strength: float, window: Window | None, warn: Warn = log.warning
) -> Model:
    holder = Holder(model.clone(), strength, window, warn)
    for part in parts:
        part.attach(holder)
    return holder.model


@dataclass(frozen=True)
class Holder:
    """A MODEL that is given the parts of an erasure; see ``parts.part.Holder`` for what a part can ask of it."""

    model: Model
    strength: float
    window: Window | None
    warn: Warn

    def require_blocks(self, blocks: str) -> None:
        subject(self.model).require_blocks(blocks)

    def change_weights(self, changes: Mapping[str, Change]) -> None:
        _change_weights(self.model, changes, self.strength, self.window)

    def with_network(self, branch: Branch) -> Branch:
        if branch.network is not None:
            return branch
        patcher = patcher_of(self.model, branch)
        self.model.set_additional_models(KEY, [*self.model.get_additional_models_with_key(KEY), patcher])
        return replace(branch, network=patcher.model)

    def join_runs(self, part: Part) -> None:
        attachment = Attachment(part, self.strength, self.window, self.warn)
        self.model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, attachment)


def check_fit(model: Model, erasure: Erasure) -> None:
    """Raises ErasureError when the erasure was made for another family or width; see ``doubts`` for the rest."""
    here, made_for = subject(model), erasure.metadata
    if made_for.context_dim and made_for.context_dim != str(here.width):
        raise ErasureError(
            f"This erasure was made for a {made_for.family} model (text width {made_for.context_dim}), and the "
            f"connected model is {here.kind} (text width {here.width}): connect the model it was made for."
        )
    saved = parse_fingerprint(made_for.fingerprint)
    if saved is not None and saved.shapes != here.fingerprint.shapes:
        raise ErasureError(
            f"This erasure was made for a {made_for.family} model whose cross-attention layers have other shapes than "
            f"those of the connected {here.kind} model: connect the model it was made for."
        )


def doubts(model: Model, erasure: Erasure) -> list[str]:
    """Sentences on why an erasure that fits a MODEL may do less there than where it was made."""
    saved, here = parse_fingerprint(erasure.metadata.fingerprint), subject(model).fingerprint
    if saved is None or of_one_checkpoint(saved, here):
        return []
    return [f"This erasure was made on another {here.family} checkpoint and may erase less here."]


def missing(model: Model, erasure: Erasure) -> list[str]:
    """A sentence where a key comes to a MODEL that does not carry its erasure."""
    if carrier(model, erasure) is not None:
        return []
    return [
        "The connected model does not carry this erasure, so there is nothing to recover: connect the output of Apply "
        "Erasure."
    ]


def _change_weights(model: Model, delta: Mapping[str, Change], strength: float, window: Window | None) -> None:
    """Puts a change on a MODEL: into the weights, or beside them in a window, and where they are quantised so coarsely
    that rounding would cost too much."""
    known = model.model.state_dict()
    missing = [name for name in delta if name not in known]
    if missing:
        raise ErasureError(
            f"This erasure changes {len(missing)} weights that the connected model does not have ({missing[0]}, …): "
            "connect the model it was made for."
        )
    beside = window is not None or taken(model, delta, strength).is_better_beside
    refusing = _add_beside(model, delta, strength, window) if beside else []
    if window is not None and refusing:
        layer, _ = layer_of(model, refusing[0])
        raise ErasureError(
            f"The weight {refusing[0]} is in a layer ({type(layer).__name__}) that cannot be changed for a part of "
            "sampling only: set start_percent to 0 and end_percent to 1."
        )
    if not beside or refusing:
        model.add_patches(patches(delta), strength)


def _add_beside(model: Model, delta: Mapping[str, Change], strength: float, window: Window | None) -> list[str]:
    """Adds changes to what layers compute, without touching their weights; names those whose layers do not allow it,
    and then adds none."""
    changes = {name: SwitchedChange(change, strength) for name, change in delta.items()}
    answers: dict[tuple, bool] = {}
    asking, refusing = [], []
    for name in changes:
        layer, part = layer_of(model, name)
        like = type(layer), kind(getattr(layer, part)), part
        if like not in answers:
            answers[like] = asks_functions(layer, part)
        if answers[like]:
            asking.append(name)
        elif not adds(layer, part):
            refusing.append(name)
    if not refusing:
        for name in asking:
            model.add_weight_wrapper(name, changes[name])
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, Switch(window, changes))
    return refusing


class Switch:
    """Switches changes of weights on for each call of the model whose noise level lies in the window; None for all.

    A layer that does not have its change among its weight functions gets it added to its answer, for the one call:
    those of other loaders ignore such functions, and the host's dynamic loader gives small layers none.
    """

    def __init__(self, window: Window | None, changes: Mapping[str, SwitchedChange]):
        self.window, self.changes = window, changes

    def __call__(self, executor, x, t, *args, **kwargs):
        network = executor.class_obj
        if self.window is not None and float(t.flatten()[0]) not in self.window.levels(network.model_sampling):
            return executor(x, t, *args, **kwargs)
        hooks = []
        try:
            for name, change in self.changes.items():
                change.on = True
                path, _, part = name.rpartition(".")
                layer = network.get_submodule(path)
                if change not in getattr(layer, f"{part}_function", ()):
                    hooks.append(layer.register_forward_hook(change.answer_of(part)))
            return executor(x, t, *args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
            for change in self.changes.values():
                change.on = False


class SwitchedChange:
    """A change of a weight that acts while it is switched ``on``.

    As a weight function of the host it gives the weight with the change; beside the layer, what the change adds to the
    layer's answer.
    """

    def __init__(self, change: Change, strength: float):
        self.change, self.strength, self.on = change, strength, False

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        if not self.on:
            return weight
        dense = self.change.dense().to(weight.device) * self.strength
        return (weight.float() + dense).to(weight.dtype)

    def answer_of(self, part: str) -> Callable:
        """A forward hook for the layer whose ``part`` (weight or bias) is changed."""

        def add(layer, inputs, answer):
            x = inputs[0].float()
            dense = self.change.dense().to(x.device) * self.strength
            if part == "bias":
                more = dense.view(-1, *[1] * (answer.ndim - 2)) if hasattr(layer, "_conv_forward") else dense
            elif hasattr(layer, "_conv_forward"):
                more = layer._conv_forward(x, dense, None)
            else:
                more = torch.nn.functional.linear(x, dense)
            return (answer.float() + more).to(answer.dtype)

        return add


def adds(layer: torch.nn.Module, part: str) -> bool:
    """Whether a layer is of a kind whose answer is a sum over its weight, so that a change can be added beside it."""
    return part in ("weight", "bias") and (hasattr(layer, "in_features") or hasattr(layer, "_conv_forward"))
