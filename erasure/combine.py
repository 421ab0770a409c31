"""Several erasures in one: their changes summed, solved anew together, or weighed for a prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from json import loads

import torch
import torch.nn.functional as F

from . import inspection
from .artifact import NOTHING, Change, Erasure, ErasureError, Metadata
from .choosing import TARGETS, beside_those_in_front, choose_texts, reading
from .closed_form import CLOSED_FORM
from .closed_form.balance import even
from .closed_form.joining import Filter, filters, in_first
from .closed_form.problem import Problem, Scales
from .families.family import KEYS_AND_VALUES
from .gated import is_gated
from .history import erased_from, moves, preserved_on, trained_in
from .host import attach
from .host.fingerprint import of_one_checkpoint, parse_fingerprint
from .host.subject import subject
from .instant import Instant, examined, posed_for, solve_texts
from .parts import PARTS
from .parts.delta import DeltaTensors, changing
from .parts.prompt import PromptTensors
from .phrased import Texts
from .protocols import Clip, Model
from .request import Request, aiming_elsewhere, check_width
from .texts.encoder import Encoder
from .texts.names import Name, is_form_of, lines, others, plain, spelled
from .verdict import Verdict, read_verdict


def check_families(erasures: Sequence[Erasure]) -> None:
    """Raises ErasureError when there are fewer than two, or two that cannot be on one model."""
    if len(erasures) < 2:
        raise ErasureError("There is one erasure to combine, and it takes two: connect another one.")
    for first, second in combinations(erasures, 2):
        a, b = first.metadata, second.metadata
        prints = [parse_fingerprint(m.fingerprint) for m in (a, b)]
        shapes = [None if one is None else one.shapes for one in prints]
        if a.context_dim != b.context_dim or (None not in shapes and shapes[0] != shapes[1]):
            raise ErasureError(
                f"The erasure of '{_short(first)}' was made for a {a.family} model and that of '{_short(second)}' for "
                f"a {b.family} model: combine only erasures of one family."
            )
        if first.identity() == second.identity() and first.erasers:
            raise ErasureError(f"The erasure of '{_short(first)}' is connected twice: take one of the two off.")


def conflicts(erasures: Sequence[Erasure], jointly: bool = False) -> list[str]:
    """Sentences on what does not go well together, though it can be combined; ``jointly``: solved jointly."""
    sentences = []
    erasing = _erasing(erasures)
    counts = Counter(spelled(name) for erasure in erasing for name in erasure.names)
    for name, n in counts.items():
        if n > 1 and jointly:
            sentences.append(f"'{name}' is erased by {n} of them, and the last of these is taken.")
        elif n > 1:
            sentences.append(f"'{name}' is erased {n} times over, which can erase more.")
    for erasure in () if jointly else erasing:
        preserve = lines(erasure.metadata.preserve)
        free = others(preserve, counts)
        sentences += [f"'{word}' is erased, and the erasure of '{_short(erasure)}' was made to preserve it."
                      for word in sorted(set(preserve) - set(free))]  # fmt: skip
    prints = [made_on for e in erasures if (made_on := parse_fingerprint(e.metadata.fingerprint)) is not None]
    if not all(of_one_checkpoint(a, b) for a, b in combinations(prints, 2)):
        sentences.append("They were made on different checkpoints and may work less well together.")
    return sentences


def _erasing(erasures: Sequence[Erasure]) -> Sequence[Erasure]:
    """Those that erase, which a key alone does not; all of them where none does."""
    return [erasure for erasure in erasures if erasure.erasers] or erasures


def undoing(erasures: Sequence[Erasure]) -> str | None:
    """A sentence on erasures of which one brings back what another erases, because its target is that concept."""
    for one, other in permutations([erasure for erasure in erasures if erasure.erasers], 2):
        for move in moves(one):
            back = next((name for name in other.names if move.target and is_form_of(move.target, name)), None)
            if back is not None:
                return (
                    f"'{plain(move.name)}' becomes '{plain(move.target)}', which the other erasure erases: added up, "
                    f"prompts for '{plain(move.name)}' would draw '{plain(back)}' again"
                )
    return None


def check_undoing(erasures: Sequence[Erasure]) -> None:
    """Raises ErasureError for erasures of which one brings back what another erases."""
    back = undoing(erasures)
    if back and can_be_solved_jointly(erasures):
        raise ErasureError(
            f"{back}: choose 'solve jointly' with the model and its CLIP connected, or make one of them with another "
            "target."
        )
    if back:
        raise ErasureError(f"{back}: make one of them with another target.")


def can_be_solved_jointly(erasures: Sequence[Erasure]) -> bool:
    """Whether a joint solve can be tried, by what the erasures are; some then turn out to change other weights."""
    return can_be_solved_again(erasures) or all(map(_is_in_weights, erasures))


def can_be_solved_again(erasures: Sequence[Erasure]) -> bool:
    """Whether all of them were solved for in closed form, by settings that their files still hold, in all prompts and
    in the same place."""
    return len({*map(is_gated, erasures)}) == 1 and all(
        e.metadata.method in CLOSED_FORM and e.metadata.settings and not e.metadata.only_in for e in erasures
    )


@torch.inference_mode(False)  # nothing can be learned through what is made in it
def combine(erasures: Sequence[Erasure], weights: Sequence[float] | None = None) -> Erasure:
    """The parts of each kind together, as they combine, each with its erasure's weight (1 for None): changes of weights
    added exactly, prompts side by side. Raises ErasureError."""
    check_families(erasures)
    check_undoing(erasures)
    return replace(_together(erasures, weights or [1.0] * len(erasures)), metadata=_metadata(erasures))


def _together(erasures: Sequence[Erasure], weights: Sequence[float]) -> Erasure:
    """The parts and probes of several erasures in one."""
    keyed = _with_own_keys(erasures)
    weighed = [(part, weight) for erasure, weight in zip(keyed, weights, strict=True) for part in erasure.parts]
    parts = [
        part
        for kind in PARTS.values()
        if (of_kind := [(part, weight) for part, weight in weighed if isinstance(part, kind)])
        for part in kind.combined(of_kind)
    ]
    known = [probe for erasure in _erasing(erasures) for probe in erasure.probes]
    known.sort(key=lambda probe: probe.goal is not None)  # what one of them erases is erased
    probes = {probe.text: probe for probe in known}
    moving = [probe for probe in probes.values() if probe.goal is not None]
    staying = [probe for probe in probes.values() if probe.goal is None]
    return Erasure(Metadata(), tuple(parts), (*moving, *staying[: inspection.MOST_OTHERS]))


def _with_own_keys(erasures: Sequence[Erasure]) -> list[Erasure]:
    """Each erasure with keys that know which changes of the weights they are for, and each key once."""
    seen: set[str] = set()
    out = {}
    for i, erasure in sorted(enumerate(erasures), key=lambda each: not each[1].erasers):  # a key apart knows least
        changes = _changes_for_key(erasure, erasures)
        known = dict(zip(map(id, erasure.key), erasure.identities_of_keys(), strict=True))
        parts = [
            replace(part, undoes=part.undoes or changes)
            if isinstance(part, PromptTensors) and part.turns_back
            else part
            for part in erasure.parts
            if known.get(id(part)) not in seen
        ]
        seen |= {*known.values()}
        out[i] = replace(erasure, parts=tuple(parts))
    return [out[i] for i in range(len(erasures))]


def _changes_for_key(erasure: Erasure, erasures: Sequence[Erasure]) -> Mapping[str, Change]:
    """The changes of the weights that the key of an erasure makes up for: its own; of a key apart, those of the one
    that erases the same names. None where they are added up with others'."""
    own = [erasure] if erasure.erasers else [one for one in erasures if one.names == erasure.recovered]
    return next((one.delta for one in own if one.delta and not one.metadata.parts), {})


def _metadata(erasures: Sequence[Erasure]) -> Metadata:
    erasing = _erasing(erasures)
    first = erasing[0].metadata
    targets = {spelled(move.name): move for erasure in erasing for move in moves(erasure)}
    preserve = [word for e in erasing for word in lines(e.metadata.preserve)]
    preserve = others(preserve, [move.name for move in targets.values()])
    recovered = {spelled(name): name for e in erasures for name in e.recovered}
    return replace(
        first,
        method=" + ".join(dict.fromkeys(e.metadata.method for e in erasures)),
        concept="\n".join(move.name for move in targets.values()),
        target="\n".join(move.target or NOTHING for move in targets.values()),
        preserve="\n".join(preserve),
        role=" + ".join(dict.fromkeys(e.metadata.role for e in erasures if e.metadata.role)),
        parts="\n".join(part for e in erasures if e.erasers for part in (*lines(e.metadata.parts), e.identity())),
        doubts=Verdict().plus(*(f for e in erasing for f in read_verdict(e.metadata.doubts).findings)).as_json(),
        recovers="\n".join(recovered.values()) if recovered.keys() != targets.keys() else "",
        unknown="\n".join(dict.fromkeys(name for e in erasing for name in lines(e.metadata.unknown))),
        only_in="\n".join(dict.fromkeys(text for e in erasing for text in lines(e.metadata.only_in))),
        added=str(sum(map(trained_in, erasing))),
        strengths="", steps="", loss="", seed="", gate_gap="", blocks="", tokens="", settings="", verdict="", notes="",
    )  # fmt: skip


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
    _check_names(erasures)
    here = subject(model)
    encode = Encoder(clip, entry=here)
    with torch.inference_mode(False), torch.no_grad():
        check_width(model, encode)
        if not can_be_solved_again(erasures):
            return _joined(model, encode, erasures)
        given = loads(erasures[0].metadata.settings)
        settings = Instant(**{**given, "scales": Scales(**given["scales"])})
        request = _joint_request(erasures)
        texts = _joint_texts(model, encode, request, settings)
        return examined(model, encode, request, solve_texts(model, encode, texts, settings))


def _check_names(erasures: Sequence[Erasure]) -> None:
    """Raises ErasureError for an erasure that does not say what it erases."""
    if not all(erasure.names for erasure in erasures):
        raise ErasureError(
            "One of the erasures does not say which concept it erases, which this way of combining needs: combine by "
            "'sum'."
        )


def _joint_texts(model: Model, encode: Encoder, request: Request, settings: Instant) -> Texts:
    texts = choose_texts(encode, request, replace(settings, target=TARGETS[0]), erased_from(model), reading(model))
    return beside_those_in_front(texts, preserved_on(model))


def _joined(model: Model, encode: Encoder, erasures: Sequence[Erasure]) -> Erasure:
    """Changes that were made apart, each behind a filter for its own names, in one; with them the keys that they have.
    Of several for one name the last is taken. A name whose target another one erases moves on with that."""
    here = subject(model)
    readers, encode.pools = here.weights(KEYS_AND_VALUES), here.family.pooled_entry(model.model) is not None
    for erasure in erasures:
        if not _is_in_weights(erasure) or not erasure.delta.keys() <= {*readers}:
            raise ErasureError(
                f"The erasure of '{_short(erasure)}' does not act on text in the weights alone, so it cannot be solved "
                "jointly with others: combine by 'sum'."
            )
    owners = {spelled(name): i for i, e in enumerate(erasures) if e.delta for name in e.names}  # a key alone owns none
    left = [i for i, e in enumerate(erasures) if not e.delta or i in owners.values()]
    held = [erasures[i] for i in left]
    own = [[name for name in erasures[i].names if owners.get(spelled(name)) == i] for i in left]
    passed_on = _passed_on(held, own)
    request = _joint_request(held)
    longest = max(map(len, passed_on.values()), default=0)
    posed, names = [], []
    for step in range(max(longest, 1)):
        aims = {name: onward[step].target for name, onward in passed_on.items() if step < len(onward)}
        wanted = replace(request, names=[Name(text, aims.get(text)) for text in request.texts])
        texts = _joint_texts(model, encode, wanted, Instant())
        posed.append(posed_for(model, encode, texts, Instant()))
        names.append(texts.names)
    steps = [
        (owner, name, step, onward.by)
        for owner, some in enumerate(own)
        for name in some
        for step, onward in enumerate(passed_on.get(name, ()))
    ]
    of_text = _filters([one.problem for one in posed], names, own, steps)
    first, of_pooled = posed[0], None
    if first.pooled is not None:
        of_pooled = _filters([one.pooled.problem for one in posed if one.pooled is not None], names, own, steps)
    filtered = []
    for i, erasure in enumerate(held):

        def hold(changes: Mapping[str, Change], place: int) -> dict[str, Change]:
            return {
                name: of_text[place](change)
                if name in first.weights or of_pooled is None or first.pooled is None
                else in_first(of_pooled[place], first.pooled.columns.shape[1])(change)
                for name, change in changes.items()
            }

        moved = [hold(erasure.delta, i)]
        moved += [hold(held[by].delta, len(held) + k) for k, (owner, *_, by) in enumerate(steps) if owner == i]
        change = DeltaTensors.combined([(DeltaTensors(one), 1.0) for one in moved])[0].by_weight
        keys = [
            replace(key, undoes=hold(key.undoes, i)) if isinstance(key, PromptTensors) else key for key in erasure.key
        ]
        filtered.append(replace(erasure, parts=(*changing(change), *keys)))
    out = replace(_together(filtered, [1.0] * len(filtered)), metadata=replace(_metadata(held), added=""))
    out = _with_last_targets(encode, out, passed_on)
    return replace(out, metadata=replace(out.metadata, verdict=inspection.full(model, out).as_json()))


def _is_in_weights(erasure: Erasure) -> bool:
    """Whether all that an erasure does is in the weights, in all prompts."""
    return not erasure.beside and not erasure.metadata.only_in


@dataclass(frozen=True)
class Onward:
    """A target that is erased itself, by which of several erasures, and what then takes its place."""

    target: str
    by: int
    becomes: str


def _passed_on(erasures: Sequence[Erasure], own: Sequence[Sequence[str]]) -> dict[str, list[Onward]]:
    """The names whose targets others of some erasures erase, each with its way: what it becomes, then what that
    becomes, and so on. Raises ErasureError where the way leads back."""
    owner = {name: i for i, some in enumerate(own) for name in some}
    targets = {name: target for e, some in zip(erasures, own, strict=True)
               for name, target in zip(e.names, e.targets, strict=True) if name in some}  # fmt: skip
    out: dict[str, list[Onward]] = {}
    for name in targets:
        way, place, target = [name], owner[name], targets[name]
        while after := next((o for o in targets if target and owner[o] != place and is_form_of(target, o)), None):
            if after in way:
                raise ErasureError(f"{undoing(erasures)}: make one of them with another target.")
            out.setdefault(name, []).append(Onward(target, owner[after], targets[after]))
            way, place, target = [*way, after], owner[after], targets[after]
    return out


def _with_last_targets(encode: Encoder, erasure: Erasure, passed_on: Mapping[str, Sequence[Onward]]) -> Erasure:
    """An erasure with names that have moved on, as its strings and probes say it."""
    last = {name: onward[-1].becomes for name, onward in passed_on.items()}
    targets = [last.get(name, target) for name, target in zip(erasure.names, erasure.targets, strict=True)]
    probes = {probe.text: probe for probe in inspection.probes_for(encode, list(last), list(last.values()), ())}
    return replace(
        erasure,
        metadata=replace(erasure.metadata, target="\n".join(target or NOTHING for target in targets)),
        probes=tuple(probes.get(probe.text, probe) for probe in erasure.probes),
    )


def _filters(
    problems: Sequence[Problem], names: Sequence[Sequence[str]], own: Sequence[Sequence[str]],
    steps: Sequence[tuple[int, str, int, int]],
) -> list[Filter]:  # fmt: skip
    """What holds each of several changes to its ``own`` names, and what holds another to each name that moves on with
    it: ``steps`` (whose name, name, problem, by whom). ``names``: those of each problem."""
    scales = Scales()
    moves = []
    for problem, some in zip(problems, names, strict=True):
        evened = even(problem, scales).moves
        sides = (side.split(evened.counts) for side in (evened.source, evened.target))
        moves.append({spelled(name): pair for name, *pair in zip(some, *sides, strict=True)})
    none = problems[0].moves.source[:0]
    sources = [torch.cat([none, *(moves[0][spelled(name)][0] for name in some)]) for some in own]
    preserved = problems[0].holding(scales).preserved(scales)
    onward = [(source, read) for _, name, step, _ in steps for source, read in [moves[step][spelled(name)]]]
    return filters(sources, preserved, scales.erase, onward)


def _joint_request(erasures: Sequence[Erasure]) -> Request:
    """All names; a target that is now erased itself gives way to the nearest text that is preserved."""
    summed = Erasure(_metadata(erasures))
    strengths = {name: strength for e in erasures for name, strength in zip(e.names, e.strengths, strict=True)}
    names, warnings = aiming_elsewhere([Name(m.name, m.target, strengths[m.name]) for m in moves(summed)])
    return Request(names, lines(summed.metadata.preserve), warnings=warnings)


def elastic_weights(clip: Clip, prompt: str, erasures: Sequence[Erasure]) -> list[float]:
    """How much each erasure has to do with a prompt: elastic weight aggregation of CIDM (arXiv 2410.17594)::

        psi_i = M_i^2 / ||M^2||,    M_i = max over the prompt's tokens of cos(token, name of concept i)

    Encodings are centred on the empty prompt's, because all of them share most of their length; M_i below 0 counts as
    0. A prompt that is near to none leaves all weights at 1.
    """
    _check_names(erasures)
    encode = Encoder(clip)
    with torch.inference_mode(False), torch.no_grad():
        centre = encode.rows([""])[0].mean(0)
        tokens = F.normalize(encode(prompt).context[0, 1:] - centre, dim=-1)
        near = []
        for erasure in erasures:
            spans = [F.normalize(encode.span(name) - centre, dim=-1) for name in erasure.names]
            near.append(max(float((tokens @ span.T).max()) for span in spans))
    squares = torch.tensor(near).clamp_min(0).square()
    norm = squares.norm()
    return (squares / norm).tolist() if norm > 0 else [1.0] * len(erasures)


def _short(erasure: Erasure) -> str:
    return ", ".join(erasure.names)[:60]
