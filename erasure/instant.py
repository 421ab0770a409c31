"""From a MODEL, a CLIP and a few texts to an ``Erasure`` without any training: closed-form edits of the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from json import dumps, loads

import torch
import torch.nn.functional as F

from . import inspection
from .artifact import NOTHING, Change, Erasure, Full, LowRank, Metadata
from .choosing import TARGETS, beside_those_in_front, choose_texts, reading
from .closed_form import CLOSED_FORM
from .closed_form.balance import balance, even
from .closed_form.problem import Problem, Scales
from .closed_form.restoring import restoration
from .closed_form.textmap import Edit
from .gated import behind_gate, changes_of, check_gate
from .history import Erased, erased_from, preserved_on
from .host.attach import changes_in_front, weights_now
from .host.subject import subject
from .parts.delta import add, changing
from .parts.part import Part
from .phrased import Texts
from .posing import TOKENS, beside_common, gram, pose
from .protocols import Clip, Model
from .request import OpenFile, Request, read_request
from .solved import solved
from .steps import Steps
from .texts.encoder import Encoder
from .texts.names import is_form_of, is_said, listing, quoted
from .texts.pooled import Pooled
from .verdict import Finding, Verdict, read_verdict
from .version import host_version, pack_version

BARE = "Only the last token of a bare name is moved ({}), so longer prompts may still draw it: see 'tokens'."
TOTAL_RANK = 64
"""No change has a higher rank than this, unless more concepts than this are erased."""


@dataclass(frozen=True)
class Instant:
    """What a closed-form erasure can be told.

    ``target``: what takes a concept's place: its nearest neighbour in the preserve set, nothing (what the phrase says
    without it), or the text ``anchor``. ``tokens``: which encodings are moved, those of phrases from the name's last
    token on, or the last one of the bare name, as the papers have it. ``rank``: of the change, for each concept; 0 for
    the exact one. ``pooled``: whether what reads the pooled text changes, too, in families that have it. ``gated``:
    whether it acts in prompts that speak of the concepts alone, and the weights stay.
    """

    method: str = "uce"
    target: str = TARGETS[0]
    anchor: str = ""
    tokens: str = TOKENS[0]
    weights: str = "keys+values"
    rank: int = 8
    scales: Scales = field(default_factory=Scales)
    pooled: bool = True
    gated: bool = False


def erase_instantly(
    model: Model, clip: Clip, concepts: str, preserve: str, settings: Instant,
    steps: Steps = Steps(),  # noqa: B008
    only_in: str = "", open_file: OpenFile | None = None,
) -> Erasure:  # fmt: skip
    """Solves for all concepts of a field at once, preserving the texts of another. Raises ErasureError.

    What was erased from the model before stays erased. ``only_in``: texts beside which alone the concepts are erased.
    ``steps`` is told how far it is; ``open_file``: see ``texts.names.read_field``. What was asked for before is not
    solved again.
    """
    encode = Encoder(clip, steps, subject(model))
    if settings.gated:
        check_gate(model, settings.weights)
    encode.pools = settings.pooled and subject(model).family.pooled_entry(model.model) is not None
    with torch.inference_mode(False), torch.no_grad():
        request = read_request(model, encode, concepts, preserve, only_in, open_file)

        def solve() -> Erasure:
            steps.begin("Reading common words", 0.4)
            texts = choose_texts(encode, request, settings, erased_from(model), reading(model))
            done = unasked(model, texts, settings)
            texts = beside_those_in_front(texts, preserved_on(model))
            erasure = solve_texts(model, encode, texts, settings, steps)
            steps.begin("Checking", 1.0)
            return examined(model, encode, request, erasure, done)

        return solved(model, encode, request, _typed(request, settings), settings, solve)


def _typed(request: Request, settings: Instant) -> list[str]:
    """The texts that a user has typed."""
    targets = [name.target for name in request.names if name.target]
    return [*request.texts, *targets, *request.preserve, *request.contexts, settings.anchor]


def unasked(model: Model, texts: Texts, settings: Instant) -> list[str]:
    """Sentences on what is done that nobody asked for: words that are preserved beside those that were typed, and what
    nodes in front have moved that is put back."""
    sentences = []
    if texts.also:
        sentences.append(
            f"Preserved beside what you typed, because many concepts are erased: {len(texts.also)} common words."
        )
    in_front = changes_in_front(model, subject(model).family.text_entry(model.model, settings.weights))
    if in_front and not settings.gated:
        sentences.append("What nodes in front had moved besides their concepts was put back first.")
    return sentences


def examined(
    model: Model, encode: Encoder, request: Request, erasure: Erasure, done: Sequence[str] = ()
) -> Erasure:  # fmt: skip
    """The erasure with its verdict: what it does to the MODEL's weights, and what is doubtful about its words;
    ``done``: further sentences for its notes."""
    findings, strange = inspection.knowledge(encode, erasure.names, erasure.targets)
    findings = [*read_verdict(erasure.metadata.doubts).findings, *findings]
    findings += [Finding("⚠", warning) for warning in request.warnings]
    if loads(erasure.metadata.settings)["tokens"] == TOKENS[1]:
        findings.append(Finding("⚠", BARE.format(listing(erasure.names))))
    known = [(name, target) for name, target in zip(erasure.names, erasure.targets, strict=True) if name not in strange]
    if known and not request.contexts:
        weights = inspection.base_weights(model, erasure)
        changes = changes_of(model, erasure, weights)
        findings += inspection.apart(weights, changes, inspection.parts_of(encode, *zip(*known, strict=True)))
    if not request.contexts:
        findings += inspection.in_pooled(encode, model, erasure, known)
    if len(erasure.names) > inspection.MOST_CONCEPTS:
        findings += inspection.beyond(encode, model, erasure, strange)
    before = erased_from(model)
    findings += [Finding("⚠", sentence) for sentence in aimed_at_erased(request, before)]
    how = ['To erase a name less or more, type "circle : 0.8".'] if request.weights else []
    notes = [f"Read {listing(request.texts)}.", *request.notes, *how, *in_front(request, erasure, before), *done]
    metadata = replace(
        erasure.metadata, doubts=Verdict(tuple(findings)).as_json(), unknown="\n".join(strange), notes="\n".join(notes)
    )
    erasure = replace(erasure, metadata=metadata)
    return replace(erasure, metadata=replace(metadata, verdict=inspection.full(model, erasure).as_json()))


def aimed_at_erased(request: Request, before: Sequence[Erased]) -> list[str]:
    """Sentences on targets that a user typed, and that a node in front has erased: what became of them is drawn."""
    return [
        f"{quoted([name.target])} is erased by a node in front: what took its place is drawn for "
        f"{quoted([name.text])}, too."
        for name in request.names
        if name.target and any(is_said(move.name, name.target) for move in before)
        and not any(is_form_of(name.target, text) for text in request.texts)
    ]  # fmt: skip


def in_front(request: Request, erasure: Erasure, before: Sequence[Erased]) -> list[str]:
    """Sentences on what nodes in front have erased: the same names, and names that became one of these."""
    again = [name for name in request.texts if any(is_form_of(name, move.name) for move in before)]
    sentences = [f"Erased already by a node in front: {listing(again)}."] if again else []
    count = len(request.texts)
    return sentences + [
        f"{quoted([name])}, erased by a node in front, now becomes {quoted([target])}."
        for name, target in zip(erasure.names[count:], erasure.targets[count:], strict=True)
        if target
    ]


def solve_texts(model: Model, encode: Encoder, texts: Texts, settings: Instant, steps: Steps = Steps()) -> Erasure:  # noqa: B008
    """The closed-form erasure for texts that have been chosen; call outside inference mode, without gradients."""
    here = subject(model)
    steps.begin("Reading texts", 0.8)
    posed = posed_for(model, encode, texts, settings)
    steps.begin("Solving", 0.9)
    parts: tuple[Part, ...]
    if settings.gated:
        pooled = None if posed.pooled is None else edit_for(posed.pooled.problem, settings)
        part, findings = behind_gate(model, encode, texts, edit_for(posed.problem, settings), pooled)
        parts, doubts = (part,), Verdict().plus(*findings).as_json()
    else:
        parts, doubts = changing(posed.delta(model, texts, settings)), ""
    metadata = Metadata(
        method=settings.method,
        concept="\n".join(texts.names),
        target="\n".join(text or NOTHING for text in texts.targets),
        strengths="\n".join(f"{s:g}" for s in texts.strengths) if any(s != 1 for s in texts.strengths) else "",
        preserve="\n".join(texts.kept),
        only_in="\n".join(texts.contexts),
        **here.stamp(),
        settings=dumps(asdict(settings)),
        doubts=doubts,
        pack_version=pack_version(),
        host_version=host_version(),
    )
    near = [*dict.fromkeys(word for row in texts.near for word in row), *texts.kept]
    probes = inspection.probes_for(encode, texts.names, texts.targets, list(dict.fromkeys(near)), texts.contexts)
    return Erasure(metadata, parts, probes, tuple(map(tuple, texts.choices)))


@dataclass(frozen=True)
class OfPooled:
    """The problem of the pooled text, for the first ``columns`` [out, d] of the ``weight`` of a name."""

    name: str
    weight: torch.Tensor
    columns: torch.Tensor
    problem: Problem

    def delta(self, model: Model, texts: Texts, settings: Instant) -> dict[str, Change]:
        """The change of the whole weight."""
        width, name = self.columns.shape[1], self.name
        front = changes_in_front(model, [name]) if texts.restoring else {}
        front = {n: Full(one.dense()[:, :width]) for n, one in front.items()}
        change = solve(self.problem, {name: self.columns}, front, settings)[name]
        rest = self.weight.shape[1] - width
        return {name: LowRank(change.up, F.pad(change.down, (0, rest))) if isinstance(change, LowRank)
                else Full(F.pad(change.dense(), (0, rest)))}  # fmt: skip


@dataclass(frozen=True)
class Posed:
    """What is to be solved for texts: the problem of the ``weights`` [out, d] that read them, and the pooled text's."""

    weights: Mapping[str, torch.Tensor]
    problem: Problem
    pooled: OfPooled | None

    def delta(self, model: Model, texts: Texts, settings: Instant) -> dict[str, Change]:
        """The change of each weight."""
        front = changes_in_front(model, list(self.weights)) if texts.restoring else {}
        delta = solve(self.problem, self.weights, front, settings)
        return delta | ({} if self.pooled is None else self.pooled.delta(model, texts, settings))


def posed_for(model: Model, encode: Encoder, texts: Texts, settings: Instant) -> Posed:
    """Reads texts; what they pose can then be solved with several settings of the solve."""
    weights = weights_now(model, subject(model).family.text_entry(model.model, settings.weights))
    pooled = posed_pooled(model, encode, texts, settings) if settings.pooled else None
    return Posed(weights, pose(encode, texts, weights, settings), pooled)


def posed_pooled(model: Model, encode: Encoder, texts: Texts, settings: Instant) -> OfPooled | None:
    """What is to be solved for the pooled text; None where the network reads none."""
    name = subject(model).family.pooled_entry(model.model)
    if name is None or not encode.has_pooled:
        return None
    weight = weights_now(model, [name])[name]
    width = encode.pooled([""])[0].shape[1]
    if width > weight.shape[1]:  # of another text encoder than the network's
        return None
    columns = weight[:, :width]
    common = beside_common(texts, settings, encode.is_large)
    return OfPooled(name, weight, columns, pose(Pooled(encode), texts, {name: columns}, settings, common))


def solve(
    problem: Problem, weights: Mapping[str, torch.Tensor], front: Mapping[str, Change], settings: Instant
) -> dict[str, Change]:
    """The change of each weight: what puts back what erasures in front have moved besides their concepts, if there are
    any, and the edit of the chosen method."""
    if not front:
        return edit_for(problem.holding(settings.scales), settings).delta(weights.items())
    rank = min(TOTAL_RANK, settings.rank * problem.all_erased)
    back = restoration(problem, settings.scales, weights, front, rank)
    weights = {name: weight + back[name].dense().to(weight) for name, weight in weights.items()}
    problem = replace(problem.holding(settings.scales), gram=lambda: gram(weights))
    edit = edit_for(problem, settings).delta(weights.items())
    return {name: add([(back[name], 1.0), (edit[name], 1.0)]) for name in weights}


def edit_for(problem: Problem, settings: Instant) -> Edit:
    """The edit of the chosen method, at the chosen rank."""
    edit = CLOSED_FORM[settings.method](balance(even(problem, settings.scales), settings.scales), settings.scales)
    if settings.rank and settings.tokens == TOKENS[0]:
        rank = min(TOTAL_RANK, settings.rank * problem.concepts)
        edit = edit.cut(max(problem.concepts, rank), problem.moves.moment)
    return edit
