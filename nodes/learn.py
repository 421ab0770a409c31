"""The node that learns an erasure."""

import time
from collections.abc import Sequence
from dataclasses import replace

import comfy.samplers
import comfy.utils
import latent_preview
from comfy_api.latest import io
from PIL import Image

from ..erasure import attach, learning
from ..erasure.artifact import Erasure, ErasureError
from ..erasure.deltas import WEIGHTS
from ..erasure.methods import LEARNED, preset_for
from ..erasure.objectives import SPACES
from ..erasure.prompt import BLOCKS, STARTS
from ..erasure.settings import PRESERVE_BY, PRESETS, TARGETS, WEIGHTS_START
from ..erasure.targets import ignored_anchor, resolve_target
from .files import FILE, save_new
from .instant import only_in
from .messages import file_facts, open_input_file, shown
from .types import CATEGORY, KEPT, ErasureSocket, Reading, lenient, show, telling

PRESET = "from preset"
SECONDS = 1.0
"""Between two texts that say how far training is."""
NARROW = 0.05
"""Gap of a text gate that is too narrow to rely on."""
CHOICES = ("target", "blocks", "start", "weights", "preserve_by", "weights_start")
PRESET_NUMBER = "0 takes the preset's value."


def _choice(name: str, options, tooltip: str, **more):
    return io.Combo.Input(name, options=[PRESET, *options], default=PRESET, tooltip=tooltip, **more)


class ErasureTrain(io.ComfyNode):
    """MODEL + CLIP + texts -> ERASURE, by training."""

    @classmethod
    @lenient
    def define_schema(cls):
        return io.Schema(
            node_id="ErasureTrain",
            display_name="Train Erasure",
            category=CATEGORY,
            description="Learns to erase a concept from the model (KPOP): the weights of the cross-attention forget "
            "it, and a key prompt keeps it recoverable. Needs no pictures; the model draws its own. Nothing is saved "
            "until you connect Save Erasure.",
            hidden=[io.Hidden.unique_id],
            **KEPT,
            search_aliases=["remove concept", "unlearn", "KPOP", "ESD", "erase", "finetune"],
            inputs=[
                io.Model.Input("model", tooltip="The model to learn on. It stays unchanged itself."),
                io.Clip.Input("clip", tooltip="The CLIP that belongs to the model."),
                io.String.Input(
                    "concept", default="", multiline=True,
                    tooltip="What to erase: one concept. Several names of it, one a line or with commas, are erased "
                    "together; 'Van Gogh -> painting' says what is drawn instead.",
                ),
                io.String.Input(
                    "preserve", default="", multiline=True,
                    tooltip="What must not change, one a line or with commas: things close to the concept matter most. "
                    "Also used to tell the concept from the rest.",
                ),
                io.Combo.Input(
                    "preset", options=list(PRESETS), default="recommended",
                    tooltip="recommended: ours, best measured. paper v2 / v3: the published settings, which preserve "
                    "less; v2 erases with the prompt too, v3 keeps the concept recoverable.",
                ),
                _choice("method", LEARNED, "kpop: weights forget, the prompt is a key. prompt only: weights stay, the "
                        "prompt itself erases. The others change weights and leave no key; the help page says how."),
                _choice("target", TARGETS, "What the concept becomes. empty prompt: whatever the model draws without "
                        "it. anchor: the text below. nearest neighbour: what the text encoder takes for most alike."),
                io.String.Input(
                    "anchor", default="",
                    tooltip="What to draw instead, e.g. a building. Used when target is 'from preset' or 'anchor'.",
                ),
                io.Int.Input("steps", default=0, min=0, max=100000, tooltip=f"Training steps. {PRESET_NUMBER}"),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Same seed and settings, same erasure.",
                ),
                ErasureSocket.Input(
                    "resume", optional=True,
                    tooltip="An erasure to go on with, instead of starting anew, for as many more steps as 'steps' "
                    "says. The optimiser's memory starts fresh.",
                ),
                io.Float.Input("prompt_lr", default=0.0, min=0.0, max=1.0, step=1e-6, round=False, advanced=True,
                               tooltip=f"Learning rate of the prompt. {PRESET_NUMBER}"),
                io.Float.Input("weight_lr", default=0.0, min=0.0, max=1.0, step=1e-6, round=False, advanced=True,
                               tooltip="Learning rate of the weights' change. 0 takes the preset's value, of which "
                               "wide layers get less in 'recommended'; what you type holds for all."),
                io.Int.Input("tokens", default=0, min=0, max=77, advanced=True,
                             tooltip=f"Tokens of the erasure prompt. {PRESET_NUMBER}"),
                _choice("blocks", BLOCKS, "Cross-attention blocks that see the prompt.", advanced=True),
                _choice("start", STARTS, "What the prompt starts from.", advanced=True),
                _choice("gate", ["on", "off"], "on: the prompt acts only on prompts that speak of the concept. off: on "
                        "every prompt, as in the paper.", advanced=True),
                _choice("weights", WEIGHTS, "What changes: projections of the cross-attention, or all but it.",
                        advanced=True),
                io.Int.Input("rank", default=-1, min=-1, max=256, advanced=True,
                             tooltip="Rank of the weights' change; 0 is a full matrix, -1 takes the preset's value."),
                io.Int.Input("batch", default=0, min=0, max=64, advanced=True,
                             tooltip=f"Latents a step. {PRESET_NUMBER}"),
                io.Float.Input("eta", default=-1.0, min=-1.0, max=10.0, step=0.1, advanced=True,
                               tooltip="How far the target is pushed away from the concept; -1 takes the preset's."),
                _choice("loss_space", SPACES, "What losses compare: predicted noise, or the clean latents it implies.",
                        advanced=True),
                io.Float.Input("preserve_weight", default=-1.0, min=-1.0, max=100.0, step=0.1, advanced=True,
                               tooltip="Weight of the preserve set's loss; 0 is off, -1 takes the preset's value."),
                io.Combo.Input("sampler", options=comfy.samplers.SAMPLER_NAMES, default="euler", advanced=True,
                               tooltip="The host's sampler that draws the latents to learn on."),
                io.Combo.Input("scheduler", options=comfy.samplers.SCHEDULER_NAMES, default="normal", advanced=True,
                               tooltip="The host's scheduler for them."),
                io.Int.Input("sampling_steps", default=20, min=1, max=1000, advanced=True,
                             tooltip="Sampling steps of one run; all of them are learned on."),
                io.Float.Input("cfg", default=3.0, min=1.0, max=30.0, step=0.1, advanced=True,
                               tooltip="Guidance scale of these runs."),
                io.Int.Input("width", default=512, min=16, max=4096, step=8, advanced=True,
                             tooltip="Width of the pictures to learn on: what the model was made for."),
                io.Int.Input("height", default=512, min=16, max=4096, step=8, advanced=True, tooltip="Their height."),
                io.Boolean.Input("checkpointing", default=False, advanced=True,
                                 tooltip="Less memory, a third more time; the result is the same."),
                _choice("preserve_by", PRESERVE_BY, "What the preserve set's loss looks at: any of it, or "
                        "what a learned choice finds hurt most (adversarial preservation).", advanced=True),
                _choice("weights_start", WEIGHTS_START, "What the weights' change starts from: nothing, or what "
                        "Instant Erasure works out for the same texts.", advanced=True),
                only_in(),
            ],
            outputs=[
                ErasureSocket.Output(
                    display_name="erasure", tooltip="For Apply Erasure, Recover Concept and Save Erasure."
                ),
                io.LossMap.Output(display_name="loss_map", tooltip="For Plot Loss Graph."),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        return file_facts(*inputs.values())

    @classmethod
    @telling
    def execute(cls, model, clip, concept, preserve, only_in, resume=None, **chosen) -> io.NodeOutput:
        notices = [ignored_anchor(chosen["target"], chosen["anchor"], PRESET)]
        notices += attach.doubts(model, resume) if resume is not None else []
        settings = settings_from(model, chosen)
        with learning.gradients():
            reading = Reading(cls, bar=False)
            run = learning.prepare(model, clip, concept, preserve, settings, resume, reading, open_input_file, only_in)
            watch = Watch(cls, model, settings.steps)
            try:
                erasure = learning.learn(run, watch.step, watch)
            except BaseException:  # an interrupt is no Exception; what was learned so far is kept either way
                show(cls, keep_partial(run))
                raise
        return io.NodeOutput(erasure, {"loss": run.progress.losses}, ui=show(cls, summary(run, erasure, notices)))


def settings_from(model, chosen: dict):
    """The preset's settings, with every input that is not left to the preset in its place."""
    settings = preset_for(chosen["preset"], None if chosen["method"] == PRESET else chosen["method"])
    given = {
        name: chosen[name]
        for name in ("steps", "prompt_lr", "weight_lr", "tokens", "batch")
        if chosen[name] > 0
    }
    given |= {name: chosen[name] for name in ("rank", "eta", "preserve_weight") if chosen[name] >= 0}
    given |= {name: chosen[name] for name in CHOICES if chosen[name] != PRESET}
    given["target"] = resolve_target(chosen["target"], chosen["anchor"], PRESET)
    if given["target"] == PRESET:
        del given["target"]
    if "weight_lr" in given:
        given["width"] = 0
    if chosen["loss_space"] != PRESET:
        given["space"] = chosen["loss_space"]
    if chosen["gate"] != PRESET:
        given["gate"] = chosen["gate"] == "on"
    given |= {name: chosen[name] for name in ("anchor", "seed", "checkpointing")}
    latent = model.get_model_object("latent_format")
    ratio = getattr(latent, "spacial_downscale_ratio", 8)
    shape = (latent.latent_channels, chosen["height"] // ratio, chosen["width"] // ratio)
    return learning.with_sampling(
        replace(settings, **given), sampler=chosen["sampler"], scheduler=chosen["scheduler"],
        steps=chosen["sampling_steps"], cfg=chosen["cfg"], shape=shape,
    )  # fmt: skip


class Watch:
    """Shows how training goes: progress, loss, time left, and the concept as it was before and as it is now."""

    def __init__(self, node: type[io.ComfyNode], model, steps: int):
        latent = model.model.latent_format
        self.node, self.bar, self.steps = node, comfy.utils.ProgressBar(steps), steps
        self.began = self.said = time.monotonic()
        self.first: Image.Image | None = None
        self.preview: tuple | None = None
        self.previewer = latent_preview.get_previewer(model.load_device, latent)
        if self.previewer is None and latent.latent_rgb_factors is not None:
            self.previewer = latent_preview.Latent2RGBPreviewer(
                latent.latent_rgb_factors, latent.latent_rgb_factors_bias, latent.latent_rgb_factors_reshape
            )

    def before(self, step, x0, x, total) -> None:
        """The host's sampler callback while the unedited model draws."""
        if self.previewer is not None and step + 1 == total:
            _, self.first, _ = self.previewer.decode_latent_to_preview_image("JPEG", x0)

    def after(self, step, x0, x, total) -> None:
        """The host's sampler callback while the edited model draws."""
        if self.previewer is not None and step + 1 == total:
            kind, now, size = self.previewer.decode_latent_to_preview_image("JPEG", x0)
            self.preview = kind, side_by_side([self.first or now, now]), size

    def step(self, done: int, loss: float) -> None:
        """A step is done."""
        self.bar.update_absolute(done, self.steps, self.preview)
        self.preview = None
        now = time.monotonic()
        if done == 1:  # the first step draws several trajectories, and tells nothing of the others
            self.began = now
        elif now - self.said > SECONDS and done < self.steps:
            self.said = now
            left = (now - self.began) / (done - 1) * (self.steps - done)
            said = f"Step {done} of {self.steps}, loss {loss:.4g}, about {left:.0f} s left."
            show(self.node, f"{said} Left: before, right: now.")


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size in a row, with a line between."""
    width, height = pictures[0].size
    row = Image.new("RGB", (len(pictures) * (width + 1) - 1, height), "white")
    for i, picture in enumerate(pictures):
        row.paste(picture, (i * (width + 1), 0))
    return row


def keep_partial(run: learning.Learning) -> str:
    """Saves what was learned before an interrupt or a failure, where Load Erasure finds it; returns what to say."""
    steps = len(run.progress.losses)
    if not steps:
        return "Ended before the first step: nothing was learned."
    name = "".join(c if c.isalnum() else "-" for c in run.request.texts[0])[:40]
    try:
        [file] = save_new(f"erasures/{name}_interrupted", {FILE: run.erasure()})
        said = (
            f"Ended early; the {steps} steps learned so far are in output/{file}. To go on from there, connect it to "
            "'resume' with Load Erasure."
        )
    except ErasureError as error:
        said = f"Ended early, and what was learned could not be kept: {error}"
    learning.training.log.warning("%s", said)
    return said


def summary(run: learning.Learning, erasure: Erasure, notices: Sequence[str] = ()) -> str:
    """What the node says under itself when it is done: the verdict first."""
    losses = run.progress.losses
    steps = [f"{len(losses)} steps, loss {losses[0]:.4g} to {losses[-1]:.4g}."]
    if run.gate_gap is not None:
        steps.append(f"Text gate: gap {run.gate_gap:.2f} between the concept and the preserve set.")
    doubts = [*notices, run.progress.stopped]
    if run.gate_gap is not None and run.gate_gap <= NARROW:
        doubts.append(
            "The text gate hardly tells the concept from the preserve set: add texts close to the concept to it, or "
            "name the concept in other words."
        )
    return "\n".join([shown(erasure, *doubts), " ".join(steps)])


NODES = [ErasureTrain]
