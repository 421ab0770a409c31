"""The node that looks for the smallest strength of an erasure that erases."""

from comfy_api.latest import io, ui

from ..erasure.evaluation.diffusion_judge import DiffusionJudge
from ..erasure.evaluation.grid import SIDE
from ..erasure.evaluation.report import read_prompts
from ..erasure.evaluation.strength import LARGEST, MOST, How, StrengthReport, find_strength, read_strengths
from ..erasure.request import check_reads
from .checks import refusal
from .progress import Working
from .report import (
    count_input,
    drawing_from,
    drawing_inputs,
    judge_from,
    judge_inputs,
    prefix_from,
    prompt_inputs,
    save,
    thumbnail,
)
from .types import CATEGORY, ErasureSocket, lenient, show, telling


class ErasureFindStrength(io.ComfyNode):
    """MODEL + ERASURE + prompts -> the smallest strength that erases, with pictures and a curve."""

    @classmethod
    @lenient
    def define_schema(cls):
        return io.Schema(
            node_id="ErasureFindStrength",
            display_name="Find Strength",
            category=CATEGORY,
            description="Draws the same prompts with the same noise at several strengths of an erasure, and finds the "
            "smallest strength that erases. Shows all pictures on sheets and how strength acts as a curve. Wire the "
            "result to the strength of the node that puts the erasure on.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["strength sweep", "how strong", "weight", "X/Y plot", "smallest strength"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The unedited model."),
                ErasureSocket.Input("erasure", tooltip="The erasure to try: from Instant Erasure, Train Erasure, Load "
                                    "Erasure and others."),
                io.Clip.Input("clip", tooltip="The CLIP that belongs to the model."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                *prompt_inputs(),
                io.String.Input(
                    "strengths", default="0.25, 0.5, 0.75, 1, 1.5",
                    tooltip=f"Strengths to try, from 0 to {LARGEST:g}, at most {MOST}. The unedited model is always "
                    "drawn beside them.",
                ),
                io.Int.Input("refine", default=2, min=0, max=6,
                             tooltip="So many more strengths are tried between the last that fails and the first that "
                             "erases, each in the middle."),
                io.Float.Input("enough", default=1.0, min=0.5, max=1.0, step=0.01, advanced=True,
                               tooltip="A strength erases when the concept is gone from at least this share of the "
                               "pictures; 1 is all of them."),
                *drawing_inputs("erasures/strength"), *judge_inputs(), count_input(),
            ],
            outputs=[
                io.Float.Output(display_name="strength", tooltip="The smallest strength that erases, else the one that "
                                "comes nearest; for Apply Erasure's strength."),
                io.Image.Output(display_name="sheet", tooltip="All pictures: a row for each prompt and seed, a column "
                                "for each strength; many come on several sheets."),
                io.Image.Output(display_name="curve", tooltip="How often the concept is gone and everything else kept, "
                                "over strength."),
                io.String.Output(display_name="report", tooltip="What was found, as text."),
                io.String.Output(display_name="scores", tooltip="The same as JSON."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, erase=None, keep=None):
        return refusal(cls, read_prompts, erase, keep)

    @classmethod
    @telling
    def execute(cls, model, erasure, clip, vae, erase, keep, strengths, refine, enough, **how) -> io.NodeOutput:
        prompts, wanted = read_prompts(erase, keep), How(read_strengths(strengths), refine, enough)
        check_reads(clip, model)
        working = Working(cls)

        def on_look(done: int, total: int) -> None:
            working.meanwhile(f"The judge looks at the pictures: {done} of {total}.")

        judge = judge_from(how, lambda: DiffusionJudge(model, clip, vae, on_look))
        prefix, drawing = prefix_from(how), drawing_from(how)

        def on_picture(strength: float, done: int, total: int, pictures) -> None:
            name = f"Strength {strength:g}" if strength else "The unedited model"
            working(f"{name} draws {len(prompts)} prompts, {len(drawing.seeds)} of each.", done, total, pictures)

        result = find_strength(model, erasure, clip, vae, prompts, drawing, wanted, judge, on_picture)
        return finished(cls, result, prefix, working)


def finished(cls, result: StrengthReport, prefix: str, working: Working) -> io.NodeOutput:
    """Saves the scores and shows the curve, the sheets and the outcome."""
    sheets, curve, place = result.grid(), result.curve(), save(result, prefix)
    # the editor shows the last preview in front of the node's own pictures
    working.bar.update_absolute(working.bar.total, working.bar.total, thumbnail(curve, SIDE))
    text = f"{result.text()}\nSaved {place}."
    images = [ui.PreviewImage(pictures, cls=cls).as_dict()["images"] for pictures in (curve, sheets)]
    output = {"images": [image for some in images for image in some], **show(cls, text).as_dict()}
    return io.NodeOutput(result.strength, sheets, curve, text, result.json(), ui=output)


NODES = [ErasureFindStrength]
