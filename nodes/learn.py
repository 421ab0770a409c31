"""The nodes that learn an erasure: Train Erasure, and its settings, which few people need."""

from collections.abc import Sequence
from dataclasses import replace

import comfy.samplers
from comfy_api.latest import io, ui

from ..erasure import learning
from ..erasure.artifact import Erasure, ErasureError
from ..erasure.families.family import WEIGHTS
from ..erasure.host import attach
from ..erasure.host.subject import subject
from ..erasure.methods import LEARNED, preset_for
from ..erasure.parts.prompt import BLOCKS, STARTS
from ..erasure.targets import ANCHOR
from ..erasure.training.objectives import SPACES
from ..erasure.training.pictures import with_pictures
from ..erasure.training.settings import FROM_PRESET, PRESERVE_BY, TARGETS, WEIGHTS_START, Own, Settings, number
from . import inputs
from .checks import refusal, something_to_erase
from .files import FILE, save_new
from .instant import only_in
from .messages import file_facts, message_of, open_input_file
from .types import CATEGORY, KEPT, ErasureSocket, SettingsSocket, lenient, show, telling
from .watch import Watch

NARROW = 0.05
"""Gap of a text gate that is too narrow to rely on."""
RECOMMENDED = preset_for("recommended")
NUMBERS: dict[str, tuple[type, float, float]] = {
    "prompt_lr": (float, 1e-9, 1), "weight_lr": (float, 1e-9, 1), "tokens": (int, 1, 77), "rank": (int, 0, 256),
    "batch": (int, 1, 64), "eta": (float, 0, 10), "preserve_weight": (float, 0, 100), "sampling_steps": (int, 1, 1000),
    "cfg": (float, 1, 30), "width": (int, 16, 4096), "height": (int, 16, 4096), "best_of": (int, 1, 16),
}  # fmt: skip
"""Fields of Training Settings that hold a number, as text: its kind, the least and the most."""
SAMPLING = {"sampler": "sampler", "scheduler": "scheduler", "sampling_steps": "steps", "cfg": "cfg"}
"""Inputs that say how latents are drawn, and the fields of ``Sampling`` that they are."""


class ErasureLearn(io.ComfyNode):
    """MODEL + CLIP + texts -> ERASURE, by training."""

    @classmethod
    @lenient
    def define_schema(cls):
        return io.Schema(
            node_id="ErasureLearn",
            display_name="Train Erasure",
            category=CATEGORY,
            description="Learns to erase a concept from the model, and leaves a key that brings it back (KPOP). Needs "
            "no pictures; the model draws its own. Nothing is saved until you connect Save Erasure.",
            hidden=[io.Hidden.unique_id],
            **KEPT,
            search_aliases=[
                "unlearn", "forget", "train", "finetune", "remove concept", "erase", "KPOP", "ESD", "LECO", "key",
            ],
            inputs=[
                *inputs.what_to_learn(),
                io.String.Input(
                    "preserve", default="", multiline=True, placeholder="what must stay (empty: found for you)",
                    tooltip="What must not change, one a line or with commas: things close to the concept matter most. "
                    "Empty: common words close to the concept are found; the node says which.",
                ),
                inputs.preset(),
                io.String.Input(
                    "target", default="", placeholder="empty: found for you",
                    tooltip="What is drawn instead, e.g. a building. Empty: with 'recommended' the nearest neighbour "
                    "of the concept, and the node says which; with the papers whatever is drawn without it.",
                ),
                io.Int.Input(
                    "steps", default=RECOMMENDED.steps, min=1, max=100000,
                    tooltip="Training steps. The presets have 100 (recommended) and 1,000 (papers). With 'resume': so "
                    "many more.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=False,
                    tooltip="Same seed and settings, same erasure.",
                ),
                inputs.resume(),
                SettingsSocket.Input(
                    "settings", optional=True,
                    tooltip="Training Settings: everything else, from the method to the size of the pictures. Without "
                    "it all is as the preset has it.",
                ),
                io.Vae.Input(
                    "vae", optional=True,
                    tooltip="For the node's strip of pictures only: with it they are decoded, without it they are the "
                    "host's quick previews.",
                ),
            ],
            outputs=outputs(),
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, concept=None):
        return refusal(cls, something_to_erase, concept)

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        return file_facts(*inputs.values(), getattr(inputs.get("settings"), "only_in", ""))

    @classmethod
    @telling
    def execute(
        cls, model, clip, concept, preserve, preset, target, steps, seed, resume=None, settings=None, vae=None
    ) -> io.NodeOutput:  # fmt: skip
        own = settings or Own()
        resolved = settings_from(model, preset, target, steps, seed, own)
        used = preset_for(preset, own.method, subject(model).family)
        lines = [f"As {preset} has it, but for what is set here:", *resolved.lines(used)]
        if own.place is not None:
            show(cls, "\n".join(lines), own.place)
        texts = (concept, preserve, own.only_in)
        notices = [] if "weights" in own.learning else nearest_weights(model, preset, own.method)
        return train(cls, model, clip, texts, resolved, resume, vae, used, notices)


class ErasureTrainingSettings(io.ComfyNode):
    """All of a training that few people need to set -> SETTINGS."""

    @classmethod
    @lenient
    def define_schema(cls):
        return io.Schema(
            node_id="ErasureTrainingSettings",
            display_name="Training Settings",
            category=CATEGORY,
            description="What a training does otherwise than its preset. A field left at 'from preset' is as the "
            "preset has it; when Train Erasure runs, all values that it uses are shown here.",
            hidden=[io.Hidden.unique_id],
            **KEPT,
            search_aliases=["method", "learning rate", "rank", "advanced", "ESD", "SDD", "sampler", "erase"],
            inputs=[*_what_learns(), *_what_is_held(), *_what_is_drawn(), only_in()],
            outputs=[SettingsSocket.Output(display_name="settings", tooltip="For Train Erasure.")],
        )

    @classmethod
    @telling
    def execute(cls, only_in, **fields) -> io.NodeOutput:
        own = own_from(fields, only_in, cls.hidden.unique_id if cls.hidden is not None else None)
        changed = [f"{name} {value}" for name, value in fields.items() if _is_own(value)]
        message = f"Set here: {', '.join(changed)}." if changed else "Everything as the preset has it."
        return io.NodeOutput(own, ui=show(cls, f"{message} Train Erasure shows all values here when it runs."))


def _what_learns() -> list[io.Input]:
    return [
        _choice("method", LEARNED, "kpop: weights forget, the prompt is a key. prompt only: weights stay, the prompt "
                "itself erases. dumo: weights stay, a control branch beside them erases. The others change "
                "weights and leave no key; the help page says how.", "kpop", "kpop"),
        _choice("target", [name for name in TARGETS if name != ANCHOR], "What the concept becomes where nothing is "
                "typed into 'target' of Train Erasure. empty prompt: whatever the model draws without it. nearest "
                "neighbour: what the text encoder takes for most alike.", "target"),
        _number("prompt_lr", "Learning rate of the prompt."),
        _number("weight_lr", "Learning rate of the weights' change. In 'recommended' wide layers get less; what you "
                "type holds for all."),
        _number("tokens", "Tokens of the erasure prompt, up to 77."),
        _choice("blocks", BLOCKS, "Cross-attention blocks that see the prompt.", "blocks"),
        _choice("start", STARTS, "What the prompt starts from.", "start"),
        _choice("gate", ["on", "off"], "on: the prompt acts only on prompts that speak of the concept. off: on every "
                "prompt, as in the paper.", "on", "off"),
        _choice("weights", WEIGHTS, "What changes: projections of the cross-attention, or all but it.", "weights"),
        _choice("weights_start", WEIGHTS_START, "What the weights' change starts from: nothing, or what Instant "
                "Erasure works out for the same texts.", "weights_start"),
        _number("rank", "Rank of the weights' change, up to 256; 0 is a full matrix."),
        _number("batch", "Latents a step, up to 64."),
    ]  # fmt: skip


def _what_is_held() -> list[io.Input]:
    return [
        _number("eta", "How far the target 'empty prompt' is pushed away from the concept, 0 to 10."),
        _choice("loss_space", SPACES, "What losses compare: predicted noise, or the clean latents it implies.",
                "space"),
        _number("preserve_weight", "Weight of the preserve set's loss, up to 100; 0 is off."),
        _choice("preserve_by", PRESERVE_BY, "What the preserve set's loss looks at: any of it, or what a learned "
                "choice finds hurt most (adversarial preservation).", "preserve_by"),
        _number("best_of", "So many of the last states are compared on latents that were not learned on, and the best "
                "is kept; 1 keeps the last one."),
    ]  # fmt: skip


def _what_is_drawn() -> list[io.Input]:
    how = RECOMMENDED.sampling
    size = "what the model was made for: 512, SDXL 1024"
    return [
        _choice("sampler", comfy.samplers.SAMPLER_NAMES, "The host's sampler that draws the latents to learn on.",
                how.sampler, how.sampler),
        _choice("scheduler", comfy.samplers.SCHEDULER_NAMES, "The host's scheduler for them.",
                how.scheduler, how.scheduler),
        _number("sampling_steps", "Sampling steps of one run; all of them are learned on.", how.steps),
        _number("cfg", "Guidance scale of these runs, 1 to 30.", f"{how.cfg:g}"),
        _number("width", "Width in pixels of the pictures to learn on.", size),
        _number("height", "Their height.", size),
        _choice("checkpointing", ["on", "off"], "on: less memory, a third more time; the result is the same.", "off",
                "off"),
    ]  # fmt: skip


def _choice(name: str, options, tooltip: str, ours: str, papers: str | None = None) -> io.Input:
    """A choice that can be left to the preset; ``ours`` and ``papers``: what those have, or the field that says so."""
    known = f"{tooltip} {_presets_have(ours, papers)}"
    return io.Combo.Input(name, options=[FROM_PRESET, *options], default=FROM_PRESET, tooltip=known)


def _number(name: str, tooltip: str, both: object = None) -> io.Input:
    """A number, as text, that can be left to the preset."""
    values = _presets_have(name) if both is None else _presets_have(str(both), str(both))
    return io.String.Input(name, default=FROM_PRESET, tooltip=f"{tooltip} {values}")


def _presets_have(ours: str, papers: str | None = None) -> str:
    if papers is None:
        ours, papers = (f"{getattr(preset_for(preset), ours)}" for preset in ("recommended", "paper v3"))
    return f"The presets have {ours}." if ours == papers else f"recommended has {ours}, the papers {papers}."


def outputs() -> list[io.Output]:
    return [
        ErasureSocket.Output(display_name="erasure", tooltip="For Apply Erasure, Recover Concept and Save Erasure."),
        io.LossMap.Output(display_name="loss_map", tooltip="For Plot Loss Graph."),
    ]


# ---------------------------------------------------------------- from inputs to settings


def _is_own(value: object) -> bool:
    """Whether a field says anything else than that it is as the preset has it."""
    return str(value).strip().lower() not in ("", FROM_PRESET)


def own_from(fields: dict, only_in: str = "", place: str | None = None) -> Own:
    """What the fields of Training Settings say. Raises ErasureError for a number that is none."""
    values = {name: value for name, value in fields.items() if _is_own(value) and name not in NUMBERS}
    values |= {name: number(name, str(fields[name]), *NUMBERS[name]) for name in NUMBERS if _is_own(fields[name])}
    sampling = {SAMPLING[name]: values.pop(name) for name in SAMPLING if name in values}
    size = {name: values.pop(name, None) for name in ("width", "height")}
    values |= {name: values[name] == "on" for name in ("gate", "checkpointing") if name in values}
    if "loss_space" in values:
        values["space"] = values.pop("loss_space")
    return Own(values, sampling, **size, only_in=only_in, place=place)


def settings_from(model, preset: str, target: str, steps: int, seed: int, own: Own) -> Settings:
    """The preset's settings, with everything that was set otherwise in its place."""
    settings = replace(own.on(preset_for(preset, own.method, subject(model).family)), steps=steps, seed=seed)
    if target.strip():
        settings = replace(settings, target=ANCHOR, anchor=target)
    return with_pictures(model, settings, own.width, own.height)


def nearest_weights(model, preset: str, method: str | None) -> list[str]:
    """A sentence where a preset names weights that the model does not offer, so that others change."""
    family = subject(model).family
    named, changing = preset_for(preset, method).weights, preset_for(preset, method, family).weights
    if named in family.choices:
        return []
    return [f"The preset changes '{named}', which {family.name} models do not offer: '{changing}' change instead."]


# ---------------------------------------------------------------- training, and what is said of it


def train(
    cls, model, clip, texts: Sequence[str], settings: Settings, resume, vae=None, preset: Settings | None = None,
    notices: Sequence[str] = (),
) -> io.NodeOutput:  # fmt: skip
    """Trains for a node; ``texts``: its concept, preserve set and only_in; ``notices``: what else it has to say."""
    doubts = [*notices, *(attach.doubts(model, resume) if resume is not None else [])]
    concept, preserve, beside = texts
    with learning.gradients():
        watch = Watch(cls, model, settings)
        run = learning.prepare(
            model, clip, concept, preserve, settings, resume, watch.reading, open_input_file, beside, watch.stage
        )
        watch.settings = run.run.settings
        try:
            erasure = learning.learn(run, watch.step, watch)
            watch.end()
        except BaseException:  # an interrupt is no Exception; what was learned so far is kept either way
            show(cls, keep_partial(run))
            raise
    text = show(cls, summary(run, erasure, preset, doubts)).as_dict()
    strip = watch.strip.sheet(vae)
    pictures = {} if strip is None else ui.PreviewImage(strip, cls=cls).as_dict()
    return io.NodeOutput(erasure, {"loss": run.progress.losses}, ui={**pictures, **text})


def keep_partial(run: learning.Learning) -> str:
    """Saves what was learned before an interrupt or a failure, where Load Erasure finds it; returns what to say."""
    steps = len(run.progress.losses)
    if not steps:
        return "Ended before the first step: nothing was learned."
    name = "".join(c if c.isalnum() else "-" for c in run.request.texts[0])[:40]
    try:
        [file] = save_new(f"erasures/{name}_interrupted", {FILE: run.erasure()})
        message = (
            f"Ended early; the {steps} steps learned so far are in output/{file}. To go on from there, connect it to "
            "'resume' with Load Erasure."
        )
    except ErasureError as error:
        message = f"Ended early, and what was learned could not be kept: {error}"
    learning.loop.log.warning("%s", message)
    return message


def summary(
    run: learning.Learning, erasure: Erasure, preset: Settings | None = None, notices: Sequence[str] = ()
) -> str:
    """What the node says under itself when it is done: the verdict first, the settings that were used last."""
    settings, best = run.run.settings, run.progress.best
    compared = f" Of the last states it kept {best}, by latents that were not learned on." if best else ""
    steps = f"{len(run.progress.losses)} steps.{compared}"
    gap = [] if run.gate_gap is None else [f"Text gate: gap {run.gate_gap:.2f} between the concept and what stays."]
    doubts = [*notices, run.progress.stopped]
    if run.gate_gap is not None and run.gate_gap <= NARROW:
        doubts.append(
            "The text gate hardly tells the concept from other texts: preserve texts close to the concept, or name it "
            "in other words."
        )
    return "\n".join([message_of(erasure, *doubts), " ".join([steps, *gap]), *settings.lines(preset)])


NODES = [ErasureLearn, ErasureTrainingSettings]
