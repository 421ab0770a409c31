"""From a MODEL, a CLIP and a few texts to an ``Erasure`` without any training: closed-form edits of the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from json import dumps

import torch

from . import attach
from .artifact import Erasure, Metadata
from .concepts import IN_CONTEXT, PHRASINGS, Encoder, gate_texts, read_texts, token_encodings
from .deltas import effective_weights, weight_names
from .fingerprint import context_dim, fingerprint
from .methods import uce
from .version import host_version, pack_version


@dataclass(frozen=True)
class Instant:
    """What a closed-form erasure can be told.

    ``target``: the text that takes the concept's place; empty for what the same phrase says without it. ``push``: how
    far the target is moved on, away from the concept (0: onto the target; eta of negative guidance, on texts).
    ``in_context``: learn from phrases that put the concept beside the preserve set, not from its bare name alone.
    """

    target: str = ""
    push: float = 0.0
    in_context: bool = True
    weights: str = "keys+values"
    erase_scale: float = 1.0
    preserve_scale: float = 1.0
    ridge: float = 1e-3


def erase_instantly(model, clip, concepts: str, preserve: str, settings: Instant) -> Erasure:
    """Solves for all concepts (one a line) at once, preserving texts (one a line). Raises ErasureError."""
    attach.require_unet(model)
    encode = Encoder(clip)
    with torch.inference_mode(False), torch.no_grad():
        names, kept = read_texts(model, encode, concepts, preserve)
        pairs = [_pairs(encode, name, kept, settings) for name in names]
        preserved = token_encodings(encode, gate_texts(names, kept)[1])
        edit = uce.edit(pairs, preserved, settings.erase_scale, settings.preserve_scale, settings.ridge)
        delta = edit.delta(effective_weights(model, weight_names(model.model, settings.weights)))
    metadata = Metadata(
        method="uce",
        concept="\n".join(names),
        target=settings.target or "empty prompt",
        preserve="\n".join(kept),
        family=fingerprint(model).family,
        context_dim=str(context_dim(model)),
        fingerprint=str(fingerprint(model)),
        settings=dumps(asdict(settings)),
        pack_version=pack_version(),
        host_version=host_version(),
    )
    return Erasure(metadata, (), delta)


def _pairs(encode: Encoder, name: str, kept: Sequence[str], settings: Instant) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodings of one concept and where they go, [n, d] each."""
    templates = ["{}"]
    if settings.in_context:
        templates = [*PHRASINGS, *(p.format(concept="{}", kept=text) for text, p in product(kept, IN_CONTEXT))]
    found = [aligned(encode, template, name, settings.target) for template in templates]
    source, target = (torch.cat([pair[side] for pair in found]) for side in (0, 1))
    return source, target - settings.push * (source - target)


def aligned(encode: Encoder, template: str, name: str, replacement: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodings of a phrase from the name's last token on, beside those of the same phrase with the name replaced.

    Everything after the name is paired token by token, because contextual encodings spread a concept over what follows
    it, the end and the padding included. An empty ``replacement`` pairs the name's last token with the one before it.
    """
    chunk = encode("").context.shape[1]
    text, other = (" ".join(template.replace("{}", word).split()) for word in (name, replacement))
    first = encode.place(text, name)
    last = first + len(encode.name_tokens(name)) - 1
    there = first - 1 + (len(encode.name_tokens(replacement)) if replacement else 0)
    count = chunk - max(last, there)
    return encode(text).context[0, last : last + count], encode(other).context[0, there : there + count]
