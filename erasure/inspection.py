"""The verdict on a MODEL: the probes of an erasure, made with the text encoder, and what its weights do to them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch

from .artifact import Erasure, Full, Probe
from .families import reads_text
from .gated import change_of_pooled, changes_of, is_gated, turned_by, turns
from .history import erases, moves
from .host import attach
from .host.subject import subject
from .host.weights import Weights, effective_weights
from .parts.part import Part
from .protocols import Model
from .texts.encoder import Encoder, paired
from .texts.names import MOST_QUOTED, is_form_of, lines, listing, quoted, telling_words
from .texts.names import words as words_of
from .texts.neighbours import KIN, compared, kinship, suggestion, unknown
from .texts.phrases import say
from .texts.vocabulary import EVERYDAY, WORDS
from .verdict import (
    ARRIVED,
    ARRIVED_BESIDE,
    Finding,
    Verdict,
    added,
    bounded,
    judge,
    movement,
    percent,
    read_verdict,
    sample,
    thin,
)

PHRASES = ("{}", "a {}", "a photo of a {}", "a white {}")
"""What is said of a text to see how far it moves."""
IN_CONTEXTS = ("a {} {{}}", "a photo of a {} {{}}")
"""The same for a concept that is erased beside other texts only."""
PLACES = (0, 1, 3, 12)
"""Tokens behind a name's last one at which encodings are taken."""
MOST_CONCEPTS = 64
"""Concepts that have probes."""
MOST_OTHERS = 8
"""Preserved texts that have probes."""
BACK = 0.5
"""Share of the way between two concepts within which prompts for the one draw the other."""


# ---------------------------------------------------------------- probes and what the encoder knows


def probes_for(
    encode: Encoder, names: Sequence[str], targets: Sequence[str], others: Sequence[str], contexts: Sequence[str] = ()
) -> tuple[Probe, ...]:
    """Probes of concepts, with what takes their places (empty: nothing), and of texts that stay."""
    phrases = [phrase.format(context) for phrase in IN_CONTEXTS for context in contexts[:4]] or list(PHRASES)
    pairs = list(zip(names, targets, strict=True))[:MOST_CONCEPTS]
    moving = [_moving(encode, phrases, name, target) for name, target in pairs]
    return (*moving, *(_staying(encode, text) for text in others[:MOST_OTHERS]))


def _moving(encode: Encoder, phrases: Sequence[str], name: str, target: str) -> Probe:
    fitting = encode.fitting(phrases, name, target) or ["{}"]
    rows = []
    for phrase in fitting:
        last, there = paired(encode, phrase, name, target)
        rows.append((_rows(encode, say(phrase, name), last), _rows(encode, say(phrase, target), there)))
    least = [min(len(source), len(goal)) for source, goal in rows]
    source = torch.cat([pair[0][:n] for pair, n in zip(rows, least, strict=True)])
    goal = torch.cat([pair[1][:n] for pair, n in zip(rows, least, strict=True)])
    return thin(Probe(name, source, goal))


def _staying(encode: Encoder, text: str) -> Probe:
    fitting = encode.fitting(PHRASES[1:2], text) or ["{}"]
    return thin(Probe(text, _rows(encode, say(fitting[0], text), encode.place(fitting[0], text).stop - 1)))


def _rows(encode: Encoder, text: str, last: int) -> torch.Tensor:
    """Encodings [r, d] of a text at ``PLACES`` from one on."""
    context = encode.rows([text])[0]
    return context[[last + place for place in PLACES if last + place < len(context)]]


def knowledge(encode: Encoder, names: Sequence[str], targets: Sequence[str]) -> tuple[list[Finding], list[str]]:
    """What is doubtful about words, and the names that the text encoder does not know."""
    strange = unknown(encode, names, compared(encode))
    words = list(dict.fromkeys((*WORDS, *EVERYDAY)))
    meant = {name: suggestion(encode, name, words) for name in strange[:MOST_QUOTED]}
    findings = [
        Finding("⚠", f"{quoted([name])} is not a word this text encoder knows. Did you mean {quoted([word])}?")
        for name, word in meant.items()
        if word
    ]
    if without := [name for name in strange if not meant.get(name)]:
        what = f"{quoted(without)} is not a word" if len(without) == 1 else f"{listing(without)} are not words"
        findings.append(
            Finding(
                "⚠",
                f"{what} this text encoder knows, so nothing of that name is erased, and other pictures may change. "
                "Use names that work in prompts; for most models these are English.",
            )  # fmt: skip
        )
    aims = {target: name for name, target in zip(names, targets, strict=True) if target and name not in strange}
    if unclear := unknown(encode, list(aims), compared(encode)):
        findings.append(
            Finding(
                "⚠",
                f"The target {quoted(unclear[:3])} of {quoted([aims[text] for text in unclear[:3]])} is not a word "
                "this text encoder knows: what is drawn instead is left to chance.",
            )  # fmt: skip
        )
    pairs = [
        (name, target) for name, target in zip(names, targets, strict=True) if not {name, target} & {*strange, *unclear}
    ]
    words = list(dict.fromkeys((*compared(encode), *encode.read_alone())))
    return [*findings, *left_to_chance(encode, pairs, words)], strange


def left_to_chance(encode: Encoder, pairs: Sequence[tuple[str, str]], words: Sequence[str]) -> list[Finding]:
    """Names whose target says nothing of what they are, or says them again: they can be drawn all the same."""
    findings = []
    if empty := [name for name, target in pairs if not target]:
        findings.append(
            Finding(
                "⚠",
                f"Nothing takes the place of {quoted(empty[:MOST_QUOTED])}: prompts draw what they would without it, "
                "which by chance can be the same.",
            )  # fmt: skip
        )
    pairs = [(name, target) for name, target in pairs if target]
    shares = kinship(encode, [name for name, _ in pairs], [target for _, target in pairs], words) if pairs else []
    alike = [pair for pair, share in zip(pairs, shares, strict=True) if share == float("inf")]
    apart = [pair for pair, share in zip(pairs, shares, strict=True) if share < KIN]
    findings += [
        Finding(
            "⚠",
            f"The text encoder takes {quoted([target])} for the same as {quoted([name])}, which is still drawn: choose "
            "another target.",
        )  # fmt: skip
        for name, target in alike[:MOST_QUOTED]
        if not is_form_of(name, target)  # a name that moves on with what it became
    ]
    by_target: dict[str, list[str]] = {}
    for name, target in apart:
        by_target.setdefault(target, []).append(name)
    return (
        findings
        + [
            Finding(
                "⚠",
                f"{quoted([target])} is another kind of thing than {quoted(some[:MOST_QUOTED])}: what is drawn instead "
                "is left to chance, and can be the same. Choose a target of its kind.",
            )  # fmt: skip
            for target, some in list(by_target.items())[:MOST_QUOTED]
        ]
    )


def parts_of(encode: Encoder, names: Sequence[str], targets: Sequence[str]) -> dict[str, tuple[Probe, ...]]:
    """For each name of several words, probes of its words that the text encoder knows by themselves."""
    out: dict[str, tuple[Probe, ...]] = {}
    for name, target in list(zip(names, targets, strict=True))[:MOST_CONCEPTS]:
        words = telling_words(name) if len(words_of(name)) > 1 else []
        strange = unknown(encode, words, compared(encode)) if words else []
        if known := [word for word in words if word not in strange]:
            out[name] = tuple(_moving(encode, PHRASES[1:], word, target) for word in known)
    return out


def in_pooled(encode: Encoder, model: Model, erasure: Erasure, pairs: Sequence[tuple[str, str]]) -> list[Finding]:
    """Which names have not moved in the pooled text, where an erasure changes what reads it: pairs of names and what
    takes their places."""
    name = subject(model).family.pooled_entry(model.model)
    if name is None or not pairs or not (name in erasure.delta or is_gated(erasure)):
        return []
    probes = [_in_pooled(encode, *pair) for pair in pairs[:MOST_CONCEPTS]]
    width = probes[0].source.shape[1]
    columns = effective_weights(model, [name])[name][:, :width]
    own = Full(erasure.delta[name].dense()[:, :width]) if name in erasure.delta else change_of_pooled(erasure, columns)
    if own is None:
        return []
    shares = movement({name: columns}, {name: own}, probes).concepts
    return [
        Finding(
            "⚠",
            f"{quoted([text])} moved only {percent(share)} of the way in the pooled text, so short prompts may still "
            "draw it.",
        )  # fmt: skip
        for text, share in shares.items()
        if share < ARRIVED
    ][:MOST_QUOTED]


def _in_pooled(encode: Encoder, name: str, target: str) -> Probe:
    rows = [encode.pooled([say(phrase, text) for phrase in PHRASES]) for text in (name, target)]
    return Probe(name, torch.cat(rows[0]), torch.cat(rows[1]))


def beyond(encode: Encoder, model: Model, erasure: Erasure, strange: Sequence[str]) -> list[Finding]:
    """Which names have not moved of those that are too many to have probes of their own."""
    weights = base_weights(model, erasure)
    pairs = list(zip(erasure.names, erasure.targets, strict=True))[MOST_CONCEPTS:]
    probes = [_moving(encode, PHRASES[1:2], name, target) for name, target in pairs if name not in strange]
    shares = movement(weights, changes_of(model, erasure, weights), probes).concepts
    if not (staying := [name for name, share in shares.items() if share < ARRIVED]):
        return []
    least = percent(min(shares.values()))
    return [
        Finding(
            "⚠",
            f"{listing(staying)} moved as little as {least} of the way, and may still be drawn: erase fewer at once.",
        )
    ]


def apart(weights, delta, parts: dict[str, tuple[Probe, ...]]) -> list[Finding]:
    """What becomes of the words of a name by themselves, where they have not moved with it."""
    findings = []
    for name, probes in parts.items():
        shares = movement(weights, delta, probes).concepts
        if staying := {word: share for word, share in shares.items() if share < ARRIVED}:
            words = ", ".join(f'"{word}" alone moved {percent(share)} of the way' for word, share in staying.items())
            findings.append(
                Finding(
                    "⚠",
                    f"Only {quoted([name])} as a whole is erased: {words}, and may still be drawn. "
                    "Words on lines of their own are erased one by one.",
                )
            )
    return bounded(findings)


# ---------------------------------------------------------------- on a MODEL


def base_weights(model: Model, erasure: Erasure) -> dict[str, torch.Tensor]:
    """Some of the projections of text [out, d] that an erasure changes, float32, with what is on the MODEL already."""
    there = dict(model.model.named_parameters())
    names = sample(subject(model).entry) if is_gated(erasure) else sampled(erasure)
    return effective_weights(model, [name for name in names if name in there])


def sampled(erasure: Erasure) -> list[str]:
    """Names of some of the projections of text that an erasure changes."""
    return sample([name for name in erasure.delta if reads_text(name)])


def shares(model: Model, erasure: Erasure, strength: float = 1.0) -> list[float]:
    """How far an erasure moves the keys and values of each of its concepts on a MODEL, as a share of the way; empty
    where it changes none."""
    with torch.inference_mode(False), torch.no_grad():
        weights = base_weights(model, erasure)
        changes = changes_of(model, erasure, weights)
        return list(movement(weights, changes, erasure.probes, strength).concepts.values()) if weights else []


def inspect(model: Model, erasure: Erasure, strength: float = 1.0) -> Verdict:
    """The verdict on an erasure that goes onto a MODEL, with the erasures in front of it.

    Names that the text encoder does not know are passed over, because what moves there is nothing that prompts draw,
    and so are names that were erased before, which have only moved on. Empty where there is nothing to see it by: no
    probes, or no change of what reads text.
    """
    with torch.inference_mode(False), torch.no_grad():
        targets = dict(zip(erasure.names, erasure.targets, strict=True))
        at = "" if strength == 1 else f" at strength {strength:g}"
        verdict = Verdict()
        weights = base_weights(model, erasure)
        passed = {*lines(erasure.metadata.unknown), *_erased_before(model)}
        unseen = [part for part in erasure.beside if not turns(part)]  # their effect is not in changes of weights
        acted_on = {probe.text for part in unseen for probe in own_probes(erasure, part)}
        passed |= acted_on if erasure.metadata.parts else set()
        probes = [probe for probe in erasure.probes if probe.text not in passed]
        if weights and any(probe.goal is not None for probe in probes):
            arrived = ARRIVED_BESIDE if erasure.metadata.only_in else ARRIVED
            verdict = judge(
                movement(weights, changes_of(model, erasure, weights), probes, strength), targets, at, arrived
            )
        back = [*coming_back(model, erasure, strength), *keys_in_front(model, erasure)]
        return verdict.plus(*of_parts(erasure), *back)


def _erased_before(model: Model) -> set[str]:
    return {probe.text for one in attach.applied(model) for probe in one.erasure.probes if probe.goal is not None}


def full(model: Model, erasure: Erasure, strength: float = 1.0) -> Verdict:
    """The verdict, with what was doubtful about the erasure's words when it was made."""
    return inspect(model, erasure, strength).plus(*read_verdict(erasure.metadata.doubts).findings)


def of_parts(erasure: Erasure) -> list[Finding]:
    """What each part of an erasure has to say by itself, once where several say the same."""
    found = [finding for part in erasure.parts for finding in part.findings(own_probes(erasure, part))]
    return list(dict.fromkeys(found))


def keys_in_front(model: Model, erasure: Erasure) -> list[Finding]:
    """Which concepts a key in front of an erasure brings back."""
    back = [name for one in attach.keys_on(model) for name in one.recovered]
    lost = [name for name in erasure.names if any(is_form_of(name, other) for other in back)]
    if not lost:
        return []
    words = f"The key for {quoted(lost[:3])} is on the connected model and brings it back: take Recover Concept out."
    return [Finding("✗", words)]


def own_probes(erasure: Erasure, part: Part) -> list[Probe]:
    """The probes that a part is judged by: of several erasures in one, those of the concepts that it acts on, where it
    acts on any. Others are another part's."""
    moving = [probe for probe in erasure.probes if probe.goal is not None]
    own = [probe for probe in moving if part.acts_on(probe)] if erasure.metadata.parts else moving
    return own or moving


def coming_back(model: Model, erasure: Erasure, strength: float = 1.0) -> list[Finding]:
    """Which concepts the erasures on a MODEL, with one more, bring back: in prompts for themselves or for another."""
    together = [*((one.erasure, one.strength) for one in attach.applied(model)), (erasure, strength)]
    untold = _aiming_at_erased([one for one, _ in together])
    together = [(one, s) for one, s in together if _can_be_followed(one)]
    if len(together) < 2:
        return untold
    solved = [set(sampled(one)) for one, _ in together if not is_gated(one)]
    names = sorted(set.intersection(*solved) if solved else sample(subject(model).entry))[:4]
    weights = Weights(model)
    origins: dict[str, torch.Tensor] = {}
    lands: dict[str, torch.Tensor] = {}
    for one, _ in together:
        for probe in one.probes[:MOST_CONCEPTS]:
            if probe.goal is not None:
                rows = probe.source.float()
                there = turned_by([(other, s) for other, s in together if is_gated(other)], model, probe)
                before = [rows @ weights[name].float().cpu().T for name in names]
                after = [there @ weights[name].float().cpu().T for name in names]
                moved = [sum(s * _added(other, name, there) for other, s in together) for name in names]
                origins[probe.text] = torch.cat(before, 1)
                lands[probe.text] = torch.cat([b + m for b, m in zip(after, moved, strict=True)], 1)
    return [*untold, *_returns(origins, lands)]


def _can_be_followed(erasure: Erasure) -> bool:
    """Whether probes show where the change of an erasure takes its concepts."""
    is_solved = bool(erasure.delta) and not erasure.beside
    return (is_solved or is_gated(erasure)) and any(probe.goal is not None for probe in erasure.probes)


def _aiming_at_erased(together: Sequence[Erasure]) -> list[Finding]:
    """Concepts that became what another erasure erases, as far as probes do not show it: an erasure that was learned
    acts on prompts that say its concept, and not on what another erasure makes of other prompts."""
    return [
        _returning(move.name, name)
        for one, other in permutations(filter(erases, together), 2)
        if not (_can_be_followed(one) and _can_be_followed(other))
        for move in moves(one)
        for name in other.names
        if move.target and is_form_of(move.target, name)
    ]


def _returning(one: str, other: str) -> Finding:
    return Finding(
        "✗",
        f"Prompts for {quoted([one])} draw {quoted([other])} again, which is erased as well: erase both in one Erase "
        "Concept node, or give one of them another target.",
    )


def _added(erasure: Erasure, name: str, rows: torch.Tensor) -> torch.Tensor:
    return added(erasure.delta[name], rows) if name in erasure.delta else torch.tensor(0.0)


def _returns(origins: dict[str, torch.Tensor], lands: dict[str, torch.Tensor]) -> list[Finding]:
    findings = []
    for one, other in permutations(origins, 2):
        n = min(len(origins[one]), len(origins[other]))
        apart_before = (origins[one][:n] - origins[other][:n]).norm()
        if (lands[one][:n] - origins[other][:n]).norm() < BACK * apart_before:
            findings.append(_returning(one, other))
    return findings
