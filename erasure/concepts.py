"""Texts -> conditioning, through the host's CLIP; where in a text a concept's name stands; the gate built from both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from .artifact import ErasureError, GateTensors
from .prompt import choose_threshold, span_similarity

PHRASINGS = (
    "{}",
    "a {}",
    "a photo of a {}",
    "a picture of a {}",
    "a painting in the style of {}",
    "an image of {}, detailed",
    "one {}",
)
"""Ways to speak of a concept, which the gate and the recommended training see; any concept must fit most of them."""


@dataclass(frozen=True)
class Text:
    """A text as the model is given it: ``context`` [1, n, d] and the host's own conditioning entry ``cond``."""

    text: str
    context: torch.Tensor
    cond: list
    tokens: tuple[int, ...]


def lines(text: str) -> list[str]:
    """The non-empty lines of a text field, in order, each once."""
    return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


class Encoder:
    """Encodes texts with a CLIP of the host, each text once."""

    def __init__(self, clip):
        if clip is None:
            raise ErasureError(
                "No CLIP is connected: connect the checkpoint loader's CLIP output (checkpoints without a text encoder "
                "need a CLIP loader)."
            )
        self.clip = clip
        self.known: dict[str, Text] = {}

    def __call__(self, text: str) -> Text:
        if text not in self.known:
            self.known[text] = self._encode(text)
        return self.known[text]

    def _encode(self, text: str) -> Text:
        tokens = self.clip.tokenize(text)
        chunks = next(iter(tokens.values()))
        ids = tuple(token[0] for chunk in chunks for token in chunk if isinstance(token[0], int))
        cond = self.clip.encode_from_tokens_scheduled(tokens)
        cond = [[_plain(c), {k: _plain(v) for k, v in extra.items()}] for c, extra in cond]
        return Text(text, cond[0][0].float(), cond, ids)

    def name_tokens(self, name: str) -> tuple[int, ...]:
        """The token numbers of a name without start, end and padding.

        Raises ErasureError for an empty name or one that does not fit into one chunk.
        """
        chunks = next(iter(self.clip.tokenize(name).values()))
        if len(chunks) > 1:
            raise ErasureError(
                f"The concept '{name[:40]}…' is longer than the {len(chunks[0])} tokens the text encoder reads at "
                "once: name it in a few words."
            )
        blank = {token[0] for token in next(iter(self.clip.tokenize("").values()))[0]}
        found = tuple(token[0] for token in chunks[0] if token[0] not in blank)
        if not found:
            raise ErasureError("The concept is empty: type what is to be erased, one name a line.")
        return found

    def span(self, text: str, name: str) -> torch.Tensor:
        """The encodings of a name's tokens where it stands in a text, [t, d]."""
        encoded, name_ids = self(text), self.name_tokens(name)
        places = [i for i in range(len(encoded.tokens)) if encoded.tokens[i : i + len(name_ids)] == name_ids]
        if not places:
            raise ErasureError(
                f"The text encoder does not read '{name}' as a word of its own in '{text}': spell it alone."
            )
        return encoded.context[0, places[0] : places[0] + len(name_ids)]


def _plain(value):
    """A copy that autograd accepts, when upstream nodes ran in inference mode."""
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


@dataclass(frozen=True)
class Gate:
    """A gate together with how well it separates: ``gap`` in cosine, at or below zero when it cannot."""

    tensors: GateTensors
    gap: float


def build_gate(encode: Encoder, names: Sequence[str], preserve: Sequence[str]) -> Gate:
    """A text gate for a concept known by ``names``, from the host's encodings of its phrasings and the preserve set.

    Contexts to keep are every preserved text in every phrasing, and the empty prompt. Each phrasing of the concept is
    scored by a gate that has not seen it, so that the threshold leaves room for phrasings nobody listed.
    """
    with torch.inference_mode(False), torch.no_grad():
        phrasings = _usable(encode, names)
        keep = [""] + [p.format(text) for text in preserve for p in PHRASINGS[:4]]
        kept = torch.cat([encode(text).context[:, : encode("").context.shape[1]] for text in keep])
        centre = kept.reshape(-1, kept.shape[-1]).mean(0)
        spans = {
            name: torch.stack([encode.span(p.format(name), name) for p in phrasings[name]]) for name in names
        }
        own_scores = [
            float(span_similarity(encode(p.format(name)).context, _without(spans, name, i, centre)))
            for name in names
            for i, p in enumerate(phrasings[name])
        ]
        full = GateTensors(tuple(spans.values()), centre, 0.0)
        threshold, gap = choose_threshold(own_scores, span_similarity(kept, full).tolist())
    return Gate(GateTensors(tuple(spans.values()), centre, threshold), gap)


def _usable(encode: Encoder, names: Iterable[str]) -> dict[str, list[str]]:
    """The phrasings in which each name's tokens can be found again."""
    usable: dict[str, list[str]] = {}
    for name in names:
        ids = encode.name_tokens(name)
        usable[name] = [p for p in PHRASINGS if _contains(encode(p.format(name)).tokens, ids)]
        if len(usable[name]) < 2:
            raise ErasureError(f"The text encoder does not read '{name}' as words of its own: spell it differently.")
    return usable


def _contains(sequence: tuple[int, ...], part: tuple[int, ...]) -> bool:
    return any(sequence[i : i + len(part)] == part for i in range(len(sequence)))


def _without(spans: dict[str, torch.Tensor], name: str, i: int, centre: torch.Tensor) -> GateTensors:
    others = dict(spans)
    others[name] = torch.cat([spans[name][:i], spans[name][i + 1 :]])
    return GateTensors(tuple(others.values()), centre, 0.0)
