"""From a MODEL, a CLIP and a few texts to an ``Erasure``: sets a training run up, runs it, packs the result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import comfy.model_management
import torch

from .artifact import Erasure, ErasureError
from .host.subject import subject
from .host.trainable import require_trainable
from .methods import LEARNED
from .protocols import Clip, Model
from .request import OpenFile, Request, read_request
from .targets import anchors_for
from .texts.encoder import Encoder
from .texts.names import EMBEDDING, plain
from .training import loop
from .training.learned import Learning
from .training.loop import Preview
from .training.memory import Memory
from .training.phrases import with_names_in_front
from .training.preservation import adversary
from .training.setting_up import Setting, check_resume
from .training.settings import Settings

MEMORY = Memory()
"""What the last training was set up with."""


@contextlib.contextmanager
def gradients() -> Iterator[None]:
    """Leaves the inference mode that the host runs nodes in, and puts every global back."""
    training_before = comfy.model_management.in_training
    with torch.inference_mode(False), torch.enable_grad():
        comfy.model_management.in_training = True
        try:
            yield
        finally:
            comfy.model_management.in_training = training_before


def prepare(
    model: Model, clip: Clip, concept: str, preserve: str, settings: Settings, resume: Erasure | None = None,
    on_read: Callable[[int, int], None] = lambda done, total: None, open_file: OpenFile | None = None,
    only_in: str = "", on_stage: Callable[[str], None] = lambda name: None,
) -> Learning:  # fmt: skip
    """Checks every input and sets a training run up; call inside ``gradients()``.

    ``concept``: names of one concept; ``preserve``: texts to keep (see ``texts.names.read_field``, for ``open_file``,
    too), none to have them found; ``only_in``: texts beside which alone it is erased; ``on_read(done, total)`` is told
    how far the text encoder is, and ``on_stage(name)`` what begins. Raises ErasureError.
    """
    settings.check()
    here = subject(model)
    require_trainable(model)
    LEARNED[settings.method].require(here, settings)
    on_stage("Reading the names")
    encode = here.reader(clip, on_read)
    request = with_names_in_front(_read(model, encode, concept, preserve, only_in, open_file), model)
    if settings.target == "anchor":
        anchors_for(settings.anchor, request.texts)
    if resume is not None:
        check_resume(model, request.texts, settings, resume)
        settings = replace(settings, prompt_first=0.0)  # its prompt has learned already
    memory = Memory() if _says_embedding(request) else MEMORY.of(model, clip)
    return Setting(model, encode, request, settings, resume, memory, on_stage).up()


def _says_embedding(request: Request) -> bool:
    """Whether the texts of a request depend on files, which can change."""
    return any(text.startswith(EMBEDDING) for text in (*request.texts, *request.preserve, *request.contexts))


def _read(
    model: Model, encode: Encoder, concept: str, preserve: str, only_in: str, open_file: OpenFile | None
) -> Request:
    """The request of a training's fields. Raises ErasureError for what only a closed form can be asked."""
    request = read_request(model, encode, concept, preserve, only_in, open_file)
    for name in request.names:
        if name.strength != 1:
            raise ErasureError(
                f"A strength behind a colon is for Erase Concept and Instant Erasure: type '{plain(name.text)}' "
                "without it, and set the strength where the trained erasure is applied."
            )
    return request


def learn(
    learning: Learning, on_step: Callable[[int, float], None] = lambda step, loss: None, preview: Preview | None = None
) -> Erasure:
    """Trains to the end and returns the erasure; call inside ``gradients()``."""
    settings = learning.run.settings
    phases = [*LEARNED[settings.method].phases(settings), *adversary(settings)]
    loop.train(learning.run, phases, learning.progress, on_step, preview)
    return learning.judged()
