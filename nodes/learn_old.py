"""Train Erasure as it was up to 0.1.0, for the graphs and prompts that have it; what it does is in ``learn``."""

from dataclasses import replace

import comfy.samplers
from comfy_api.latest import io

from ..erasure.families.family import WEIGHTS
from ..erasure.host.subject import subject
from ..erasure.methods import LEARNED, preset_for
from ..erasure.parts.prompt import BLOCKS, STARTS
from ..erasure.targets import ignored_anchor, resolve_target
from ..erasure.training.objectives import SPACES
from ..erasure.training.pictures import with_pictures, with_sampling
from ..erasure.training.settings import FROM_PRESET as PRESET
from ..erasure.training.settings import PRESERVE_BY, TARGETS, WEIGHTS_START, Settings
from . import inputs
from .checks import refusal, something_to_erase
from .instant import only_in
from .learn import nearest_weights, outputs, train
from .messages import file_facts
from .types import CATEGORY, KEPT, lenient, telling

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
            display_name="Train Erasure (old)",
            category=CATEGORY,
            description="Train Erasure as it was up to 0.1.0, with all its settings on one node. Saved graphs go on "
            "working; for new ones take Train Erasure.",
            is_deprecated=True,
            hidden=[io.Hidden.unique_id],
            **KEPT,
            inputs=[
                *inputs.what_to_learn(),
                io.String.Input(
                    "preserve", default="", multiline=True, placeholder="what must stay",
                    tooltip="What must not change, one a line or with commas: things close to the concept matter most. "
                    "Also used to tell the concept from the rest.",
                ),
                inputs.preset(),
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
                inputs.resume(),
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
            outputs=outputs(),
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, concept=None):
        return refusal(cls, something_to_erase, concept)

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        return file_facts(*inputs.values())

    @classmethod
    @telling
    def execute(cls, model, clip, concept, preserve, only_in, resume=None, **fields) -> io.NodeOutput:
        notices = [ignored_anchor(fields["target"], fields["anchor"], PRESET)]
        method = None if fields["method"] == PRESET else fields["method"]
        preset = preset_for(fields["preset"], method, subject(model).family)
        if fields["weights"] == PRESET:
            notices += nearest_weights(model, fields["preset"], method)
        settings = settings_from(model, fields, preset)
        return train(cls, model, clip, (concept, preserve, only_in), settings, resume, None, preset, notices)


def settings_from(model, fields: dict, preset: Settings) -> Settings:
    """The preset's settings, with every input that is not left to the preset in its place."""
    values = {name: fields[name] for name in ("steps", "prompt_lr", "weight_lr", "tokens", "batch") if fields[name] > 0}
    values |= {name: fields[name] for name in ("rank", "eta", "preserve_weight") if fields[name] >= 0}
    values |= {name: fields[name] for name in CHOICES if fields[name] != PRESET}
    values["target"] = resolve_target(fields["target"], fields["anchor"], PRESET)
    if values["target"] == PRESET:
        del values["target"]
    if "weight_lr" in values:
        values["width"] = 0
    if fields["loss_space"] != PRESET:
        values["space"] = fields["loss_space"]
    if fields["gate"] != PRESET:
        values["gate"] = fields["gate"] == "on"
    values |= {name: fields[name] for name in ("anchor", "seed", "checkpointing")}
    how = {"sampler": fields["sampler"], "scheduler": fields["scheduler"], "cfg": fields["cfg"]}
    settings = with_sampling(replace(preset, **values), **how, steps=fields["sampling_steps"])
    return with_pictures(model, settings, fields["width"], fields["height"])


NODES = [ErasureTrain]
