"""Socket types and words that several nodes share, and how a node says what it did and how far it is."""

import time
from collections.abc import Callable
from functools import wraps

import comfy.model_management
import comfy.utils
from comfy_api.latest import io, ui
from server import PromptServer

from ..erasure.artifact import ErasureError

CATEGORY = "concept erasure"
ErasureSocket = io.Custom("ERASURE")
JudgeSocket = io.Custom("ERASURE_JUDGE")
"""Anything that ranks labels as ``erasure.evaluation.judges.Judge`` says; other packs' nodes can make one."""
OFF = "Off: strength is 0."
KEPT: dict = {"has_intermediate_output": True} if hasattr(io.Schema, "has_intermediate_output") else {}
"""For the schema of a node that is no output node: when its result is kept from an earlier run, the host sends anew
what it said then. Hosts before 0.19 do not."""
# The editor shows an error's class with its module in front, which for a custom node is the path of its folder.
ErasureError.__module__ = "concept_erasure"


def show(node: type[io.ComfyNode], text: str) -> ui.PreviewText:
    """Writes a text on the node in the editor, and returns it for the run's outputs.

    The node's schema must ask for ``io.Hidden.unique_id``; outside a running server nothing is shown.
    """
    server, hidden = getattr(PromptServer, "instance", None), node.hidden
    if server is not None and hidden is not None and hidden.unique_id is not None:
        server.send_progress_text(text, hidden.unique_id)
    return ui.PreviewText(text)


def telling(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """For ``execute``: what a user can put right is written on the node, for the editor shows it only when asked to."""

    @wraps(execute)
    def told(cls: type[io.ComfyNode], *args, **kwargs) -> io.NodeOutput:
        try:
            return execute(cls, *args, **kwargs)
        except ErasureError as error:
            show(cls, str(error))
            raise

    return told


class Reading:
    """Shows how far the text encoder is with a node's texts, which takes a while on a CPU; lets Cancel stop it.

    ``bar``: on the node's progress bar, too, where that is not meant for something else.
    """

    SECONDS = 1.0
    """Between two texts that say so."""

    def __init__(self, node: type[io.ComfyNode], bar: bool = True):
        self.node, self.bar = node, comfy.utils.ProgressBar(1) if bar else None
        self.total, self.first, self.began, self.said = 0, 0, 0.0, 0.0

    def __call__(self, done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if self.bar is not None:
            self.bar.update_absolute(done, total)
        now = time.monotonic()
        if total != self.total or done <= self.first:  # other texts than before
            self.total, self.first, self.began, self.said = total, done, now, now
        elif now - self.said >= self.SECONDS:
            self.said = now
            left = (now - self.began) / (done - self.first) * (total - done)
            show(self.node, f"Reading texts: {done} of {total}, about {left:.0f} s left.")
