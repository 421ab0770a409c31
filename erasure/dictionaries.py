"""From a MODEL, its CLIP and texts to a concept dictionary; ``from_dictionary`` makes an ``Erasure`` of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import comfy.model_management
import torch

from .artifact import ErasureError
from .dictionary.autoencoder import Autoencoder, Fit, explained, fit_autoencoder
from .dictionary.files import About, ConceptDictionary, Quality
from .dictionary.store import Recording
from .host.recording import points_of, record
from .host.subject import subject
from .host.trajectories import Sampling
from .request import check_width
from .texts.encoder import Encoder
from .version import pack_version

SAMPLE = 20_000
"""Vectors by which mean, scale and quality are taken."""
STATE_EVERY = 200
"""Batches between two states on disk."""
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Plan:
    """How a dictionary is made: ``pictures`` are drawn for texts in turn, ``together`` at once; ``expansion``: features
    for each number of a vector; ``vectors``: how many are kept of each block at most."""

    pictures: int = 1000
    together: int = 16
    expansion: int = 16
    vectors: int = 1_000_000
    blocks: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    fit: Fit = field(default_factory=Fit)


def nothing(text: str, done: int, total: int) -> None:
    """Nobody wants to know."""


def train_dictionary(
    model, clip, texts: Sequence[str], plan: Plan, folder: Path, on_progress: OnProgress = nothing
) -> ConceptDictionary:
    """Records what blocks give out while the model draws, in a folder, and fits an autoencoder to each.

    What is in the folder from an interrupted call with the same inputs is gone on with; it is the caller's to
    ``discard`` when the dictionary is saved. Raises ErasureError.
    """
    began = time.monotonic()
    if not texts:
        raise ErasureError("There are no prompts: type what the model is to draw, one prompt a line.")
    points = points_of(model, plan.blocks)
    encode = Encoder(clip)
    check_width(model, encode)
    recording = Recording(folder, facts_of(model, texts, plan, points))
    parts = in_turn(texts, plan)
    record(
        model, encode, parts, points, plan.sampling, vectors_a_row(plan), plan.fit.seed, recording,
        lambda done, total: on_progress("Drawing what is learned on.", done, total),
    )  # fmt: skip
    with torch.inference_mode(False), torch.enable_grad():
        nets, quality = fitted(recording, points, plan, model.load_device, on_progress)
    about = About(
        **subject(model).stamp(), pictures=str(plan.pictures), texts="\n".join(texts),
        sampling=json.dumps(asdict(plan.sampling)), seconds=f"{time.monotonic() - began:.0f}",
        pack_version=pack_version(),
    )  # fmt: skip
    return ConceptDictionary(about, nets, quality)


def facts_of(model, texts: Sequence[str], plan: Plan, points: Sequence[str]) -> dict[str, object]:
    """What a recording depends on."""
    here = {"fingerprint": str(subject(model).fingerprint), "texts": list(texts), "points": list(points)}
    numbers = {"pictures": plan.pictures, "together": plan.together, "vectors": plan.vectors, "seed": plan.fit.seed}
    learned = {"expansion": plan.expansion, "fit": asdict(plan.fit)}
    return json.loads(json.dumps({**here, **numbers, **learned, "sampling": asdict(plan.sampling)}))


def in_turn(texts: Sequence[str], plan: Plan) -> list[list[str]]:
    """The texts of all pictures, in parts that are drawn at once."""
    rows = [texts[i % len(texts)] for i in range(plan.pictures)]
    return [rows[start : start + plan.together] for start in range(0, len(rows), plan.together)]


def vectors_a_row(plan: Plan) -> int:
    """How many vectors of a picture are kept at each step, of the conditional row and of the other one."""
    return max(1, plan.vectors // (plan.pictures * plan.sampling.steps * 2))


def fitted(
    recording: Recording, points: Sequence[str], plan: Plan, device, on_progress: OnProgress
) -> tuple[dict[str, Autoencoder], dict[str, Quality]]:
    """An autoencoder for each block, and how good they are."""
    nets, quality = {}, {}
    for number, point in enumerate(points):
        what = f"Fitting features, block {number + 1} of {len(points)}."
        nets[point], quality[point] = _fitted(recording, point, plan, device, Step(recording, point, what, on_progress))
    return nets, quality


def _fitted(recording: Recording, point: str, plan: Plan, device, step: Step) -> tuple[Autoencoder, Quality]:
    """Of one block, going on with a state that is on disk."""
    count = recording.count(point)
    some = next(recording.batches(point, min(SAMPLE, count), plan.fit.seed + 1))
    fit = replace(plan.fit, batch=min(plan.fit.batch, count))
    net = step.net = Autoencoder(some.shape[1], plan.expansion * some.shape[1], fit.seed)
    start = _resumed(net, recording, point)
    if not start:
        net.begin(some)
    net.to(device)

    def batches(epoch: int) -> Iterator[torch.Tensor]:
        return (batch.to(device) for batch in recording.batches(point, fit.batch, fit.seed + epoch))

    try:
        fit_autoencoder(net, batches, count // fit.batch * fit.epochs, fit, step, start)
    finally:  # an interrupt keeps what was learned
        step.keep()
    share, active, often = explained(net, some.to(device))
    quality = Quality(round(share, 4), round(active, 2), int((often == 0).sum()))
    return net.cpu().requires_grad_(False), quality


@dataclass
class Step:
    """Tells how far fitting is, and keeps its state on disk."""

    recording: Recording
    point: str
    what: str
    on_progress: OnProgress
    net: Autoencoder | None = None
    done: int = 0

    def __call__(self, done: int, total: int, loss: float) -> None:
        self.done = done
        if done % STATE_EVERY == 0:
            self.keep()
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.on_progress(self.what, done, total)

    def keep(self) -> None:
        if self.done and self.net is not None:
            tensors = {name: tensor.detach().cpu() for name, tensor in self.net.state_dict().items()}
            self.recording.keep_state(self.point, tensors, {"done": str(self.done)})


def _resumed(net: Autoencoder, recording: Recording, point: str) -> int:
    """Brings a state back from disk, if there is one; after how many batches it was."""
    state = recording.state(point)
    if state is None:
        return 0
    net.load_state_dict(state[0])
    return int(state[1]["done"])
