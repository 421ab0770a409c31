"""The node that makes one erasure of several."""

from comfy_api.latest import io

from ..erasure import combine, jointly
from ..erasure.artifact import ErasureError
from ..erasure.history import added_up
from ..erasure.verdict import read_verdict
from .messages import names
from .types import CATEGORY, KEPT, ErasureSocket, lenient, show, telling

HOW = ["sum", "solve jointly", "weighted for a prompt"]
MOST = 32


class ErasureCombine(io.ComfyNode):
    """ERASURE, ERASURE, … -> ERASURE."""

    @classmethod
    @lenient
    def define_schema(cls):
        one = ErasureSocket.Input("erasure", tooltip="One of the erasures; a new socket appears when it is connected.")
        return io.Schema(
            node_id="ErasureCombine",
            display_name="Combine Erasures",
            category=CATEGORY,
            description="Makes one erasure of several, of any method, for one Apply Erasure node or one file.",
            hidden=[io.Hidden.unique_id],
            **KEPT,
            search_aliases=["merge erasures", "add erasures", "erase several concepts", "stack"],
            inputs=[
                io.Autogrow.Input(
                    "erasures", template=io.Autogrow.TemplatePrefix(one, prefix="erasure", min=2, max=MOST),
                    tooltip="The erasures to combine.",
                ),
                io.Combo.Input(
                    "how", options=HOW, default=HOW[0],
                    tooltip="sum: changes are added exactly; where one would bring back what another erases, they "
                    "are solved jointly instead. solve jointly: none disturbs another, and more of the rest "
                    "stays where there are many; instant erasures are solved for again, trained ones are held to their "
                    "own names; needs model and clip. weighted for a prompt: each counts as much as it has to do with "
                    "the prompt below; needs clip.",
                ),
                io.Model.Input("model", optional=True, tooltip="For 'solve jointly': the model to erase from."),
                io.Clip.Input("clip", optional=True, tooltip="For 'solve jointly' and 'weighted for a prompt'."),
                io.String.Input("prompt", default="", multiline=True, advanced=True,
                                placeholder="the prompt that the weights are found for",
                                tooltip="For 'weighted for a prompt': the prompt that is to be drawn."),
            ],
            outputs=[ErasureSocket.Output(display_name="erasure", tooltip="All of them in one.")],
        )  # fmt: skip

    @classmethod
    @telling
    def execute(cls, erasures, how, model=None, clip=None, prompt=None) -> io.NodeOutput:
        parts = [erasure for erasure in erasures.values() if erasure is not None]
        notices, weighed = combine.conflicts(parts), []
        back = combine.undoing(parts)
        if how == HOW[1] or (back and how == HOW[0] and clip and model and combine.can_be_solved_jointly(parts)):
            out = jointly.solve_jointly(model, clip, parts)
            notices = [f"Solved jointly, because {back}."] if back and how == HOW[0] else []
            notices += combine.conflicts(parts, jointly=True)
        elif how == HOW[2]:
            weights = cls.weights(clip, prompt, parts)
            out = combine.combine(parts, weights)
            counted = zip(parts, weights, strict=True)
            weighed = [f"{names(erasure)}: {w:.2f}." for erasure, w in counted]
        else:
            out = combine.combine(parts)
            notices += [added] if (added := added_up(parts)) else []
        total = f"Erasure of {names(out)}; {out.bytes() / 1e6:.2f} MB."
        lines = [read_verdict(out.metadata.verdict).text(), *(f"⚠ {notice}" for notice in notices), total, *weighed]
        return io.NodeOutput(out, ui=show(cls, "\n".join(line for line in lines if line)))

    @staticmethod
    def weights(clip, prompt, parts) -> list[float]:
        combine.check_families(parts)
        if clip is None or not (prompt or "").strip():
            raise ErasureError("Weighing for a prompt needs the prompt and a CLIP: give it both, or combine by 'sum'.")
        return combine.elastic_weights(clip, prompt, parts)


NODES = [ErasureCombine]
