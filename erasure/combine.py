"""Several erasures in one: their changes summed, solved anew together, or weighed for a prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, permutations
from json import loads

import torch
import torch.nn.functional as F

from . import inspection
from .artifact import NOTHING, Change, Erasure, ErasureError, Metadata
from .choosing import TARGETS, beside_those_in_front, choose_texts, reading
from .closed_form import CLOSED_FORM
from .closed_form.balance import even
from .closed_form.joining import in_columns, joined, side_by_side
from .closed_form.problem import Problem, Scales
from .families.family import KEYS_AND_VALUES
from .history import erased_from, moves, preserved_on
from .host.fingerprint import of_one_checkpoint, parse_fingerprint
from .host.subject import subject
from .instant import Instant, OfPooled, examined, posed_for, solve_texts
from .parts import PARTS
from .parts.delta import changing
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


def conflicts(erasures: Sequence[Erasure]) -> list[str]:
    """Sentences on what does not go well together, though it can be combined."""
    sentences = []
    erasing = _erasing(erasures)
    counts = Counter(spelled(name) for erasure in erasing for name in erasure.names)
    sentences += [f"'{name}' is erased {n} times over, which can erase more." for name, n in counts.items() if n > 1]
    for erasure in erasing:
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
    if back and can_be_solved_again(erasures):
        raise ErasureError(
            f"{back}: choose 'solve jointly' with the model and its CLIP connected, or make one of them with another "
            "target."
        )
    if back:
        raise ErasureError(f"{back}: make one of them with another target.")


def can_be_solved_again(erasures: Sequence[Erasure]) -> bool:
    """Whether all of them were solved for in closed form, by settings that their files still hold."""
    return all(e.metadata.method in CLOSED_FORM and e.metadata.settings for e in erasures)


@torch.inference_mode(False)  # nothing can be learned through what is made in it
def combine(erasures: Sequence[Erasure], weights: Sequence[float] | None = None) -> Erasure:
    """The parts of each kind together, as they combine, each with its erasure's weight (1 for None): changes of weights
    added exactly, prompts side by side. Raises ErasureError."""
    check_families(erasures)
    check_undoing(erasures)
    weights = weights or [1.0] * len(erasures)
    weighed = [(part, weight) for erasure, weight in zip(erasures, weights, strict=True) for part in erasure.parts]
    parts = [
        part
        for kind in PARTS.values()
        if (of_kind := [(part, weight) for part, weight in weighed if isinstance(part, kind)])
        for part in kind.combined(of_kind)
    ]
    known = [probe for erasure in erasures for probe in erasure.probes]
    known.sort(key=lambda probe: probe.goal is not None)  # what one of them erases is erased
    probes = {probe.text: probe for probe in known}
    moving = [probe for probe in probes.values() if probe.goal is not None]
    staying = [probe for probe in probes.values() if probe.goal is None]
    return Erasure(_metadata(erasures), tuple(parts), (*moving, *staying[: inspection.MOST_OTHERS]))


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
        strengths="", steps="", loss="", seed="", gate_gap="", blocks="", tokens="", settings="", verdict="", notes="",
    )  # fmt: skip


def solve_jointly(model: Model, clip: Clip, erasures: Sequence[Erasure]) -> Erasure:
    """One erasure for the concepts of several, so that none disturbs another: instant ones are solved for again, with
    the settings of the first; where one was learned, each is held to its own names and kept off what is preserved.

    Raises ErasureError when one acts beside the weights, or when the model and its CLIP are missing.
    """
    check_families(erasures)
    if model is None or clip is None:
        raise ErasureError("Solving jointly needs the model and its CLIP: connect both, or combine by 'sum'.")
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


def _joint_texts(model: Model, encode: Encoder, request: Request, settings: Instant) -> Texts:
    texts = choose_texts(encode, request, replace(settings, target=TARGETS[0]), erased_from(model), reading(model))
    return beside_those_in_front(texts, preserved_on(model))


def _joined(model: Model, encode: Encoder, erasures: Sequence[Erasure]) -> Erasure:
    """Changes that were made apart, each behind a filter for its own names, in one; keys stay as they are."""
    here = subject(model)
    readers, encode.pools = here.weights(KEYS_AND_VALUES), here.family.pooled_entry(model.model) is not None
    for erasure in erasures:
        if erasure.beside or erasure.metadata.only_in or not erasure.delta.keys() <= {*readers}:
            raise ErasureError(
                f"The erasure of '{_short(erasure)}' does not act on text in the weights alone, so it cannot be solved "
                "jointly with others: combine by 'sum'."
            )
    check_undoing(erasures)
    request = _joint_request(erasures)
    texts = _joint_texts(model, encode, replace(request, names=[Name(text) for text in request.texts]), Instant())
    posed = posed_for(model, encode, texts, Instant())
    apart = [erasure.names if erasure.delta else [] for erasure in erasures]  # a key alone changes nothing
    of_text = [{name: one for name, one in e.delta.items() if name in posed.weights} for e in erasures]
    parts = _held(posed.problem, texts.names, apart, of_text)
    if posed.pooled is not None:
        parts = [
            {**one, **more}
            for one, more in zip(parts, _pooled(posed.pooled, texts.names, apart, erasures), strict=True)
        ]
    held = [replace(e, parts=(*changing(own), *e.key)) for e, own in zip(erasures, parts, strict=True)]
    out = replace(combine(held), metadata=_metadata(erasures))  # which knows its parts as they were
    return replace(out, metadata=replace(out.metadata, verdict=inspection.full(model, out).as_json()))


def _held(
    problem: Problem, names: Sequence[str], apart: Sequence[Sequence[str]], changes: Sequence[Mapping[str, Change]]
) -> list[dict[str, Change]]:
    """Each of the changes, held to its own names, ``apart``; ``names``: those of the problem."""
    problem = even(problem, Scales())
    owners = {spelled(name): i for i in reversed(range(len(apart))) for name in apart[i]}
    sources: list[list[torch.Tensor]] = [[problem.moves.source[:0]] for _ in apart]
    for name, part in zip(names, problem.moves.source.split(problem.moves.counts), strict=True):
        if spelled(name) in owners:  # others were erased in front, and move on
            sources[owners[spelled(name)]].append(part)
    scales = Scales()
    preserved = problem.holding(scales).preserved(scales)
    return joined(changes, [torch.cat(own) for own in sources], preserved, scales.erase)


def _pooled(
    pooled: OfPooled, names: Sequence[str], apart: Sequence[Sequence[str]], erasures: Sequence[Erasure]
) -> list[dict[str, Change]]:
    """The same for the weight that reads the pooled text, in its first columns."""
    width, name = pooled.columns.shape[1], pooled.name
    changes = [{name: erasure.delta[name]} if name in erasure.delta else {} for erasure in erasures]
    first = [{name: in_columns(one, slice(width)) for name, one in own.items()} for own in changes]
    held = _held(pooled.problem, names, apart, first)
    return [
        {name: side_by_side(one, in_columns(own[name], slice(width, None))) for name, one in part.items()}
        for part, own in zip(held, changes, strict=True)
    ]


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
