"""Fits the text gate of an erasure prompt to texts, and finds the directions in which a concept is said."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import comfy.model_management
import torch

from ..parts.gate import GateTensors, choose_threshold, either, fit_gate, gate_score, is_open
from ..texts import fillers
from ..texts.encoder import ROOM, Encoder, alike_long
from ..texts.names import others
from ..texts.phrases import GateTexts, gate_texts, of_common_words, spread

ALONE = 150
"""Texts of nothing but filler that a gate is fitted on; with 48, long prompts for a star opened one for circles."""
LONGEST = 75
"""Tokens of a gate's texts at most: what CLIP reads at once."""
BEHIND = 4
"""Fillers that a text stands behind, so that it is no mark of one of them."""
COMMON = 200
"""Texts of common words that a gate is tried on."""
BYTES = 2 << 30
"""Encodings that a gate is fitted to, at most; fitting takes some times as much memory."""
COPIES = 3
"""How many times the size of their encodings a fit needs."""
FEWEST = 8
"""Texts of each kind that a gate is fitted to, however large their encodings are."""
NEARLY_ALL = 0.995
"""Share of other texts that a gate is closed for where it cannot be for all."""
WEIGHT = 1.5
"""Prompt weight of the copies of its texts that a gate is fitted on, so that it is right for weighted texts, too."""


def build_gate(
    encode: Encoder, names: Sequence[str], preserve: Sequence[str], texts: GateTexts | None = None
) -> tuple[GateTensors, float]:
    """A text gate for a concept known by ``names``, and its gap: how far the lowest text that begins with the concept
    is above the highest of common words, which it is not fitted to. At or below zero some other texts open it.

    Texts that speak of the concept: its names in phrasings and beside kept texts. Texts that do not: kept and generic
    texts in the same phrasings and in pairs, and the empty prompt. Each is seen plain and with prompt weight
    ``WEIGHT``; every second one is seen far back as well, ``behind_filler``, and so is ``nothing_but_filler``. One
    direction reads names near and far back. Two gates that have each seen one half set its threshold: in the gap
    between texts of the other half, or where there is none, above nearly all that do not speak of the concept. Texts of
    common words are among those.

    Where it stays closed for names that stand at the beginning, the near gate stands beside it. Names far back stay
    unread then; the text encoders for which this is so hardly know them there, and the networks do not draw them.
    """
    with torch.inference_mode(False), torch.no_grad():
        texts = texts or gate_texts(names, preserve)
        share = _affordable(encode, texts)
        some = [spread(part, max(FEWEST, int(share * len(part)))) for part in texts]
        rows = _plain_and_weighted(encode, some)
        far = FarBack.read(encode, names, some, max(FEWEST, int(share * ALONE)))
        flat = [list(part.flatten(0, 1)) for part in rows]
        near, rest, told, other, filler, common = alike_long(
            *flat,
            far.told,
            far.other,
            far.filler,
            encode.rows(of_common_words(names, max(FEWEST, int(share * COMMON)))),
        )
        near, rest = (part.unflatten(0, whole.shape[:2]) for part, whole in zip((near, rest), rows, strict=True))

        def part_of(half: slice) -> list[torch.Tensor]:
            return [told[half], near[half].flatten(0, 1), rest[half].flatten(0, 1), other[half], filler[half]]

        def fit(half: slice) -> GateTensors:
            behind, begin, *others = part_of(half)
            silent = torch.cat(others)
            return fitted(torch.cat([behind, begin]), silent, far.start(behind, silent, half))

        gate, shifts = fit(slice(None)), []
        for half in (0, 1):
            one = fit(slice(half, None, 2))
            unseen = [gate_score(part, one) - one.threshold for part in (*part_of(slice(1 - half, None, 2)), common)]
            low, high = float(torch.cat(unseen[:2]).min()), float(torch.cat(unseen[2:]).max())
            nearly = float(torch.cat(unseen[2:]).quantile(NEARLY_ALL))
            shifts.append((low + high) / 2 if low > high else max(0.0, nearly))
        gate = replace(gate, threshold=gate.threshold + sum(shifts) / 2)
        if bool(is_open(near.flatten(0, 1), gate).all()):
            return gate, float(gate_score(near.flatten(0, 1), gate).min() - gate_score(common, gate).max())
        begin, gap = _near_gate(rows)
        return either(begin, gate), gap


def fitted(speaking: torch.Tensor, silent: torch.Tensor, start: GateTensors | None = None) -> GateTensors:
    """``fit_gate`` where the host computes: at real widths a minute or more on a CPU, seconds on a GPU, if it has room.
    Cancel ends it."""
    texts, device = (speaking, silent), comfy.model_management.get_torch_device()
    how = {"start": start, "on_step": comfy.model_management.throw_exception_if_processing_interrupted}
    if device.type == "cuda":
        room = COPIES * sum(part.numel() * part.element_size() for part in texts)
        comfy.model_management.free_memory(room, device)
        with contextlib.suppress(torch.cuda.OutOfMemoryError):
            return fit_gate(*texts, device=device, **how)
    return fit_gate(*texts, **how)


def _affordable(encode: Encoder, texts: Sequence[Sequence[str]]) -> float:
    """The share of all texts for a gate whose encodings are not larger than ``BYTES``, at most 1."""
    longest = encode.rows([max(texts[0], key=len)])[0]
    count = (2 + BEHIND / 2) * sum(map(len, texts)) + ALONE + COMMON
    return min(1.0, BYTES / (count * longest.numel() * 4))


def _near_gate(rows: Sequence[torch.Tensor]) -> tuple[GateTensors, float]:
    """The gate for texts with nothing in front of them, and its gap; ``rows``: those that speak and those that do not,
    [texts, 1 or 2, n, d]."""
    speaking, silent = rows
    gate = fitted(speaking.flatten(0, 1), silent.flatten(0, 1))
    thresholds, gaps = [], []
    for half in (0, 1):
        other = fitted(speaking[half::2].flatten(0, 1), silent[half::2].flatten(0, 1))
        scores = [gate_score(part[1 - half :: 2].flatten(0, 1), other) - other.threshold for part in rows]
        threshold, gap = choose_threshold(*(part.tolist() for part in scores))
        thresholds.append(threshold)
        gaps.append(gap)
    return replace(gate, threshold=gate.threshold + sum(thresholds) / 2), min(gaps)


@dataclass(frozen=True)
class FarBack:
    """Encodings [n, d] of texts behind filler: ``told`` of those that speak of a concept, with the ``places`` of its
    name, ``other`` of those that do not, and ``filler`` of filler alone."""

    told: list[torch.Tensor]
    places: list[slice]
    other: list[torch.Tensor]
    filler: list[torch.Tensor]

    @classmethod
    def read(cls, encode: Encoder, names: Sequence[str], texts: Sequence[Sequence[str]], alone: int = ALONE) -> FarBack:
        """``texts``: those that speak and those that do not; every second one is read, behind ``BEHIND`` fillers. Those
        that are longer than filler leaves room for are passed over, where there are others."""
        short = [[text for text in part if text and len(encode.content(text)) <= ROOM] for part in texts]
        some = [few or [text for text in part if text] for few, part in zip(short, texts, strict=True)]
        behind = [behind_filler(encode, part[::2] * BEHIND, names) for part in some]
        parts = (*behind, nothing_but_filler(encode, names, alone))
        told, other, filler = (list(chain(*encode.stream(part))) for part in parts)
        return cls(told, [_last_place(encode, text, names) for text in behind[0]], other, filler)

    def start(self, told: torch.Tensor, silent: torch.Tensor, half: slice = slice(None)) -> GateTensors:
        """What tells the names' own tokens in ``told`` [p, n, d] from all others, a convex problem; ``half``: which of
        the texts those are."""
        own, rest = [], [silent.flatten(0, 1)[::7]]  # some of a million
        for place, row in zip(self.places[half], told, strict=True):
            rest.append(row[: place.start])
            own.append(row[place.start : place.stop + 1])
        return fitted(torch.cat(own)[:, None], torch.cat(rest)[:, None])


def _last_place(encode: Encoder, text: str, names: Sequence[str]) -> slice:
    """Where the longest of the names that a text says stands in it, for the last time."""
    name = max((name for name in names if name in text), key=len)
    before, _, after = text.rpartition(name)
    return encode.place(f"{before}{{}}{after}", name)


def nothing_but_filler(encode: Encoder, names: Sequence[str], count: int = ALONE) -> list[str]:
    """Texts that fill all that the encoder reads at once and speak of nothing: the first chunks of a long prompt."""
    return fillers.alone(count, _sizes(encode, names), min(LONGEST, encode.room))


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
