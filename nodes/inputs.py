"""Inputs that several nodes have."""

from comfy_api.latest import io

from ..erasure.training.settings import PRESETS
from .types import ErasureSocket


def what_to_learn() -> list[io.Input]:
    """The model of a training, its CLIP, and the names of one concept."""
    return [
        io.Model.Input("model", tooltip="The model to learn on. It stays unchanged itself."),
        io.Clip.Input("clip", tooltip="The CLIP that belongs to the model."),
        io.String.Input(
            "concept", default="", multiline=True, placeholder="what to erase, e.g. Van Gogh",
            tooltip="What to erase: one concept. Several names of it, one a line or with commas, are erased "
            "together; 'Van Gogh -> painting' says what is drawn instead.",
        ),
    ]  # fmt: skip


def preset() -> io.Input:
    return io.Combo.Input(
        "preset", options=list(PRESETS), default="recommended",
        tooltip="recommended: ours, best measured. paper v2 / v3: the published settings, which preserve "
        "less; v2 erases with the prompt too, v3 keeps the concept recoverable.",
    )  # fmt: skip


def resume() -> io.Input:
    return ErasureSocket.Input(
        "resume", optional=True,
        tooltip="An erasure to go on with, instead of starting anew, for as many more steps as 'steps' "
        "says. The optimiser's memory starts fresh.",
    )  # fmt: skip
