"""Nodes that use an erasure: erase, and recover with the key."""

from comfy_api.latest import io

from ..erasure.history import added_up
from ..erasure.host import attach
from .messages import WHILE_DRAWING, named, names, put_on, warner
from .types import CATEGORY, KEPT, OFF, ErasureSocket, lenient, show, telling

NEVER = "Off: end_percent is not above start_percent."


class ErasureApply(io.ComfyNode):
    """MODEL + ERASURE -> MODEL without the concept."""

    @classmethod
    @lenient
    def define_schema(cls):
        return io.Schema(
            node_id="ErasureApply",
            display_name="Apply Erasure",
            category=CATEGORY,
            description="Needs an ERASURE: a file (Load Erasure) or a node that makes one. Takes its concept out of "
            "the model; put it between the checkpoint loader and the sampler. To erase by typing, use Erase Concept. "
            "Several can stand in a row; the node says when one of them brings back what another erased.",
            hidden=[io.Hidden.unique_id],
            **KEPT,
            search_aliases=["erase from a file", "use erasure"],
            inputs=[
                io.Model.Input("model", tooltip="The model to erase the concept from. It stays unchanged itself."),
                ErasureSocket.Input("erasure", tooltip="What to erase: from Train Erasure, Load Erasure and others."),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=2.0, step=0.05,
                    tooltip="How strongly to erase: 0 is off (exactly the model that came in), 1 as learned.",
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.01, advanced=True,
                    tooltip="Share of sampling after which erasing begins; 0 is from the first step.",
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.01, advanced=True,
                    tooltip="Share of sampling after which erasing ends; 1 is never.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model without the concept.")],
        )  # fmt: skip

    @classmethod
    @telling
    def execute(cls, model, erasure, strength, start_percent, end_percent) -> io.NodeOutput:
        if strength == 0 or start_percent >= end_percent:
            return io.NodeOutput(model, ui=show(cls, OFF if strength == 0 else NEVER))
        text = [f"Erasure of {names(erasure)}."]
        if attach.acts_while_drawing(erasure, start_percent, end_percent):
            text.append(WHILE_DRAWING)
        warn = warner(cls, "\n".join(text))
        erased = attach.erase(model, erasure, strength, start_percent, end_percent, warn)
        added = added_up([one.erasure for one in attach.applied(erased)]) or ""
        verdict = put_on(model, erased, erasure, strength, added)
        return io.NodeOutput(erased, ui=show(cls, "\n".join([verdict.text(), *text]).strip()))


class ErasureRecover(io.ComfyNode):
    """Erased MODEL + ERASURE with a key -> MODEL with the concept back."""

    @classmethod
    @lenient
    def define_schema(cls):
        return io.Schema(
            node_id="ErasureRecover",
            display_name="Recover Concept",
            category=CATEGORY,
            description="Brings an erased concept back with the key that was learned together with the erasure. Put it "
            "after Apply Erasure.",
            hidden=[io.Hidden.unique_id],
            **KEPT,
            search_aliases=["undo erase", "restore concept", "key", "KPOP"],
            inputs=[
                io.Model.Input("model", tooltip="The erased model, from Apply Erasure."),
                ErasureSocket.Input("erasure", tooltip="The erasure with its key, or a key that was saved apart."),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=2.0, step=0.05,
                    tooltip="How strongly the key acts: 0 is off, 1 as learned.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The erased model with the concept back.")],
        )  # fmt: skip

    @classmethod
    @telling
    def execute(cls, model, erasure, strength) -> io.NodeOutput:
        if strength == 0:
            return io.NodeOutput(model, ui=show(cls, OFF))
        text = f"The key for {named(erasure.recovered)} is on, at strength {strength:g}.\n{WHILE_DRAWING}"
        recovered = attach.recover(model, erasure, strength, warner(cls, text))
        doubts = [f"⚠ {doubt}" for doubt in (*attach.missing(model, erasure), *attach.doubts(model, erasure))]
        return io.NodeOutput(recovered, ui=show(cls, "\n".join([*doubts, text])))


NODES = [ErasureApply, ErasureRecover]
