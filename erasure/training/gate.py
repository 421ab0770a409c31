"""Fits the text gate of an erasure prompt to texts, and finds the directions in which a concept is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import torch

from ..parts.gate import GateTensors, choose_threshold, either, fit_gate, gate_score
from ..texts import fillers
from ..texts.encoder import ROOM, Encoder, alike_long
from ..texts.names import others
from ..texts.phrases import GateTexts, gate_texts

ALONE = 150
"""Texts of nothing but filler that a gate is fitted on; with 48, long prompts for a star opened one for circles."""
LONGEST = 75
"""Tokens of a gate's texts at most: what CLIP reads at once."""
WEIGHT = 1.5
"""Prompt weight of the copies of its texts that a gate is fitted on, so that it is right for weighted texts, too."""


def build_gate(
    encode: Encoder, names: Sequence[str], preserve: Sequence[str], texts: GateTexts | None = None
) -> tuple[GateTensors, float]:
    """A text gate for a concept known by ``names``, and its gap, at or below zero when it cannot separate the texts.

    Texts that speak of the concept: its names in phrasings and beside kept texts. Texts that do not: kept and generic
    texts in the same phrasings and in pairs, and the empty prompt. Each is seen plain and with prompt weight
    ``WEIGHT``. Threshold and gap come from two gates that have each seen one half of the texts and are asked for the
    other half. A second direction reads texts that speak of the concept far back, ``behind_filler``; it has also
    seen chunks of ``nothing_but_filler``, which it is closed for.
    """
    with torch.inference_mode(False), torch.no_grad():
        texts = texts or gate_texts(names, preserve)
        rows = _plain_and_weighted(encode, texts)
        speaking, silent = (part.flatten(0, 1) for part in rows)
        gate, near = fit_gate(speaking, silent), silent
        thresholds, gaps = [], []
        for half in (0, 1):
            speaking, silent = (part[half::2].flatten(0, 1) for part in rows)
            other = fit_gate(speaking, silent)
            scores = [gate_score(part[1 - half :: 2].flatten(0, 1), other) - other.threshold for part in rows]
            threshold, gap = choose_threshold(*(part.tolist() for part in scores))
            thresholds.append(threshold)
            gaps.append(gap)
        gate = replace(gate, threshold=gate.threshold + sum(thresholds) / 2)
        return either(gate, _far_gate(encode, names, texts, near)), min(gaps)


def _far_gate(encode: Encoder, names: Sequence[str], texts: Sequence[Sequence[str]], near: torch.Tensor) -> GateTensors:
    """A gate for ``behind_filler``, silent for ``near`` [q, n, d], too; ``texts``: those that speak and that do not.

    It starts from what tells the names' own tokens from all others: a convex problem.
    """
    behind = [behind_filler(encode, _twice(part), names) for part in texts]
    told, other, filler = (list(chain(*encode.stream(p))) for p in (*behind, nothing_but_filler(encode, names)))
    speaking, silent = alike_long(told, [*other, *near, *filler])
    own, rest = [], [silent.flatten(0, 1)[::7]]  # some of a million
    for text, row in zip(behind[0], speaking, strict=True):
        place = _last_place(encode, text, names)
        rest.append(row[: place.start])
        own.append(row[place.start : place.stop + 1])
    start = fit_gate(torch.cat(own)[:, None], torch.cat(rest)[:, None])
    return fit_gate(speaking, silent, penalty=1e-4, start=start)


def _last_place(encode: Encoder, text: str, names: Sequence[str]) -> slice:
    """Where the longest of the names that a text says stands in it, for the last time."""
    name = max((name for name in names if name in text), key=len)
    before, _, after = text.rpartition(name)
    return encode.place(f"{before}{{}}{after}", name)


def _twice(texts: Sequence[str]) -> list[str]:
    """Every second text, two times: each stands behind two fillers, so that it is no mark of one of them."""
    return [text for text in texts if text][::2] * 2


def nothing_but_filler(encode: Encoder, names: Sequence[str]) -> list[str]:
    """Texts that fill all that the encoder reads at once and speak of nothing: the first chunks of a long prompt."""
    return fillers.alone(ALONE, _sizes(encode, names), min(LONGEST, encode.room))


def behind_filler(encode: Encoder, texts: Sequence[str], names: Sequence[str]) -> list[str]:
    """Texts or templates, each behind another filler that leaves ``ROOM`` for it and says none of the names."""
    return fillers.behind(texts, _sizes(encode, names), min(LONGEST, encode.room) - ROOM)


def _sizes(encode: Encoder, names: Sequence[str]) -> dict[str, int]:
    """The words of filler that say none of the names, and how many tokens each has."""
    return {word: len(encode.content(word)) for word in others(fillers.FILLER, names)}


def _plain_and_weighted(encode: Encoder, parts: Sequence[Sequence[str]]) -> list[torch.Tensor]:
    """The encodings of texts' first chunks as they are and with a prompt weight, where the encoder knows that: for each
    part [texts, 1 or 2, n, d]."""
    plain = [encode.rows(part) for part in parts]
    weighted = [[f"({text}:{WEIGHT})" if text else text for text in part] for part in parts if encode.weighs]
    rows = alike_long(*plain, *(list(chain(*encode.stream(part))) for part in weighted))
    kinds = len(rows) // len(plain)
    return [torch.stack([rows[k * len(plain) + i] for k in range(kinds)], dim=1) for i in range(len(plain))]


def concept_directions(
    encode: Encoder,
    names: Sequence[str],
    preserve: Sequence[str],
    count: int,
    texts: GateTexts | None = None,
    shrinkage: float = 1e-3,
) -> torch.Tensor:
    """Directions [count, d] in which texts that speak of the concept are strong and other texts are weak.

    Generalised eigenvectors of the two second moments of token encodings, S v = w (N + shrinkage mean(N) I) v, those of
    the largest w first: the criterion of Fisher's discriminant without centring, since a change of weights has no bias.
    A low-rank change that reads these hardly touches anything else. Scaled so that the speaking texts' response is as
    large as through random directions of length 1.
    """
    with torch.inference_mode(False), torch.no_grad():
        texts = texts or gate_texts(names, preserve)
        speaking, silent = (encode.chunks(part).flatten(0, 1).double() for part in texts)
        strong, weak = (tokens.T @ tokens / len(tokens) for tokens in (speaking, silent))
        weak += shrinkage * weak.diagonal().mean() * torch.eye(len(weak), dtype=weak.dtype, device=weak.device)
        whiten = torch.linalg.cholesky(weak).inverse()
        _, vectors = torch.linalg.eigh(whiten @ strong @ whiten.T)
        directions = vectors[:, -count:].flip(1).T @ whiten
        response = (speaking @ directions.T).square().mean(0).sqrt()
        return (directions * (strong.diagonal().mean().sqrt() / response)[:, None]).float().cpu()
