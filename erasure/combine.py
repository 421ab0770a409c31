"""Several erasures in one: their changes summed, or weighed for a prompt; ``jointly`` solves for them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, permutations

import torch
import torch.nn.functional as F

from . import inspection
from .artifact import NOTHING, Change, Erasure, ErasureError, Metadata
from .closed_form import CLOSED_FORM
from .gated import is_gated
from .history import moves, trained_in
from .host.fingerprint import of_one_checkpoint, parse_fingerprint
from .parts import PARTS
from .parts.prompt import PromptTensors
from .protocols import Clip
from .texts.encoder import Encoder
from .texts.names import is_form_of, lines, others, plain, spelled
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
                f"The erasure of '{short(first)}' was made for a {a.family} model and that of '{short(second)}' for "
                f"a {b.family} model: combine only erasures of one family."
            )
        if first.identity() == second.identity() and first.erasers:
            raise ErasureError(f"The erasure of '{short(first)}' is connected twice: take one of the two off.")


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
        sentences += [f"'{word}' is erased, and the erasure of '{short(erasure)}' was made to preserve it."
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


def can_be_solved_again(erasures: Sequence[Erasure]) -> bool:
    """Whether all of them were solved for in closed form, by settings that their files still hold, in all prompts and
    in the same place."""
    return len({*map(is_gated, erasures)}) == 1 and all(
        e.metadata.method in CLOSED_FORM and e.metadata.settings and not e.metadata.only_in for e in erasures
    )


def can_be_solved_jointly(erasures: Sequence[Erasure]) -> bool:
    """Whether a joint solve can be tried, by what the erasures are; some then turn out to change other weights."""
    return can_be_solved_again(erasures) or all(map(is_in_weights, erasures))


def is_in_weights(erasure: Erasure) -> bool:
    """Whether all that an erasure does is in the weights, in all prompts."""
    return not erasure.beside and not erasure.metadata.only_in


@torch.inference_mode(False)  # nothing can be learned through what is made in it
def combine(erasures: Sequence[Erasure], weights: Sequence[float] | None = None) -> Erasure:
    """The parts of each kind together, as they combine, each with its erasure's weight (1 for None): changes of weights
    added exactly, prompts side by side. Raises ErasureError."""
    check_families(erasures)
    check_undoing(erasures)
    return replace(together(erasures, weights or [1.0] * len(erasures)), metadata=metadata_of(erasures))


def together(erasures: Sequence[Erasure], weights: Sequence[float]) -> Erasure:
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


def metadata_of(erasures: Sequence[Erasure]) -> Metadata:
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


def check_names(erasures: Sequence[Erasure]) -> None:
    """Raises ErasureError for an erasure that does not say what it erases."""
    if not all(erasure.names for erasure in erasures):
        raise ErasureError(
            "One of the erasures does not say which concept it erases, which this way of combining needs: combine by "
            "'sum'."
        )


def elastic_weights(clip: Clip, prompt: str, erasures: Sequence[Erasure]) -> list[float]:
    """How much each erasure has to do with a prompt: elastic weight aggregation of CIDM (arXiv 2410.17594)::

        psi_i = M_i^2 / ||M^2||,    M_i = max over the prompt's tokens of cos(token, name of concept i)

    Encodings are centred on the empty prompt's, because all of them share most of their length; M_i below 0 counts as
    0. A prompt that is near to none leaves all weights at 1.
    """
    check_names(erasures)
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


def short(erasure: Erasure) -> str:
    return ", ".join(erasure.names)[:60]
