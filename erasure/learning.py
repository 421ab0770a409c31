"""From a MODEL, a CLIP and a few texts to an ``Erasure``: sets a training run up, runs it, packs the result."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import comfy.model_base
import comfy.model_management
import torch

from . import attach, deltas, inspection, training
from . import only_in as only_in_
from .artifact import NOTHING, Change, Erasure, ErasureError, GateTensors, Metadata, Probe, PromptTensors
from .choice import Choice
from .concepts import (
    IN_CONTEXT,
    PHRASINGS,
    Encoder,
    GateTexts,
    Text,
    build_gate,
    concept_directions,
    say,
)
from .fingerprint import context_dim, fingerprint
from .history import erased_from, leading_to
from .instant import Instant, choose_texts, solve_texts
from .memory import Memory
from .methods import LEARNED
from .methods.preservation import adversary
from .neighbours import neighbours
from .prompt import ErasurePrompt
from .request import OpenFile, Request, read_request
from .run import Phrase, Run
from .settings import Settings
from .targets import anchors_for
from .texts.names import EMBEDDING, Name, is_form_of, listing, others, plain
from .training import Preview, Progress
from .verdict import ARRIVED, Finding, Verdict, predictions
from .version import host_version, pack_version
from .vocabulary import WORDS
from .weights import require_unpacked

CANDIDATES = 100
"""Size of the pool, nearest texts first, in which the adversary searches (arXiv 2410.15618)."""
REVIVING = 1e-2
"""Weight of the squared length of encodings that revive a concept, relative to the mean square of the projections."""
TARGETS = 8
"""Size of the pool, nearest texts first, from which a target is learned."""
SMALLEST_PUBLISHED = 192
"""Channels below which a network is a toy; Stable Diffusion has 320."""
ROOM = 256 << 20
"""Bytes of texts that are remembered from one training to the next; what depends on them is remembered in any case."""
MEMORY = Memory()
"""What the last training was set up with."""


@dataclass
class Learning:
    """A training run that can be asked for its erasure at any time, also after an interrupt."""

    run: Run
    request: Request
    progress: Progress
    steps_before: int
    gate_gap: float | None
    target: str
    probes: tuple[Probe, ...] = ()
    findings: Sequence[Finding] = ()
    unknown: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        """The names of the concept."""
        return self.request.texts

    def erasure(self) -> Erasure:
        """What has been learned so far, without a verdict."""
        s, run = self.run.settings, self.run
        prompts: tuple[PromptTensors, ...] = ()
        if run.prompt is not None and run.attached is not None:
            prompts = (run.prompt.at_rest_like(run.attached),)
        delta = {} if run.result is None else run.result.at_rest()
        losses = self.progress.losses
        return Erasure(
            Metadata(
                method=s.method,
                role=LEARNED[s.method].role,
                concept="\n".join(self.names),
                target=self.target,
                preserve="\n".join(self.request.preserve),
                only_in="\n".join(self.request.contexts),
                family=fingerprint(run.model).family,
                context_dim=str(context_dim(run.model)),
                blocks=s.blocks if prompts else "",
                tokens=str(s.tokens) if prompts else "",
                fingerprint=str(fingerprint(run.model)),
                settings=json.dumps(s.as_strings()),
                seed=str(s.seed),
                steps=str(self.steps_before + len(losses)),
                loss=f"first {losses[0]:.4g}, last {losses[-1]:.4g}" if losses else "",
                gate_gap="" if self.gate_gap is None else f"{self.gate_gap:.3f}",
                doubts=Verdict(tuple(self.findings)).as_json(),
                unknown="\n".join(self.unknown),
                notes="\n".join(self.notes()),
                pack_version=pack_version(),
                host_version=host_version(),
            ),
            prompts,
            delta,
            self.probes,
        )

    def notes(self) -> list[str]:
        """How the names were read."""
        names = self.names
        of_one = f"Read {listing(names)}{' of one concept' if len(names) > 1 else ''}."
        return [of_one, *self.request.notes]

    def judged(self) -> Erasure:
        """What has been learned so far, with a verdict: how far the model's predictions for the concept have moved."""
        erasure, doubts, moved = self.erasure(), list(self.findings), []
        if not self.unknown:
            shares = inspection.shares(self.run.model, erasure)
            sure = bool(erasure.erasers) or (bool(shares) and min(shares) >= ARRIVED)
            moved = predictions(*self.run.way(), self.names, erasure.targets, sure)
            doubts += [finding for finding in moved if finding.mark != "✓"]
        verdict = Verdict().plus(*moved, *inspection.gates(erasure), *doubts)
        metadata = replace(erasure.metadata, verdict=verdict.as_json(), doubts=Verdict(tuple(doubts)).as_json())
        return replace(erasure, metadata=metadata)


@contextlib.contextmanager
def gradients() -> Iterator[None]:
    """Leaves the inference mode that the host runs nodes in, and puts every global back."""
    training_before = comfy.model_management.in_training
    with torch.inference_mode(False), torch.enable_grad():
        comfy.model_management.in_training = True
        try:
            yield
        finally:
            comfy.model_management.in_training = training_before


def prepare(
    model, clip, concept: str, preserve: str, settings: Settings, resume: Erasure | None = None,
    on_read: Callable[[int, int], None] = lambda done, total: None, open_file: OpenFile | None = None,
    only_in: str = "", on_stage: Callable[[str], None] = lambda name: None,
) -> Learning:  # fmt: skip
    """Checks every input and sets a training run up; call inside ``gradients()``.

    ``concept``: names of one concept; ``preserve``: texts to keep (see ``texts.names.read_field``, for ``open_file``,
    too), none to have them found; ``only_in``: texts beside which alone it is erased; ``on_read(done, total)`` is told
    how far the text encoder is, and ``on_stage(name)`` what begins. Raises ErasureError.
    """
    settings.check()
    attach.require_unet(model)
    require_trainable(model)
    if LEARNED[settings.method].role:
        attach.require_blocks(model, settings.blocks)
    on_stage("Reading the names")
    encode = Encoder(clip, on_read)
    request = _with_names_in_front(_read(model, encode, concept, preserve, only_in, open_file), model)
    if settings.target == "anchor":
        anchors_for(settings.anchor, request.texts)
    if resume is not None:
        _check_resume(model, request.texts, settings, resume)
        settings = replace(settings, prompt_first=0.0)  # its prompt has learned already
    memory = Memory() if _says_embedding(request) else MEMORY.of(model, clip)
    return _Setting(model, encode, request, settings, resume, memory, on_stage).up()


def _says_embedding(request: Request) -> bool:
    """Whether the texts of a request depend on files, which can change."""
    return any(text.startswith(EMBEDDING) for text in (*request.texts, *request.preserve, *request.contexts))


class _Setting:
    """Sets a training up: from texts that have been read and checked to a run."""

    def __init__(
        self, model, encode: Encoder, request: Request, settings: Settings, resume: Erasure | None, memory: Memory,
        on_stage: Callable[[str], None],
    ):  # fmt: skip
        self.model, self.encode, self.resume, self.memory, self.on_stage = model, encode, resume, memory, on_stage
        self.typed, self.settings, self.method = request, settings, LEARNED[settings.method]
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
        settings = self.settings
        if request.preserve or not self._wants_preserved():
            return request, near, _anchors(request, near, settings)
        chosen = choose_texts(encode, request, Instant(), before)
        first = [[target, *row] for target, row in zip(chosen.targets, near, strict=True)]
        note = "Nothing was typed into 'preserve', so common words were taken, those close to the concept first."
        complete = replace(request, preserve=list(chosen.kept), notes=[*request.notes, note])
        return complete, near, _anchors(complete, first, settings)

    def up(self) -> Learning:
        """The run, with all that its erasure is told of."""
        encode, s, method, resume = self.encode, self.settings, self.method, self.resume
        gate, gap = self._gate() if method.role and s.gate else (None, None)
        prompt = _prompt(encode, self.names, s, self.generator, resume) if method.role else None
        attached = None if prompt is None else _attached(encode, prompt, s, method.role, gate)
        delta = self._delta(prompt) if method.changes != "nothing" else None
        self.on_stage("Reading the texts to learn on")
        encode.known.update(self._remembered())
        contexts = self.request.contexts
        phrases = _phrases(encode, self.anchors, self.short, s, contexts)
        staying = only_in_.staying(self.names, contexts, self.short) if contexts else ()
        kept = _kept_texts(encode, list(self.request.preserve), staying)
        choices = _choices(encode, self.near, method.targets, s)
        self._remember_texts()
        run = Run(plain_patcher(self.model), encode, phrases, kept, prompt, attached, delta, choices, s, self.memory)
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

    def _delta(self, prompt: ErasurePrompt | None) -> deltas.Delta | deltas.Mask:
        """The change of the weights where it starts, and the prompt there, too, where that starts from it."""
        s, resume = self.settings, self.resume
        directions = None if resume else _directions(self.encode, self.names, self.short, s, self._beside())
        delta = _delta(self.model, self.method.changes, s, self.generator, directions, resume)
        if isinstance(delta, deltas.Delta) and s.weights_start == "closed form" and resume is None:
            change = self.memory.part("closed form", self._key(s.weights, s.rank), self._closed_form)
            delta.begin_with(change)
            if prompt is not None and s.start == "concept":
                tokens = _from_the_name_on(self.encode, self.names, s.tokens)
                prompt.begin_with(_revived(self.model, change, tokens))
        return delta

    def _closed_form(self) -> Mapping[str, Change]:
        self.on_stage("Working out the closed form")
        return _closed_form(self.model, self.encode, self.request, self.anchors, self.settings)

    def _checks(self) -> tuple[tuple[Probe, ...], list[Finding], list[str]]:
        self.on_stage("Checking the words")
        return _checks(self.encode, self.request, self.anchors, self.near)


def _attached(
    encode: Encoder, prompt: ErasurePrompt, settings: Settings, role: str, gate: GateTensors | None
) -> PromptTensors:
    chunk = encode("").context.shape[1]
    return PromptTensors(prompt.keys, prompt.values, settings.blocks, role, chunk, gate)


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


def learn(
    learning: Learning, on_step: Callable[[int, float], None] = lambda step, loss: None, preview: Preview | None = None
) -> Erasure:
    """Trains to the end and returns the erasure; call inside ``gradients()``."""
    settings = learning.run.settings
    phases = [*LEARNED[settings.method].phases(settings), *adversary(settings)]
    training.train(learning.run, phases, learning.progress, on_step, preview)
    return learning.judged()


def plain_patcher(model):
    """A clone whose weights are ordinary tensors in one place, which training needs. Raises ErasureError."""
    require_trainable(model)
    return model.clone(disable_dynamic=True) if model.is_dynamic() else model.clone()


def require_trainable(model) -> None:
    """Raises ErasureError for a model of which the host cannot make a ``plain_patcher``, or that changes on its way."""
    if attach.is_windowed(model):
        raise ErasureError(
            "The model carries an erasure that acts in a part of sampling only, which learning on it would not see: "
            "set start_percent to 0 and end_percent to 1 in its Apply Erasure node."
        )
    if model.is_dynamic() and model.cached_patcher_init is None:
        raise ErasureError(
            "The loader of this model cannot reload it for training: use the stock checkpoint or diffusion-model "
            "loader, or start ComfyUI with --disable-dynamic-vram."
        )
    require_unpacked(model)


def _read(model, encode: Encoder, concept: str, preserve: str, only_in: str, open_file: OpenFile | None) -> Request:
    """The request of a training's fields. Raises ErasureError for what only a closed form can be asked."""
    request = read_request(model, encode, concept, preserve, only_in, open_file)
    for name in request.names:
        if name.strength != 1:
            raise ErasureError(
                f"A strength behind a colon is for Erase Concept and Instant Erasure: type '{plain(name.text)}' "
                "without it, and set the strength where the trained erasure is applied."
            )
    return request


def _with_names_in_front(request: Request, model) -> Request:
    """The request with names that were erased from the model before and became one of its names: they go with it."""
    chained = leading_to(erased_from(model), request.texts)
    targets = {name.text: name.target for name in request.names}
    return replace(request, names=[*request.names, *(Name(text, targets[root]) for text, root in chained.items())])


def _anchors(request: Request, near: Sequence[Sequence[str]], settings: Settings) -> dict[str, str | None]:
    """The text that takes each name's place, if any: what its line says, the user's anchor, or the nearest of all."""
    texts: list[str | None] = [row[0] if settings.target == "nearest neighbour" else None for row in near]
    if settings.target == "anchor":
        texts = list(anchors_for(settings.anchor, request.texts))
    if any(name.target is not None for name in request.names):
        texts = [row[0] if text is None else text for text, row in zip(texts, near, strict=True)]
    pairs = zip(request.names, texts, strict=True)
    return {name.text: text if name.target is None else name.target for name, text in pairs}


def _closed_form(
    model, encode: Encoder, request: Request, anchors: Mapping[str, str | None], settings: Settings
) -> Mapping[str, Change]:
    """The change that Instant Erasure makes for the same texts and target, at the rank that is to be learned."""
    weights = "values" if settings.weights == "values" else "keys+values"
    rank = -(-settings.rank // len(request.names))
    target = "nearest neighbour" if settings.target == "anchor" else settings.target  # each name has its own anchor
    how = Instant(target=target, weights=weights, rank=rank)
    aimed = replace(request, names=[Name(text, anchor) for text, anchor in anchors.items()])
    return solve_texts(model, encode, choose_texts(encode, aimed, how, erased_from(model)), how).delta


def _from_the_name_on(encode: Encoder, names: Sequence[str], count: int) -> torch.Tensor:
    """The encodings [count, d] of the names and of what follows them, which carries the concept, too."""
    each = -(-count // len(names))
    rows = [encode(name).context[0, encode.place("{}", name).start :][:each] for name in names]
    return torch.cat(rows)[:count]


def _revived(model, delta: Mapping[str, Change], tokens: torch.Tensor) -> torch.Tensor:
    """The encodings [n, d] for which changed projections come nearest to what the original ones gave for ``tokens``:
    what revives a concept, as in RECE (``methods/rece.py``), so that the key need not be found from afar.
    """
    normal = cross = torch.tensor(0.0)
    for name, weight in deltas.effective_weights(model, delta).items():
        weight = weight.double().cpu()
        changed = weight + delta[name].dense().double().cpu()
        normal, cross = normal + changed.T @ changed, cross + changed.T @ weight
    normal.diagonal().add_(REVIVING * normal.diagonal().mean())
    return (tokens.double().cpu() @ torch.linalg.solve(normal, cross).T).float()


def _phrases(
    encode: Encoder, anchors: Mapping[str, str | None], kept: Sequence[str], settings: Settings,
    contexts: Sequence[str] = (),
) -> list[Phrase]:  # fmt: skip
    """The texts that losses speak of: bare names as in the paper, or also in phrasings and beside kept texts; with
    ``contexts``, names beside one of these alone."""
    names = list(anchors)

    def phrase(template: str, neutral: str, name: str) -> Phrase:
        anchor = anchors[name]
        replaced = None if anchor is None else encode(say(template, anchor))
        return Phrase(encode(say(template, name)), encode(neutral), replaced, name, template)

    if contexts:
        patterns = product(only_in_.patterns(kept), contexts, names)
        return [phrase(p.format(concept="{}", kept=context), context, name) for p, context, name in patterns]
    if not settings.in_context:
        return [phrase("{}", "", name) for name in names]
    plain = [phrase(p, "", name) for name, p in product(names, PHRASINGS)]
    beside = [
        phrase(template.format(concept="{}", kept=text), text, name)
        for name, text, template in product(names, kept, IN_CONTEXT)
    ]
    return plain * max(1, len(beside) // len(plain)) + beside


def _kept_texts(encode: Encoder, kept: Sequence[str], more: Sequence[Sequence[str]] = ()) -> list:
    """The empty prompt, and the preserve set in phrasings and in pairs; ``more`` lists of texts, too."""
    texts = [p.format(text) for text, p in product(kept, PHRASINGS[:4])]
    texts += [f"{a} {b}" for a, b in product(kept, kept) if a != b][:400]
    texts += [text for part in more for text in part]
    return [encode("")] * max(1, len(texts) // 10) + [encode(text) for text in texts]


def _check_resume(model, names: Sequence[str], settings: Settings, resume: Erasure) -> None:
    """Raises ErasureError for an erasure that training cannot go on from."""
    attach.check_fit(model, resume)
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
    encode: Encoder, names: Sequence[str], settings: Settings, generator: torch.Generator, resume: Erasure | None
) -> ErasurePrompt:
    if resume is None:
        own = torch.cat([encode.span(name) for name in names])
        return ErasurePrompt.start(settings.start, settings.tokens, own, encode("").context[0], generator)
    if len(resume.prompts) != 1:
        raise ErasureError(
            "The erasure to resume from holds no single prompt: resume from one that Train Erasure made."
        )
    old = resume.prompts[0]
    if len(old.keys) != settings.tokens:
        raise ErasureError(
            f"The erasure to resume from was trained with {len(old.keys)} tokens, and {settings.tokens} are chosen: "
            "choose the same number, or start anew without it."
        )
    return ErasurePrompt(old.keys, old.values)


def _directions(
    encode: Encoder, names: Sequence[str], kept: Sequence[str], settings: Settings, texts: GateTexts | None
) -> torch.Tensor | None:
    if settings.rank == 0 or settings.down_start == "random":
        return None
    return concept_directions(encode, names, kept, settings.rank, texts)


def _choices(encode: Encoder, near: Sequence[Sequence[str]], targets: bool, settings: Settings) -> dict[str, Choice]:
    """Choices that learn beside the weights: among the preserve set, or without one among the nearest common words."""
    adversarial = settings.preserve_by == "adversarial"
    if not targets and not adversarial:
        return {}
    texts = list(dict.fromkeys(word for row in near for word in row[:CANDIDATES]))
    choices = {}
    if adversarial:
        choices["preserved"] = Choice([encode(text) for text in texts], temperature=2.0, hard=True)
    if targets:
        choices["target"] = Choice([encode(row[i]) for row in near for i in range(min(TARGETS, len(row)))], 0.1, False)
    return choices


def _delta(
    model, changes: str, settings: Settings, generator: torch.Generator, directions: torch.Tensor | None,
    resume: Erasure | None,
) -> deltas.Delta | deltas.Mask:  # fmt: skip
    names = deltas.weight_names(model.model, settings.weights)
    delta: deltas.Delta | deltas.Mask
    if changes == "pruned":
        delta = deltas.Mask(deltas.effective_weights(model, names))
    else:
        delta = deltas.Delta(deltas.true_shapes(model, names), settings.rank, generator, directions)
    if resume is not None:
        delta.start_from(resume.delta)
    return delta


def with_sampling(settings: Settings, **changes) -> Settings:
    """The settings with other trajectory settings."""
    return replace(settings, sampling=replace(settings.sampling, **changes))


def with_pictures(model, settings: Settings, width: int | None = None, height: int | None = None) -> Settings:
    """The settings with pictures of a size in pixels, or of that which the model was made for."""
    latent = model.get_model_object("latent_format")
    ratio = getattr(latent, "spacial_downscale_ratio", 8)
    side = picture_size(model)
    return with_sampling(settings, shape=(latent.latent_channels, (height or side) // ratio, (width or side) // ratio))


def picture_size(model) -> int:
    """Pixels a side of the pictures that a UNet was made for, as far as its sizes tell: 1024 for SDXL and its refiner,
    768 for those of SD 2 that predict v, 512 for other published ones, 64 for toys."""
    network = getattr(model.model.model_config, "unet_config", {})
    width, text = network.get("model_channels") or 320, network.get("context_dim") or 768
    if width < SMALLEST_PUBLISHED:
        return 64
    if text in (2048, 1280):
        return 1024
    kind = getattr(model.model, "model_type", None)
    return 768 if text == 1024 and kind is comfy.model_base.ModelType.V_PREDICTION else 512
