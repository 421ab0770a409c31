"""Socket types and words that several nodes share, and how a node says what it did and how far it is."""

import math
import time
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from typing import Any

import comfy.model_management
import comfy.utils
from comfy_api.latest import io, ui
from server import PromptServer

from ..erasure.artifact import ErasureError
from ..erasure.steps import Steps
from .language import in_language

CATEGORY = "concept erasure"
ErasureSocket = io.Custom("ERASURE")
SettingsSocket = io.Custom("ERASURE_SETTINGS")
DictionarySocket = io.Custom("CONCEPT_DICTIONARY")
"""Features of what blocks of a model give out, for Dictionary Erasure."""
JudgeSocket = io.Custom("ERASURE_JUDGE")
"""Anything that ranks labels as ``erasure.evaluation.judges.Judge`` says; other packs' nodes can make one."""
ReportSocket = io.Custom("ERASURE_REPORT")
"""What Erasure Report measured, for Erasure Card."""
OFF = "Off: strength is 0."
ABILITIES = {
    "MODEL": "clone", "CLIP": "tokenize", "VAE": "decode", "ERASURE": "delta", "ERASURE_SETTINGS": "only_in",
    "ERASURE_REPORT": "rows", "CONCEPT_DICTIONARY": "nets",
}  # fmt: skip
"""A socket's type, and an attribute by which what belongs there is known."""
KEPT: dict = {"has_intermediate_output": True} if hasattr(io.Schema, "has_intermediate_output") else {}
"""For the schema of a node that is no output node: when its result is kept from an earlier run, the host sends anew
what it said then. Hosts before 0.19 do not."""
# The editor shows an error's class with its module in front, which for a custom node is the path of its folder.
ErasureError.__module__ = "concept_erasure"


def lenient(define_schema: Callable[[Any], io.Schema]) -> Callable[[Any], io.Schema]:
    """For ``define_schema``: every input that has a default may be missing from a prompt.

    The host refuses a prompt that lacks a required input, and so would refuse every prompt that was saved before an
    input was added; ``telling`` gives what is missing its default. The editor shows required inputs first and saves
    values by position: list inputs without a default in front of those with one, and new ones at the very end.
    """

    @wraps(define_schema)
    def defined(cls: type[io.ComfyNode]) -> io.Schema:
        schema = define_schema(cls)
        for one in schema.inputs:
            one.optional = one.optional or default_of(one) is not None
        return schema

    return defined


def default_of(one: io.Input) -> Any:
    """An input's default; None for what has none, as a socket and a choice of files."""
    return getattr(one, "default", None)


def show(node: type[io.ComfyNode], text: str, place: str | None = None) -> ui.PreviewText:
    """Writes a text on the node in the editor, and returns it for the run's outputs.

    The node's schema must ask for ``io.Hidden.unique_id``; outside a running server nothing is shown. ``place``: the
    node's id, where it is asked after its run. The text is English, and is shown in the editor's language.
    """
    text = in_language(text)
    server, hidden = getattr(PromptServer, "instance", None), node.hidden
    place = place or (hidden.unique_id if hidden is not None else None)
    if server is not None and place is not None:
        server.send_progress_text(text, place)
    return ui.PreviewText(text)


def telling(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """For ``execute``: inputs that are missing have the schema's default, and what a user can put right is written on
    the node, for the editor shows it only when asked to.
    """
    names = list(signature(execute).parameters)[1:]

    @wraps(execute)
    def told(cls: type[io.ComfyNode], *args: Any, **kwargs: Any) -> io.NodeOutput:
        try:
            return execute(cls, *args, **complete(cls, kwargs, names[: len(args)]))
        except ErasureError as error:
            show(cls, str(error))
            if (text := in_language(str(error))) == str(error):
                raise
            raise ErasureError(text) from error

    return told


def complete(node: type[io.ComfyNode], values: dict[str, Any], others: Sequence[str] = ()) -> dict[str, Any]:
    """The inputs that a node is given by name, with defaults for those that are neither among them nor ``others``.

    Raises ErasureError for a name that the node does not have: the host passes over a value for one, but not a link.
    """
    known = node.define_schema()
    unknown = sorted(set(values) - {one.id for one in known.inputs})
    if unknown:
        raise ErasureError(
            f"{known.display_name} has no input {quoted(unknown)}: disconnect it or correct its name, or update this "
            "pack if the graph comes from a newer version."
        )
    for one in known.inputs:
        check_link(one.id, one.get_io_type(), values.get(one.id))
        if isinstance(value := values.get(one.id), float) and not math.isfinite(value):
            raise ErasureError(f"The input '{one.id}' is {value}, which is no number: type one.")
    defaults = {one.id: default_of(one) for one in known.inputs if default_of(one) is not None}
    return {**{name: value for name, value in defaults.items() if name not in others}, **values}


def check_link(name: str, kind: str, value: Any) -> None:
    """Raises ErasureError for a value that does not belong in a socket.

    The host compares the types of links alone: not what a prompt for the API holds in a link's place, and not what
    comes through nodes that pass on anything.
    """
    if kind == io.Autogrow.io_type and isinstance(value, dict):
        for place, one in value.items():
            check_link(place, ErasureSocket.io_type, one)
    elif value is not None and kind in ABILITIES and not hasattr(value, ABILITIES[kind]):
        raise ErasureError(
            f"The input '{name}' takes {kind} and was given {type(value).__name__}: connect the output of a node that "
            f"gives {kind}."
        )


def quoted(names: Sequence[str]) -> str:
    return " or ".join(f"'{name}'" for name in names)


class Reading(Steps):
    """Shows how far a node is with reading texts, which takes a while on a CPU, and what follows; lets Cancel stop it.

    One bar for all phases, which never goes back. ``bar``: False where the node's bar is meant for something else.
    """

    SECONDS = 1.0
    """Between two texts that say so."""
    WHOLE = 1000
    """What the bar counts to."""

    def __init__(self, node: type[io.ComfyNode], bar: bool = True):
        self.node, self.bar = node, comfy.utils.ProgressBar(self.WHOLE) if bar else None
        self.phase, self.done, self.start, self.until = "Reading texts", 0.0, 0.0, 1.0
        self.began = self.updated = time.monotonic()
        show(node, f"{self.phase} …")  # and no longer what it said of its last run

    def begin(self, phase: str, until: float) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._move(self.until if self.until < 1 else self.done)
        self.phase, self.start, self.until, self.began = phase, self.done, until, time.monotonic()
        show(self.node, f"{phase} …")

    def __call__(self, done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        now = time.monotonic()
        self._move(self.start + (self.until - self.start) * done / total)
        if now - self.updated >= self.SECONDS:
            self.updated = now
            left = (now - self.began) / done * (total - done)
            show(self.node, f"{self.phase}: {done} of {total}, about {left:.0f} s left.")
        if done >= total:  # other texts may follow
            self.began, self.start = now, self.done

    def _move(self, done: float) -> None:
        self.done = max(self.done, done)
        if self.bar is not None:
            self.bar.update_absolute(round(self.WHOLE * self.done))
