"""Nodes that show what an erasure does, and count it."""

from collections.abc import Callable, Container
from itertools import count
from pathlib import Path

import comfy.samplers
import comfy.utils
from comfy_api.latest import io, ui

from ..erasure.artifact import ErasureError
from ..erasure.evaluation.diffusion_judge import DiffusionJudge
from ..erasure.evaluation.grid import SIDE, within
from ..erasure.evaluation.judges import ClipJudge, Judge
from ..erasure.evaluation.report import Drawing, Report, compare, read_prompts
from ..erasure.evaluation.strength import StrengthReport
from ..erasure.evaluation.stress import StressReport
from ..erasure.evaluation.subject import entry, subject_of
from ..erasure.host import attach
from ..erasure.request import check_reads
from .checks import refusal
from .files import new_path
from .types import CATEGORY, ErasureSocket, JudgeSocket, ReportSocket, lenient, show, telling

MOST = 16
THUMBNAIL = 512
"""Pixels of a preview's longer side: every picture that is drawn goes to the editor."""


def before_and_after_inputs() -> list:
    return [
        io.Model.Input("model_before", tooltip="The unedited model."),
        io.Model.Input("model_after", tooltip="The model with the erasure on it."),
        io.Clip.Input("clip", tooltip="The CLIP that belongs to the models."),
        io.Vae.Input("vae", tooltip="The VAE that belongs to the models."),
    ]


def prompt_inputs() -> list:
    return [
        io.String.Input(
            "erase", default="", multiline=True, placeholder="prompts with the concept, one a line",
            tooltip="Prompts that speak of the concept, one a line. For the judge, what it should look for goes behind "
            "a bar: a church in the snow | church",
        ),
        io.String.Input(
            "keep", default="", multiline=True, placeholder="prompts that must not change, one a line",
            tooltip="Prompts that must not change, one a line, with labels as above. Close neighbours of the "
            "concept are the most sensitive test.",
        ),
    ]  # fmt: skip


def drawing_inputs(prefix: str = "erasures/report", pictures: int = 2) -> list:
    return [
        io.Int.Input("pictures", default=pictures, min=1, max=64,
                     tooltip="Pictures of each prompt, one for each seed."),
        io.Int.Input("seed", default=0, min=0, max=2**63, tooltip="The first seed; the others follow it.",
                     control_after_generate=io.ControlAfterGenerate.fixed),
        io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps."),
        io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance scale."),
        io.Combo.Input("sampler", options=comfy.samplers.SAMPLER_NAMES, default="euler", tooltip="The host's sampler."),
        io.Combo.Input("scheduler", options=comfy.samplers.SCHEDULER_NAMES, default="normal",
                       tooltip="The host's scheduler."),
        io.Int.Input("width", default=512, min=16, max=4096, step=8, tooltip="Width of the pictures."),
        io.Int.Input("height", default=512, min=16, max=4096, step=8, tooltip="Their height."),
        io.String.Input("filename_prefix", default=prefix, advanced=True,
                        tooltip="Where in the output folder the scores go, as JSON; a number is added."),
    ]  # fmt: skip


def judge_inputs() -> list:
    """What counts, and the negative prompt, which has always stood behind all other widgets."""
    return [
        io.ClipVision.Input("clip_vision", optional=True,
                            tooltip="For a CLIP as the judge: one half of it. Without any judge the unedited model is "
                            "the judge."),
        io.Clip.Input("judge_clip", optional=True,
                      tooltip="For a CLIP as the judge: the other half. To CLIP-ViT-bigG-14 belongs the CLIP of an "
                      "SDXL checkpoint, to CLIP-ViT-H-14 that of an SD 2.x one."),
        io.String.Input("negative", default="", multiline=True, advanced=True, placeholder="negative prompt",
                        tooltip="Negative prompt of every picture."),
        JudgeSocket.Input("judge", optional=True,
                          tooltip="A judge of another kind than CLIP, from a node that makes one, in place of the two "
                          "halves of a CLIP."),
    ]  # fmt: skip


def count_input() -> io.Input:
    return io.Boolean.Input(
        "count", default=True, advanced=True,
        tooltip="Count how often the concept is gone and the rest is there. Where no judge is connected, the unedited "
        "model is the judge, which takes about as long as drawing. Off: pictures are only drawn.",
    )  # fmt: skip


OUTPUTS = [
    io.Image.Output(display_name="grid", tooltip="All pictures, labelled; many come on several sheets."),
    io.String.Output(display_name="report", tooltip="Scores as text."),
]


MEASURED = ReportSocket.Output(
    display_name="measured", tooltip="For Erasure Card, which makes a page for a client of it."
)


class ErasureReport(io.ComfyNode):
    """MODEL before + MODEL after + prompts -> grid and scores."""

    @classmethod
    @lenient
    def define_schema(cls):
        return io.Schema(
            node_id="ErasureReport",
            display_name="Erasure Report",
            category=CATEGORY,
            description="Draws the same prompts with the same noise before and after erasing, and counts how often the "
            "concept is gone (ESR) and everything else is still there (PSR). The scores are saved as JSON.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["evaluate erasure", "before after", "ESR", "PSR", "CLIP score", "benchmark"],
            is_output_node=True,
            inputs=[
                *before_and_after_inputs(),
                *prompt_inputs(), *drawing_inputs(), *judge_inputs(), count_input(),
            ],
            outputs=[*OUTPUTS, MEASURED],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, erase=None, keep=None):
        return refusal(cls, read_prompts, erase, keep)

    @classmethod
    @telling
    def execute(cls, model_before, model_after, clip, vae, erase, keep, **how) -> io.NodeOutput:
        models = {"before": model_before, "after": model_after}
        return report(cls, models, clip, vae, erase, keep, how, measured=True)


class ErasureCompare(io.ComfyNode):
    """MODEL + ERASURE, ERASURE, … + prompts -> grid and scores."""

    @classmethod
    @lenient
    def define_schema(cls):
        one = ErasureSocket.Input("erasure", tooltip="One of the erasures; a new socket appears when it is connected.")
        return io.Schema(
            node_id="ErasureCompare",
            display_name="Compare Erasures",
            category=CATEGORY,
            description="Puts several erasures on the same model in turn and draws the same prompts with the same "
            "noise: one grid, one table, the unedited model first.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["evaluate erasures", "which erasure", "compare methods", "ESR", "PSR"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The unedited model."),
                io.Clip.Input("clip", tooltip="The CLIP that belongs to the model."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Autogrow.Input(
                    "erasures", template=io.Autogrow.TemplatePrefix(one, prefix="erasure", min=1, max=MOST),
                    tooltip="The erasures to compare.",
                ),
                *prompt_inputs(), *drawing_inputs(), *judge_inputs(), count_input(),
            ],
            outputs=OUTPUTS,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, erase=None, keep=None, erasures=None):
        return refusal(cls, read_prompts, erase, keep)

    @classmethod
    @telling
    def execute(cls, model, clip, vae, erase, keep, erasures, **how) -> io.NodeOutput:
        models = {"unedited": model}
        for erasure in erasures.values():
            if erasure is not None:
                models[unused(entry(erasure).title, models)] = attach.erase(model, erasure)
        return report(cls, models, clip, vae, erase, keep, how)


def unused(name: str, others: Container[str]) -> str:
    """A name, with a number where there is one like it."""
    numbered = (f"{name} ({number})" for number in count(2))
    return name if name not in others else next(other for other in numbered if other not in others)


def report(cls, models: dict, clip, vae, erase: str, keep: str, how: dict, measured: bool = False) -> io.NodeOutput:
    """Draws, counts, saves and shows; ``measured``: the report itself is an output, too."""
    prompts = read_prompts(erase, keep)
    first, *edited = models.values()
    check_reads(clip, first, *edited)
    judge = judge_from(how, lambda: DiffusionJudge(first, clip, vae, looking(cls)))
    prefix, drawing = prefix_from(how), drawing_from(how)
    bar = comfy.utils.ProgressBar(len(models) * len(prompts))

    def on_picture(done: int, total: int, pictures) -> None:
        bar.update_absolute(done, total, thumbnail(pictures))

    result = compare(models, clip, vae, prompts, drawing, judge, on_picture, subject_of(first, edited))
    return finished(cls, result, prefix, bar, *[result] * measured)


def looking(cls) -> Callable[[int, int], None]:
    """Shows on a node which picture the judge has come to."""

    def look(done: int, total: int) -> None:
        show(cls, f"The judge looks at the pictures: {done} of {total}.")

    return look


def judge_from(how: dict, default: Callable[[], Judge] | None = None) -> Judge | None:
    """The judge of a node's inputs, which are taken out; ``default`` makes one where none is connected.

    None where there is none, or nothing is to be counted.
    """
    own, vision, words = (how.pop(name, None) for name in ("judge", "clip_vision", "judge_clip"))
    if not how.pop("count", True):
        return None
    if vision is None and words is None:
        return own or (default() if default is not None else None)
    if own is not None:
        raise ErasureError("There are two judges, a CLIP and another one: disconnect one of the two.")
    return ClipJudge(vision, words)


def prefix_from(how: dict) -> str:
    """Where the scores go."""
    prefix = how.pop("filename_prefix")
    new_path(prefix, ".json")  # raises where nothing can go there, before anything is drawn
    return prefix


def drawing_from(how: dict) -> Drawing:
    """How a node's inputs say that pictures are drawn, once all others are taken out."""
    first, count = how.pop("seed"), how.pop("pictures")
    return Drawing(seeds=tuple(range(first, first + count)), **how)


def thumbnail(pictures, side: int = THUMBNAIL) -> tuple:
    """The first of some pictures, as a preview of at most so many pixels a side."""
    return "JPEG", within(pictures[0], side), None


def finished(cls, result: Report | StressReport, prefix: str, bar, *more) -> io.NodeOutput:
    """Saves and shows what was found; ``more``: further outputs."""
    sheets, place = result.grid(), save(result, prefix)
    # the editor shows the last preview in front of the node's own pictures
    bar.update_absolute(bar.total, bar.total, thumbnail(sheets, SIDE))
    text = f"{result.text()}\nSaved {place}.".lstrip()
    output = {**ui.PreviewImage(sheets, cls=cls).as_dict(), **show(cls, text).as_dict()}
    return io.NodeOutput(sheets, text, *more, ui=output)


def save(result: Report | StressReport | StrengthReport, prefix: str) -> str:
    """Writes the scores under the next free number of a prefix; returns the path relative to the output folder."""
    path, name = (place + ".json" for place in new_path(prefix, ".json"))
    try:
        Path(path).write_text(result.json() + "\n", encoding="utf-8")
    except OSError as error:
        raise ErasureError(
            f"The report cannot be saved to {name} ({error.strerror}): choose another filename_prefix."
        ) from error
    return name


NODES = [ErasureReport, ErasureCompare]
