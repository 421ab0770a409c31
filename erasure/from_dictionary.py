"""From a concept dictionary and a concept to an ``Erasure`` that steers by the concept's features."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import torch

from . import inspection
from .artifact import NOTHING, Erasure, ErasureError, Metadata
from .dictionaries import OnProgress, nothing
from .dictionary.autoencoder import Autoencoder
from .dictionary.files import ConceptDictionary
from .dictionary.picking import Counting, Means, Picking, ratios, scores, steering_for, strongest
from .host.fingerprint import of_one_checkpoint, parse_fingerprint
from .host.recording import draw
from .host.subject import subject
from .host.trajectories import Sampling
from .parts.steering import Steering
from .request import OpenFile, read_request
from .texts.encoder import Encoder
from .texts.names import is_said, plain, quoted
from .texts.neighbours import neighbours
from .texts.phrases import IN_CONTEXT, PHRASINGS
from .training.memory import Memory
from .verdict import Finding, Verdict
from .version import pack_version

METHODS = {"negative": "saeuron", "replace": "saeuron, replace"}
"""Mode -> what an erasure says of how it was made."""
SHOWN, FEATURES_SHOWN = 6, 2
"""Pictures of each feature, and features of each block, on the sheet."""
NEAR = 6
"""Preserved texts that a concept is compared with, at most."""
REPLACED = 2
"""Blocks in which places are replaced: in all of them, what else a picture shows went, too."""
MEMORY = Memory()
"""What the last concept's texts excited: the same for another mode, or other numbers of features."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn to pick features by: ``pictures`` for a concept, and for all others together."""

    pictures: int = 16
    sampling: Sampling = field(default_factory=lambda: Sampling(steps=10))
    seed: int = 0


@dataclass(frozen=True)
class Picked:
    """A feature of a concept, and the pictures that excite it most: places in ``latents`` of a concept's drawing."""

    concept: str
    point: str
    feature: int
    latents: torch.Tensor


def erase_with_dictionary(
    model, clip, dictionary: ConceptDictionary, concept: str, preserve: str, how: Picking, drawing: Drawing,
    on_progress: OnProgress = nothing, open_file: OpenFile | None = None,
) -> tuple[Erasure, list[Picked]]:  # fmt: skip
    """An erasure by features of a dictionary, and what was picked. Raises ErasureError."""
    check_dictionary(model, dictionary)
    encode = Encoder(clip)
    request = read_request(model, encode, concept, preserve, "", open_file)
    look = Look(model, encode, dictionary, drawing, MEMORY.of(model, clip))
    parts, picked = list[Steering](), list[Picked]()
    for number, name in enumerate(request.texts):
        on_progress(f"Drawing {quoted([name])}.", number, len(request.texts))
        texts = compared(encode, dictionary, name, request.texts, request.preserve, drawing)
        steered, shown = steerings(look, plain(name), *texts, how)
        parts, picked = parts + steered, picked + shown
    m = Metadata(
        method=METHODS[how.mode], concept="\n".join(request.texts), target=NOTHING,
        preserve="\n".join(request.preserve), **subject(model).stamp(), settings=json.dumps(asdict(how)),
        seed=str(drawing.seed), notes="\n".join(request.notes), pack_version=pack_version(),
        doubts=Verdict(tuple(Finding("⚠", text) for text in request.warnings)).as_json(),
    )  # fmt: skip
    erasure = Erasure(m, tuple(parts))
    verdict = inspection.full(model, erasure)
    return replace(erasure, metadata=replace(m, verdict=verdict.as_json())), picked


@dataclass(frozen=True)
class Look:
    """What texts excite in a MODEL, seen once for each list of them that is asked for again."""

    model: Any
    encode: Encoder
    dictionary: ConceptDictionary
    drawing: Drawing
    memory: Memory

    def __call__(self, name: str, texts: Sequence[str]) -> tuple[dict[str, Means], Shown]:
        """Means by block, and the pictures; ``name``: of the place in memory."""
        key = (self.dictionary.identity(), tuple(texts), self.drawing, self.model.patches_uuid)
        return self.memory.part(name, key, lambda: self._seen(texts))

    def _seen(self, texts: Sequence[str]) -> tuple[dict[str, Means], Shown]:
        nets = {point: net.to(self.model.load_device) for point, net in self.dictionary.nets.items()}
        return seen(self.model, self.encode, nets, texts, self.drawing)


def steerings(
    look: Look, name: str, texts: Sequence[str], without: Sequence[str], how: Picking
) -> tuple[list[Steering], list[Picked]]:
    """A concept's parts, one a block that has features of its own for it, from texts with it and without it; and the
    best of these features. Where no block has any, the one that comes nearest."""
    (own, shown), (others, _) = look("with", texts), look("without", without)
    parts = _parts(look.dictionary, name, own, others, how)
    if not parts:
        parts = clearest(_parts(look.dictionary, name, own, others, replace(how, ratio=1.0)))[:1]
    if how.mode == "replace":
        parts = clearest(parts)[:REPLACED]
    contrast = max((part.contrast for part in parts), default=0.0)
    best = [(part.point, i) for part in parts for i in best_features(part, own, others)]
    picked = [Picked(name, point, i, shown.top(point, i, SHOWN)) for point, i in best]
    return [replace(part, contrast=contrast) for part in parts], picked


def clearest(parts: Sequence[Steering]) -> list[Steering]:
    """Those whose features tell a concept best from others first."""
    return sorted(parts, key=lambda part: -part.contrast)


def _parts(
    dictionary: ConceptDictionary, name: str, own: Mapping[str, Means], others: Mapping[str, Means], how: Picking
) -> list[Steering]:
    """Of each block that has features for a concept, with how well its best one tells it from others."""
    out, identity = list[Steering](), dictionary.identity()
    for point, net in dictionary.nets.items():
        part = steering_for(net, point, identity, own[point], others[point], how)
        if part is not None:
            [best, *_] = best_features(part, own, others)
            contrast = round(float(ratios(own[point], others[point])[best]), 2)
            out.append(replace(part, concept=name, contrast=contrast))
    return out


def best_features(part: Steering, own: Mapping[str, Means], others: Mapping[str, Means]) -> Sequence[int]:
    """The strongest of a part's features, the first one first."""
    by_level = scores(own[part.point], others[part.point])[:, part.features]
    return part.features[strongest(by_level, FEATURES_SHOWN)].tolist()


def check_dictionary(model, dictionary: ConceptDictionary) -> None:
    """Raises ErasureError for a dictionary of another kind of model."""
    here, there = subject(model), parse_fingerprint(dictionary.about.fingerprint)
    if there is None or there.shapes != here.fingerprint.shapes:
        raise ErasureError(
            f"This concept dictionary was made on a {dictionary.about.family} model, and the connected one is "
            f"{here.kind}: connect the model that it was made on."
        )
    if not of_one_checkpoint(there, here.fingerprint):
        raise ErasureError(
            "This concept dictionary was made on another checkpoint, whose features mean other things: make one on "
            "this model with Train Concept Dictionary."
        )


def compared(
    encode: Encoder, dictionary: ConceptDictionary, name: str, names: Sequence[str], preserve: Sequence[str],
    drawing: Drawing,
) -> tuple[list[str], list[str]]:  # fmt: skip
    """Texts with a concept, and twice as many in which something else stands in its place: what is nearest of the
    preserve set. So they differ in the concept and in nothing else. Without a preserve set, what the dictionary was
    made with and does not name a concept. Raises ErasureError where all texts do."""
    kept = [text for text in preserve if not any(is_said(one, text) for one in names)]
    if len(kept) < 2:
        return _evenly([phrase.format(name) for phrase in PHRASINGS[:4]], drawing.pictures), _unrelated(
            dictionary, names, kept, drawing
        )
    near = neighbours(encode, [name], kept)[0][: max(1, min(NEAR, len(kept) // 2))]
    scenes = [(template, text) for text in kept for template in IN_CONTEXT[:3]]
    scenes = [(template, text) for template, text in scenes if text not in near] or scenes
    scenes = _evenly(scenes, drawing.pictures)
    texts = [template.format(concept=name, kept=text) for template, text in scenes]
    places = enumerate([*scenes, *scenes])
    return texts, [template.format(concept=near[i % len(near)], kept=text) for i, (template, text) in places]


def _evenly(items: Sequence[_T], count: int) -> list[_T]:
    """So many of them, evenly taken; where there are fewer, they take turns."""
    few = items[:: max(1, len(items) // count)]
    return [few[i % len(few)] for i in range(count)]


def _unrelated(dictionary: ConceptDictionary, names: Sequence[str], kept: Sequence[str], drawing: Drawing) -> list[str]:
    """Texts without any of the concepts: of few preserved texts, or those that the dictionary was made with."""
    texts = [phrase.format(text) for text in kept for phrase in PHRASINGS[:4]] or dictionary.about.texts.splitlines()
    texts = [text for text in texts if not any(is_said(name, text) for name in names)]
    if not texts:
        raise ErasureError(
            "All prompts of this dictionary speak of the concept, so nothing shows what is its own: type what is to "
            "stay into 'preserve'."
        )
    return _evenly(texts, 2 * drawing.pictures)


class Shown:
    """The clean latents of a drawing, one a text, and how much each excited every feature of each block."""

    def __init__(self, latents: torch.Tensor, excited: Mapping[str, torch.Tensor]):
        self.latents, self.excited = latents, excited

    def top(self, point: str, feature: int, count: int) -> torch.Tensor:
        """Those that excite a feature most, [count, c, ...]."""
        best = self.excited[point][:, feature].topk(min(count, len(self.latents))).indices
        return self.latents[best]


def seen(
    model, encode: Encoder, nets: Mapping[str, Autoencoder], texts: Sequence[str], drawing: Drawing
) -> tuple[dict[str, Means], Shown]:
    """What texts excite on average, by block, and their pictures."""
    counting = {point: Counting(net) for point, net in nets.items()}
    latents = draw(model, encode, texts, drawing.sampling, drawing.seed, counting)
    means = {point: hook.means() for point, hook in counting.items()}
    return means, Shown(latents, {point: hook.excited for point, hook in counting.items()})
