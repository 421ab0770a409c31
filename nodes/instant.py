"""Nodes that erase from the text alone, in closed form, without training."""

from comfy_api.latest import io

from ..erasure.choosing import TARGETS
from ..erasure.closed_form import CLOSED_FORM
from ..erasure.closed_form.problem import Scales
from ..erasure.host import attach
from ..erasure.instant import Instant, erase_instantly
from ..erasure.posing import TOKENS
from ..erasure.targets import ignored_anchor, resolve_target
from ..erasure.texts.names import read_field
from .checks import refusal, something_to_erase
from .messages import (
    WHILE_DRAWING,
    TextWithTargets,
    file_facts,
    message_of,
    open_input_file,
    put_on,
    what_was_read,
)
from .types import CATEGORY, KEPT, OFF, ErasureSocket, Reading, lenient, show, telling

ALIASES = (
    "erase", "erase style", "remove", "remove concept", "remove object", "remove style", "ban", "ban word", "block",
    "block word", "delete", "delete concept", "delete object", "suppress", "exclude", "avoid", "unlearn", "forget",
    "censor", "nsfw", "nudity", "style", "artist", "copyright", "brand", "negative", "LECO", "ESD", "UCE", "KPOP",
)  # fmt: skip
"""What people type who want something gone. All of it leads to Erase Concept, which needs nothing but a word."""


def _texts(concept_id: str) -> list:
    """The inputs that say what goes, what comes and what stays; the same on both nodes."""
    return [
        io.String.Input(
            concept_id, default="", multiline=True, placeholder="what to erase, one a line, e.g. Van Gogh",
            tooltip="What to erase: one concept a line, or with commas. 'Van Gogh -> painting' says what is drawn "
            "instead, 'circle : 0.8' how strongly to erase, '# circle' is a comment, and 'file: names.txt' reads a "
            "file of the input folder.",
        ),
        io.Combo.Input(
            "target", options=list(TARGETS), default=TARGETS[0],
            tooltip="What is drawn instead. nearest neighbour: the preserved text closest to the concept; the node "
            "says which. empty prompt: what the prompt says without the concept. anchor: the text in 'anchor'.",
        ),
        io.String.Input(
            "anchor", default="",
            tooltip="What to draw instead, e.g. a building; one for all, or one for each concept in order. Used when "
            "target is 'nearest neighbour' or 'anchor'.",
        ),
        io.String.Input(
            "preserve", default="", multiline=True, placeholder="what must stay (empty: found for you)",
            tooltip="What must not change, one a line or with commas. Empty: common words close to each concept, "
            "looked for in the text encoder; the node says how many, and names some.",
        ),
    ]  # fmt: skip


def only_in() -> io.Input:
    return io.String.Input(
        "only_in", default="", multiline=True, advanced=True,
        placeholder="only beside these texts (empty: everywhere)",
        tooltip="Texts beside which alone the concept is erased: concept 'hat', only in 'cowboy' leaves every other "
        "hat as it is. Empty: everywhere.",
    )  # fmt: skip


def gated() -> io.Input:
    return io.Boolean.Input(
        "gated", default=False, advanced=True,
        tooltip="On: acts only in prompts that a text gate takes to speak of the concept, by name or otherwise; all "
        "others draw exactly what the model drew before. The weights stay as they are, so a LoRA or a merged "
        "checkpoint cannot hold it. Takes longer to make.",
    )  # fmt: skip


class ErasureInstant(io.ComfyNode):
    """MODEL + CLIP + texts -> ERASURE, in closed form."""

    @classmethod
    @lenient
    def define_schema(cls):
        scales = Scales()
        return io.Schema(
            node_id="ErasureInstant",
            display_name="Instant Erasure",
            category=CATEGORY,
            description="Erases concepts from the text alone, in closed form: no training, no pictures, only what "
            "the text encoder says. Several concepts are erased in one solve. Connect Apply Erasure, Save Erasure or "
            "Export Erasure as LoRA.",
            hidden=[io.Hidden.unique_id],
            **KEPT,
            search_aliases=["RECE", "SPEED", "UCE", "closed form", "erase to a file"],
            inputs=[
                io.Model.Input("model", tooltip="The model to erase from. It stays unchanged itself."),
                io.Clip.Input("clip", tooltip="The CLIP that belongs to the model."),
                *_texts("concepts"),
                io.Combo.Input(
                    "method", options=list(CLOSED_FORM), default="uce",
                    tooltip="uce: best measured. rece: also erases what would revive the concept, at some cost to its "
                    "neighbours. speed: changes only what the preserved texts hardly use; erases a little less. "
                    "dp: changes nothing at all of what the preserved texts use. oce: turns what each layer gives, and "
                    "keeps its lengths and angles; only for comparing, it erases and preserves less.",
                ),
                io.Combo.Input(
                    "tokens", options=list(TOKENS), default=TOKENS[0], advanced=True,
                    tooltip="all in context: everything that phrases say from the concept's name on. last of the name: "
                    "one token of the bare name, as published; faster, smaller, erases less.",
                ),
                io.Combo.Input(
                    "weights", options=["keys+values", "values"], default="keys+values", advanced=True,
                    tooltip="Projections of the cross-attention that change.",
                ),
                io.Float.Input("erase_scale", default=scales.erase, min=0.01, max=100.0, step=0.1, advanced=True,
                               tooltip="Weight of erasing in the solve. More erases harder and preserves less."),
                io.Float.Input("preserve_scale", default=scales.preserve, min=0.01, max=100.0, step=0.1, advanced=True,
                               tooltip="Weight of preserving in the solve. More preserves better and erases less."),
                io.Float.Input("ridge", default=scales.ridge, min=1e-6, max=10.0, step=1e-6, round=False, advanced=True,
                               tooltip="Weight of leaving everything else as it is (lambda of the papers)."),
                io.Int.Input("rank", default=8, min=0, max=64, advanced=True,
                             tooltip="Rank of the change for each concept, which sets the file's size; 0 keeps the "
                             "exact solution."),
                io.Int.Input("balance", default=scales.balance, min=0, max=20, advanced=True,
                             tooltip="Rounds in which the neighbours that the edit would hurt most are preserved more, "
                             "and the others less; 0 preserves all alike."),
                only_in(), gated(),
            ],
            outputs=[
                ErasureSocket.Output(
                    display_name="erasure", tooltip="For Apply Erasure, Save Erasure and Export Erasure as LoRA."
                )
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, concepts=None):
        return refusal(cls, something_to_erase, concepts)

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        return file_facts(*inputs.values())

    @classmethod
    @telling
    def execute(
        cls, model, clip, concepts, target, anchor, preserve, method, tokens, weights, erase_scale, preserve_scale,
        ridge, rank, balance, only_in, gated,
    ) -> io.NodeOutput:  # fmt: skip
        scales = Scales(erase=erase_scale, preserve=preserve_scale, ridge=ridge, balance=balance)
        target_is = resolve_target(target, anchor, TARGETS[0])
        settings = Instant(method, target_is, anchor, tokens, weights, rank, scales, gated=gated)
        erasure = erase_instantly(model, clip, concepts, preserve, settings, Reading(cls), only_in, open_input_file)
        message = show(cls, message_of(erasure, ignored_anchor(target, anchor, TARGETS[0])))
        return io.NodeOutput(erasure, ui=TextWithTargets(message, concepts, erasure))


class ErasureText(io.ComfyNode):
    """MODEL + CLIP + text -> MODEL without the concept."""

    @classmethod
    @lenient
    def define_schema(cls):
        concept, *rest = _texts("concept")
        for choice in rest:
            choice.advanced = True
        return io.Schema(
            node_id="ErasureText",
            display_name="Erase Concept",
            category=CATEGORY,
            description="Type a concept, and the model cannot draw it any more: no training, no file. Put it between "
            "the checkpoint loader and the sampler. Train Erasure erases more thoroughly and keeps a key.",
            hidden=[io.Hidden.unique_id],
            **KEPT,
            search_aliases=list(ALIASES),
            inputs=[
                io.Model.Input("model", tooltip="The model to erase the concept from. It stays unchanged itself."),
                io.Clip.Input("clip", tooltip="The CLIP that belongs to the model."),
                concept,
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=2.0, step=0.05,
                    tooltip="How strongly to erase: 0 is off (exactly the model that came in), 1 is all.",
                ),
                *rest, only_in(), gated(),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model without the concept.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, concept=None):
        return refusal(cls, something_to_erase, concept)

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        return file_facts(*inputs.values())

    @classmethod
    @telling
    def execute(cls, model, clip, concept, strength, target, anchor, preserve, only_in, gated) -> io.NodeOutput:
        if strength == 0:
            return io.NodeOutput(model, ui=show(cls, OFF))
        names = read_field(concept, open_input_file)
        if names.are_off:
            return io.NodeOutput(model, ui=show(cls, " ".join(["Off: no concept is switched on.", *names.notes])))
        settings = Instant(target=resolve_target(target, anchor, TARGETS[0]), anchor=anchor, gated=gated)
        erasure = erase_instantly(model, clip, concept, preserve, settings, Reading(cls), only_in, open_input_file)
        erased = attach.erase(model, erasure, strength)
        verdict = put_on(model, erased, erasure, strength, ignored_anchor(target, anchor, TARGETS[0]))
        how = [WHILE_DRAWING] if erasure.beside else []
        message = show(cls, "\n".join([verdict.text(), *how, *what_was_read(erasure)]))
        return io.NodeOutput(erased, ui=TextWithTargets(message, concept, erasure))


NODES = [ErasureText, ErasureInstant]
