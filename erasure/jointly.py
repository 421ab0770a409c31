"""Several erasures in one, of which none disturbs another: solved for again, or each held to its own names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from json import loads

import torch

from . import inspection
from .artifact import NOTHING, Change, Erasure, ErasureError
from .choosing import READ, TARGETS, beside_those_in_front, choose_texts, reading
from .closed_form.balance import MOST, even
from .closed_form.joining import Filter, filters, in_first, missed
from .closed_form.problem import Problem, Scales
from .combine import (
    can_be_solved_again,
    check_families,
    check_names,
    is_in_weights,
    metadata_of,
    short,
    together,
    undoing,
)
from .families.family import KEYS_AND_VALUES
from .history import erased_from, moves, preserved_on
from .host import attach
from .host.subject import subject
from .instant import Instant, Posed, examined, posed_for, solve_texts
from .parts.delta import DeltaTensors, changing
from .parts.part import Part
from .parts.prompt import PromptTensors
from .phrased import Texts
from .protocols import Clip, Model
from .request import Request, aiming_elsewhere, check_width
from .texts.encoder import Encoder
from .texts.names import Name, is_form_of, lines, spelled

ROUNDS = 4
"""How often trained erasures are weighed by how much of each one's change arrives: without, "red" is left in .58 of its
pictures among four of the toy world, and in .21 with."""
KEEN = 3.0
"""How much more a name counts than others where its key is fitted: what moves it may be another's change as well."""


def solve_jointly(model: Model, clip: Clip, erasures: Sequence[Erasure]) -> Erasure:
    """One erasure for the concepts of several, so that none disturbs another: instant ones are solved for again, with
    the settings of the first; where one was learned, each is held to its own names and kept off what is preserved.

    Raises ErasureError when one acts beside the weights or does not fit the model, or when the model and its CLIP are
    missing.
    """
    check_families(erasures)
    if model is None or clip is None:
        raise ErasureError("Solving jointly needs the model and its CLIP: connect both, or combine by 'sum'.")
    for erasure in erasures:
        attach.check_fit(model, erasure)
    check_names(erasures)
    encode = Encoder(clip, entry=subject(model))
    with torch.inference_mode(False), torch.no_grad():
        check_width(model, encode)
        if not can_be_solved_again(erasures):
            return _held(model, encode, erasures)
        given = loads(erasures[0].metadata.settings)
        settings = Instant(**{**given, "scales": Scales(**given["scales"])})
        request = _request(erasures)
        return examined(
            model, encode, request, solve_texts(model, encode, _texts(model, encode, request, settings), settings)
        )


def _request(erasures: Sequence[Erasure]) -> Request:
    """All names; a target that is now erased itself gives way to the nearest text that is preserved."""
    summed = Erasure(metadata_of(erasures))
    strengths = {name: strength for e in erasures for name, strength in zip(e.names, e.strengths, strict=True)}
    names, warnings = aiming_elsewhere([Name(m.name, m.target, strengths[m.name]) for m in moves(summed)])
    return Request(names, lines(summed.metadata.preserve), warnings=warnings)


def _texts(model: Model, encode: Encoder, request: Request, settings: Instant) -> Texts:
    texts = choose_texts(encode, request, replace(settings, target=TARGETS[0]), erased_from(model), reading(model))
    return beside_those_in_front(texts, preserved_on(model))


# ---------------------------------------------------------------- what was learned


@dataclass(frozen=True)
class Step:
    """A name that moves on: the ``nth`` text that it becomes, ``target``, which is erased ``by`` another erasure than
    its own, ``whose``, and becomes ``last``. Erasures by their places."""

    name: str
    whose: int
    nth: int
    target: str
    by: int
    last: str


def _held(model: Model, encode: Encoder, erasures: Sequence[Erasure]) -> Erasure:
    """Changes that were made apart, each behind a filter for its own names, in one; with them the keys that they have.
    Of several for one name the last is taken. A name whose target another one erases moves on with that."""
    _check_held(model, erasures)
    encode.pools = subject(model).family.pooled_entry(model.model) is not None
    owners = {spelled(name): i for i, e in enumerate(erasures) if e.delta for name in e.names}  # a key alone owns none
    left = [i for i, e in enumerate(erasures) if not e.delta or i in owners.values()]
    own = [[name for name in erasures[i].names if owners.get(spelled(name)) == i] for i in left]
    erasures = [erasures[i] for i in left]
    steps = _steps(erasures, own)
    deltas = [erasure.delta for erasure in erasures]
    joint = _posed(model, encode, _request(erasures), own, steps, deltas)
    held = joint.holding()
    changed = [changing(joint.moved(i, held, deltas)) for i in range(len(erasures))]
    keys = [_keys(joint, i, erasures) for i in range(len(erasures))]
    parts = [
        replace(erasure, parts=(*change, *key)) for erasure, change, key in zip(erasures, changed, keys, strict=True)
    ]
    out = replace(together(parts, [1.0] * len(parts)), metadata=replace(metadata_of(erasures), added=""))
    out = _with_last_targets(encode, out, steps)
    return replace(out, metadata=replace(out.metadata, verdict=inspection.full(model, out).as_json()))


def _check_held(model: Model, erasures: Sequence[Erasure]) -> None:
    """Raises ErasureError for an erasure that nothing can hold to its names."""
    readers = subject(model).weights(KEYS_AND_VALUES)
    for erasure in erasures:
        if not is_in_weights(erasure) or not erasure.delta.keys() <= {*readers}:
            raise ErasureError(
                f"The erasure of '{short(erasure)}' does not act on text in the weights alone, so it cannot be solved "
                "jointly with others: combine by 'sum'."
            )


def _keys(joint: Joint, i: int, erasures: Sequence[Erasure]) -> list[Part]:
    """The key of an erasure, which makes up for all that moves its own names."""
    erasure, out = erasures[i], []
    own = i if erasure.delta else next((j for j, e in enumerate(erasures) if e.names == erasure.recovered), i)
    whole = {} if erasures[own].metadata.parts else erasures[own].delta
    for part in erasure.key:
        if isinstance(part, PromptTensors) and part.turns_back and (part.undoes or whole):
            deltas = [part.undoes or whole if j == own else e.delta for j, e in enumerate(erasures)]
            part = replace(part, undoes=joint.moved(own, joint.holding(keen=own), deltas))
        out.append(part)
    return out


@dataclass(frozen=True)
class Rows:
    """Encodings [n, d]: ``sources`` of each erasure's names; of each step, those that move ``onward`` and what they
    became; and the moment of what is ``preserved`` [d, d], with a ridge."""

    sources: Sequence[torch.Tensor]
    onward: Sequence[tuple[torch.Tensor, ...]]
    preserved: torch.Tensor


Holding = Callable[[int, Mapping[str, Change]], dict[str, Change]]
"""Puts changes behind the filter at a place."""


@dataclass(frozen=True)
class Joint:
    """What is ``posed`` for several erasures, of which each has its ``own`` names: once, and again for every further
    text that a name becomes on its way, ``steps``. ``names``: those of each of these problems. ``changes``: of the
    weights, by each erasure."""

    posed: Sequence[Posed]
    names: Sequence[Sequence[str]]
    own: Sequence[Sequence[str]]
    steps: Sequence[Step]
    changes: Sequence[Mapping[str, Change]]

    def holding(self, keen: int | None = None) -> Holding:
        """The filters: of each erasure, and then of each step. ``keen``: whose names count ``KEEN`` times as much, for
        a key, which is fitted to the weights that read tokens alone."""
        first = self.posed[0]
        of_text = self._filters(self._rows, keen, self._some() if keen is None else ())
        pooled = [posed.pooled for posed in self.posed if posed.pooled is not None and keen is None]
        of_pooled: list[Filter] = []
        if pooled:
            rows = self._rows_of([one.problem for one in pooled])
            of_pooled = [in_first(one, pooled[0].columns.shape[1]) for one in self._filters(rows, None)]

        def held(place: int, changes: Mapping[str, Change]) -> dict[str, Change]:
            texts = {name: of_text[place](change) for name, change in changes.items() if name in first.weights}
            rest = {name: change for name, change in changes.items() if name not in texts and keen is None}
            return {**texts, **{name: of_pooled[place](one) if of_pooled else one for name, one in rest.items()}}

        return held

    def moved(self, i: int, held: Holding, changes: Sequence[Mapping[str, Change]]) -> Mapping[str, Change]:
        """All that moves the names of an erasure: its own change, and those of others that they move on with."""
        parts = [held(i, changes[i])]
        parts += [held(len(self.own) + k, changes[step.by]) for k, step in enumerate(self.steps) if step.whose == i]
        return DeltaTensors.combined([(DeltaTensors(part), 1.0) for part in parts])[0].by_weight

    def _some(self) -> list[str]:
        """Some of the weights that every erasure changes; keys alone change none."""
        changing = [change for change in self.changes if change]
        names = [name for name in self.posed[0].weights if all(name in change for change in changing)]
        return names[:: -(-len(names) // READ)] if names else []

    @cached_property
    def _rows(self) -> Rows:
        return self._rows_of([posed.problem for posed in self.posed])

    def _rows_of(self, problems: Sequence[Problem]) -> Rows:
        scales, moves = Scales(), []
        for problem, names in zip(problems, self.names, strict=True):
            evened = even(problem, scales).moves
            sides = (side.split(evened.counts) for side in (evened.source, evened.target))
            moves.append({spelled(name): pair for name, pair in zip(names, zip(*sides, strict=True), strict=True)})
        none = problems[0].moves.source[:0]
        sources = [torch.cat([none, *(moves[0][spelled(name)][0] for name in names)]) for names in self.own]
        onward = [moves[step.nth][spelled(step.name)] for step in self.steps]
        return Rows(sources, onward, problems[0].holding(scales).preserved(scales))

    def _filters(self, rows: Rows, keen: int | None, some: Sequence[str] = ()) -> list[Filter]:
        """``some``: the weights by which is seen how much of each change arrives."""
        sources, onward = rows.sources, rows.onward
        weights = torch.tensor([KEEN if i == keen else 1.0 for i in range(len(sources))]).double()
        for rest in reversed(range((ROUNDS if some else 0) + 1)):
            roots = [float(weight) ** 0.5 for weight in weights]
            scaled = [root * source for root, source in zip(roots, sources, strict=True)]
            moving = [[roots[s.whose] * side for side in pair] for s, pair in zip(self.steps, onward, strict=True)]
            found = filters(scaled, rows.preserved, Scales().erase, [(source, read) for source, read in moving])
            if rest:
                weights = self._weighed(weights, found, sources, some)
        return found

    def _weighed(
        self, weights: torch.Tensor, held: Sequence[Filter], sources: Sequence[torch.Tensor], some: Sequence[str]
    ) -> torch.Tensor:
        """The weights of the erasures, more for those of which less arrives than of others. Those whose names move on,
        so that they are to do more than alone, stay as they are."""
        alone = [i for i, rows in enumerate(sources) if len(rows) and i not in {step.whose for step in self.steps}]
        if len(alone) < 2:
            return weights
        figures = [
            missed([held[i] for i in alone], [sources[i] for i in alone], [self.changes[i][name] for i in alone])
            for name in some
        ]
        lost, whole = torch.stack(figures).sum(0)
        left, out = (lost / whole).sqrt(), weights.clone()
        if not bool(left.mean() > 0):  # all of each arrives, or a change does nothing at all
            return weights
        own = out[alone] * (left / left.mean()).square()
        out[alone] = (own / own.mean()).clamp(1 / MOST, MOST)
        return out


def _posed(
    model: Model, encode: Encoder, request: Request, own: Sequence[Sequence[str]], steps: Sequence[Step],
    changes: Sequence[Mapping[str, Change]],
) -> Joint:  # fmt: skip
    posed, names = [], []
    for nth in range(1 + max((step.nth for step in steps), default=0)):
        targets = {step.name: step.target for step in steps if step.nth == nth}
        wanted = replace(request, names=[Name(text, targets.get(text)) for text in request.texts])
        texts = _texts(model, encode, wanted, Instant())
        posed.append(posed_for(model, encode, texts, Instant()))
        names.append(texts.names)
    return Joint(posed, names, own, steps, changes)


def _steps(erasures: Sequence[Erasure], own: Sequence[Sequence[str]]) -> list[Step]:
    """How names move on whose targets others of some erasures erase. Raises ErasureError where a way leads back."""
    owner = {name: i for i, names in enumerate(own) for name in names}
    targets = {name: target for e, names in zip(erasures, own, strict=True)
               for name, target in zip(e.names, e.targets, strict=True) if name in names}  # fmt: skip
    out = []
    for name in targets:
        way, place, target = [name], owner[name], targets[name]
        while after := next((o for o in targets if target and owner[o] != place and is_form_of(target, o)), None):
            if after in way:
                raise ErasureError(f"{undoing(erasures)}: make one of them with another target.")
            out.append(Step(name, owner[name], len(way) - 1, target, owner[after], targets[after]))
            way, place, target = [*way, after], owner[after], targets[after]
    return out


def _with_last_targets(encode: Encoder, erasure: Erasure, steps: Sequence[Step]) -> Erasure:
    """An erasure with names that have moved on, as its strings and probes say it."""
    last = {step.name: step.last for step in steps}
    targets = [last.get(name, target) for name, target in zip(erasure.names, erasure.targets, strict=True)]
    probes = {probe.text: probe for probe in inspection.probes_for(encode, list(last), list(last.values()), ())}
    return replace(
        erasure,
        metadata=replace(erasure.metadata, target="\n".join(target or NOTHING for target in targets)),
        probes=tuple(probes.get(probe.text, probe) for probe in erasure.probes),
    )
