"""Sets a training up: from texts that have been read and checked to a run, with all that its erasure is told of.

What depends on MODEL, CLIP and texts alone is remembered, so that going on for a few steps begins at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from .. import inspection
from .. import only_in as only_in_
from ..artifact import NOTHING, Change, Erasure, ErasureError, Probe
from ..choosing import choose_texts, reading
from ..closed_form.problem import Scales
from ..history import erased_from
from ..host import attach
from ..host.beside import copy_of_encoder
from ..host.subject import subject
from ..host.trainable import plain_patcher
from ..host.weights import true_shapes
from ..instant import Instant, posed_for
from ..methods import LEARNED
from ..parts.branch import Branch, BranchLearner
from ..parts.delta import Delta
from ..parts.gate import GateTensors
from ..parts.prompt import ErasurePrompt, PromptLearner, PromptTensors
from ..protocols import Model
from ..request import Request
from ..texts.encoder import Encoder, Text
from ..texts.names import Name, is_form_of, others
from ..texts.neighbours import neighbours
from ..texts.phrases import GateTexts
from ..texts.vocabulary import WORDS
from ..verdict import Finding
from .gate import build_gate, concept_directions
from .last_states import HELD
from .learned import Learning
from .loop import Progress
from .memory import Memory
from .phrases import anchors_of, from_the_name_on, phrases_of, preserved_texts
from .preservation import choice_of_adversary
from .reviving import BringingBack, revive, turn_back
from .run import Learners, Run
from .settings import Settings

FIRMLY = Scales(preserve=12.0)
"""How the closed form is worked out that weights start from, where that erases nearly as much. It preserves four times
as firmly as Instant Erasure does: a training takes what is left of a concept, and does not put back what was harmed."""
NEARLY = 0.7
"""Share of the usual closed form's way that the firm one has to go. In the toy world colours go .61 to .68, and
trainings left more of them; all else that was looked at goes .72 or more (docs/findings.md)."""
ROOM = 256 << 20
"""Bytes of texts that are remembered from one training to the next; what depends on them is remembered in any case."""


class Setting:
    """Sets a training up: from texts that have been read and checked to a run.

    ``encode`` reads texts as a prompt joins them, ``reads`` as weights do, where the network has something in between.
    """

    def __init__(
        self, model: Model, encode: Encoder, request: Request, settings: Settings, resume: Erasure | None,
        memory: Memory, on_stage: Callable[[str], None],
    ):  # fmt: skip
        self.model, self.encode, self.resume, self.memory, self.on_stage = model, encode, resume, memory, on_stage
        self.typed, self.settings, self.method = request, settings, LEARNED[settings.method]
        here = subject(model)
        self.reads = Encoder(encode.clip, encode.on_read, here) if here.front and not here.adapts else encode
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.request, self.near, self.anchors = memory.part("texts", self._key(), self._texts)
        if any(name.target is not None for name in request.names):
            self.settings = replace(settings, target="anchor")
        self.names = request.texts
        self.short = encode.beside(self.names, self.request.preserve)

    def _key(self, *more) -> tuple:
        """What the texts of a training depend on, beside its MODEL and CLIP."""
        s = self.settings
        wanted = self._wants_preserved()
        return (self.typed, s.target, s.anchor, wanted, *more)

    def _wants_preserved(self) -> bool:
        """Whether anything holds the preserve set: the loss, or the gate of a prompt."""
        return self.settings.preserve_weight > 0 or bool(self.method.role and self.settings.gate)

    def _texts(self) -> tuple[Request, list[list[str]], dict[str, str | None]]:
        """The request, with a preserve set that is found where none is typed; the nearest texts of each name; and what
        takes its place."""
        self.on_stage("Looking for the concept's neighbours")
        encode, request, before = self.encode, self.typed, erased_from(self.model)
        taken = [*request.texts, *(move.name for move in before)]
        near = neighbours(encode, request.texts, others(encode.beside(request.texts, request.preserve), taken) or
                          others(WORDS, taken))  # fmt: skip
        settings, finds = self.settings, not request.preserve and self._wants_preserved()
        aims = settings.target == "nearest neighbour" or any(name.target is not None for name in request.names)
        if not (aims or finds):
            return request, near, anchors_of(request, near, settings)
        chosen = choose_texts(encode, request, Instant(), before, reading(self.model))
        first = [[target, *row] for target, row in zip(chosen.targets, near, strict=True)]
        if finds:
            note = "Nothing was typed into 'preserve', so common words were taken, those close to the concept first."
            request = replace(request, preserve=list(chosen.kept), notes=[*request.notes, note])
        return request, near, anchors_of(request, first, settings)

    def up(self) -> Learning:
        """The run, with all that its erasure is told of."""
        encode, s, method, resume = self.encode, self.settings, self.method, self.resume
        gate, gap = self._gate() if method.role and s.gate else (None, None)
        beside = method.beside(self, gate)
        delta = method.change(self)
        self.on_stage("Reading the texts to learn on")
        encode.known.update(self._remembered())
        contexts = self.request.contexts
        phrases = phrases_of(encode, self.anchors, self.short, s, contexts)
        staying = only_in_.staying(self.names, contexts, self.short) if contexts else ()
        kept = preserved_texts(encode, list(self.request.preserve), staying)
        choices = {**choice_of_adversary(encode, self.near, s), **method.choices(self)}
        self._remember_texts()
        learners = Learners(beside, delta, choices)
        run = Run(plain_patcher(self.model), encode, s, learners, phrases, kept, self.memory)
        if isinstance(delta, Delta) and self._starts_closed:
            self._begin(run, delta, beside if isinstance(beside, PromptLearner) else None)
        steps = int(resume.metadata.steps or 0) if resume else 0
        target = "\n".join(NOTHING if text == "" else text or s.target for text in self.anchors.values())
        checks = self.memory.part("checks", self._key(), self._checks)
        return Learning(run, self.request, Progress(), steps, gap, target, *checks)

    def _remember_texts(self) -> None:
        """Keeps what has been read, where that is not too much."""
        known = self.encode.known
        if sum(text.context.numel() * text.context.element_size() for text in known.values()) <= ROOM:
            self._remembered().update(known)

    def _remembered(self) -> dict[str, Text]:
        return self.memory.part("read", None, lambda: dict[str, Text]())

    def _beside(self) -> GateTexts | None:
        """What a gate is fitted on for a concept beside other texts only."""
        contexts = self.request.contexts
        return only_in_.gate_texts(self.names, contexts, self.short) if contexts else None

    def _gate(self) -> tuple[GateTensors, float]:
        self.on_stage("Fitting the text gate")
        key = (self.names, self.short, self.request.contexts)
        return self.memory.part("gate", key, lambda: build_gate(self.encode, self.names, self.short, self._beside()))

    @property
    def weights(self) -> list[str]:
        """Names of the weights that the settings ask for."""
        return subject(self.model).weights(self.settings.weights)

    def prompt(self, role: str, gate: GateTensors | None) -> PromptLearner:
        """A prompt, where it starts."""
        prompt = _prompt(self.model, self.encode, self.names, self.settings, self.generator, self.resume)
        chunk = self.encode("").context.shape[1]
        attached = prompt.attached(self.settings.blocks, role, chunk, gate)
        learner = PromptLearner(prompt, attached)
        if self.resume is not None and self.resume.of(PromptTensors)[0].turn is not None:
            turn_back(learner, BringingBack(self.model, self.resume.delta))
            learner.keep_up(self.resume.delta)
        return learner

    def branch(self, gate: GateTensors | None) -> BranchLearner:
        """A control branch, where it starts."""
        learner = BranchLearner(copy_of_encoder(self.model), gate)
        if self.resume is not None:
            learner.start_from(*self.resume.of(Branch))
        return learner

    def delta(self) -> Delta:
        """A change that is added to the weights, where it starts."""
        shapes, rank, entry = true_shapes(self.model, self.weights), self.settings.rank, subject(self.model).entry
        delta = Delta(shapes, rank, self.generator, None if self.resume else self._directions(), entry)
        if self.resume is not None:
            delta.start_from(self.resume.delta)
        return delta

    def _directions(self) -> torch.Tensor | None:
        """Directions of the text that a change of low rank reads it by."""
        s = self.settings
        if s.rank == 0 or s.down_start == "random":
            return None
        return concept_directions(self.reads, self.names, self.short, s.rank, self._beside())

    @property
    def _starts_closed(self) -> bool:
        return self.settings.weights_start == "closed form" and self.resume is None

    def _begin(self, run: Run, delta: Delta, learner: PromptLearner | None) -> None:
        """Starts the change of the weights from a closed form, and the prompt there, too, where that starts from it:
        from the firm one, where the model's predictions for the concept go nearly as far with it as with the usual
        one."""
        s, key = self.settings, self._key(self.settings.weights, self.settings.rank)
        self.on_stage("Working out the closed form")
        make = partial(_closed_forms, self.model, self.reads, self.request, self.anchors, s)
        forms = self.memory.part("closed forms", key, make)
        self.on_stage("Comparing two closed forms")
        goes_far = self.memory.part("goes far", (key, s), partial(self._goes_far, run, delta, forms))
        change = forms[0] if goes_far else forms[1]
        for one in (delta, run.average):
            if isinstance(one, Delta):
                one.begin_with(change)
        if learner is not None and s.start == "concept":
            revive(learner, self.model, change, from_the_name_on(self.reads, self.names, s.tokens))

    def _goes_far(self, run: Run, delta: Delta, forms: Sequence[Mapping[str, Change]]) -> bool:
        """Whether the first of two changes goes nearly as far as the second; leaves the run as it was."""
        before, ways = {name: value.clone() for name, value in delta.state_dict().items()}, []
        with run.apart(self.settings.seed + HELD):
            run.pool.sample(None)
            start = run.generator.get_state()
            for change in forms:
                delta.begin_with(change)
                run.generator.set_state(start)
                ways.append(run.way_of(delta)[0])
                delta.load_state_dict(before)
        return ways[0] >= NEARLY * ways[1]

    def _checks(self) -> tuple[tuple[Probe, ...], list[Finding], list[str]]:
        self.on_stage("Checking the words")
        return _checks(self.reads, self.request, self.anchors, self.near)


def _checks(
    encode: Encoder, request: Request, anchors: Mapping[str, str | None], near: Sequence[Sequence[str]]
) -> tuple[tuple[Probe, ...], list[Finding], list[str]]:
    """What a verdict needs of the texts: probes, what is doubtful about them, and the names that are not known."""
    targets = [text or "" for text in anchors.values()]
    findings, strange = inspection.knowledge(encode, request.texts, targets)
    findings += [Finding("⚠", warning) for warning in request.warnings]
    others_near = list(dict.fromkeys([*(word for row in near for word in row[:4]), *request.preserve]))
    probes = inspection.probes_for(encode, request.texts, targets, others_near, request.contexts)
    return probes, findings, strange


def _closed_forms(
    model: Model, encode: Encoder, request: Request, anchors: Mapping[str, str | None], settings: Settings
) -> list[Mapping[str, Change]]:
    """The changes that Instant Erasure makes for the same texts and target, at the rank that is to be learned: where it
    preserves ``FIRMLY``, and as usual."""
    weights = "values" if settings.weights == "values" else "keys+values"
    rank = -(-settings.rank // len(request.names))
    target = "nearest neighbour" if settings.target == "anchor" else settings.target  # each name has its own anchor
    how = Instant(target=target, weights=weights, rank=rank)
    aimed = replace(request, names=[Name(text, anchor) for text, anchor in anchors.items()])
    texts = replace(choose_texts(encode, aimed, how, erased_from(model), reading(model)), restoring=False)
    posed = posed_for(model, encode, texts, how)
    return [posed.delta(model, texts, replace(how, scales=scales)) for scales in (FIRMLY, how.scales)]


def check_resume(model: Model, names: Sequence[str], settings: Settings, resume: Erasure) -> None:
    """Raises ErasureError for an erasure that training cannot go on from."""
    attach.check_fit(model, resume)
    if not resume.erasers:
        raise ErasureError(
            "The erasure to resume from is a key alone, and training goes on with what erases: connect the file that "
            "erases."
        )
    before = resume.metadata
    if before.method != settings.method:
        raise ErasureError(
            f"The erasure to resume from was trained by '{before.method}', and '{settings.method}' is chosen: choose "
            "the same method, or start anew without it."
        )
    known = resume.names
    if not any(is_form_of(a, b) for a in known for b in names):
        raise ErasureError(
            f"The erasure to resume from erases '{', '.join(known)}' and not '{', '.join(names)}': type a name that it "
            "erases, or start anew without it."
        )


def _prompt(
    model: Model,
    encode: Encoder,
    names: Sequence[str],
    settings: Settings,
    generator: torch.Generator,
    resume: Erasure | None,
) -> ErasurePrompt:
    if resume is None:
        own = torch.cat([encode.span(name) for name in names])
        empty = encode("").cond[0][0][0].float().cpu()  # padding is a part of it
        return ErasurePrompt.start(settings.start, settings.tokens, own, empty, generator, _pooled_width(model, encode))
    prompts = resume.of(PromptTensors)
    if len(prompts) != 1:
        raise ErasureError(
            "The erasure to resume from holds no single prompt: resume from one that Train Erasure made."
        )
    [old] = prompts
    if len(old.keys) != settings.tokens:
        raise ErasureError(
            f"The erasure to resume from was trained with {len(old.keys)} tokens, and {settings.tokens} are chosen: "
            "choose the same number, or start anew without it."
        )
    return ErasurePrompt(old.keys, old.values, old.pooled)


def _pooled_width(model: Model, encode: Encoder) -> int:
    """The width of the pooled text that a MODEL reads; 0 for none."""
    reads = subject(model).family.pooled_entry(model.model) is not None and encode.has_pooled
    return encode.pooled([""])[0].shape[1] if reads else 0
