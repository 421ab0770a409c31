"""The Erasure: what every method returns and every use takes, and the file it lives in. torch and safetensors only.

A file holds the tensors of each part under its kind and number, ``prompt.0.keys``, or under its kind alone where an
erasure has but one of it, ``delta.<weight name>.up``; and of probes, by which what it does is checked,
``probe.<i>.source`` and ``.goal`` [r, context_dim]. What else a part has to say is a string, as all of the metadata
is, so that a reader needs no tensor to know what the file is. ``workflow`` and ``prompt`` among the strings are the
graph that made the file, as the editor keeps it in pictures.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from .parts.part import Part

    P = TypeVar("P", bound=Part)

FORMAT_VERSION = "1"
NOTHING = "empty prompt"
"""The target of what becomes nothing."""


class ErasureError(ValueError):
    """Something a user can put right; its text is one sentence that says how."""


@dataclass(frozen=True)
class LowRank:
    """A change of a weight, ``up @ down``: [out, r] and [r, in]."""

    up: torch.Tensor
    down: torch.Tensor

    def dense(self) -> torch.Tensor:
        """The change as a matrix [out, in], float32."""
        return self.up.float() @ self.down.float()

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"up": self.up, "down": self.down}


@dataclass(frozen=True)
class Full:
    """A change of a weight, written out: [out, in], or [out] for a bias."""

    full: torch.Tensor

    def dense(self) -> torch.Tensor:
        """The change itself, float32."""
        return self.full.float()

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"full": self.full}


Change = LowRank | Full


@dataclass(frozen=True)
class Probe:
    """Some token encodings of a text, by which is seen how far an erasure moves it: ``source`` [r, d].

    ``goal`` [r, d]: those of the text in whose place it goes; None for a text that stays.
    """

    text: str
    source: torch.Tensor
    goal: torch.Tensor | None = None


@dataclass(frozen=True)
class Metadata:
    """What an erasure says of itself. Every field is a string, as safetensors wants it.

    ``recovers``: the names that its key brings back, where these are not all that it erases. ``added``: how many
    trained changes of the weights it adds up, where it was combined from several erasures.
    """

    format_version: str = FORMAT_VERSION
    method: str = ""
    role: str = ""
    concept: str = ""
    target: str = ""
    strengths: str = ""
    preserve: str = ""
    family: str = ""
    context_dim: str = ""
    blocks: str = ""
    tokens: str = ""
    fingerprint: str = ""
    settings: str = ""
    seed: str = ""
    steps: str = ""
    loss: str = ""
    gate_gap: str = ""
    parts: str = ""
    added: str = ""
    only_in: str = ""
    recovers: str = ""
    verdict: str = ""
    doubts: str = ""
    unknown: str = ""
    notes: str = ""
    thumbnail: str = ""
    pack_version: str = ""
    host_version: str = ""


@dataclass(frozen=True)
class Erasure:
    """One erasure: its parts, what they are, and probes to check them by. Immutable; tensors are on the CPU.

    ``choices``: for each name, the words nearest to it that could take its place; files do not keep them. ``file``: the
    name of the file that it was read from, without its ending.
    """

    metadata: Metadata
    parts: tuple[Part, ...] = ()
    probes: tuple[Probe, ...] = ()
    choices: tuple[tuple[str, ...], ...] = ()
    file: str = field(default="", compare=False)

    @property
    def key(self) -> tuple[Part, ...]:
        """The parts that bring the concept back."""
        return tuple(part for part in self.parts if part.role == "key")

    @property
    def erasers(self) -> tuple[Part, ...]:
        """The parts that erase."""
        return tuple(part for part in self.parts if part.role == "eraser")

    @property
    def beside(self) -> tuple[Part, ...]:
        """The parts that erase beside the weights, while a model draws: the host saves and merges nothing of them."""
        return tuple(part for part in self.erasers if not part.changes())

    @property
    def delta(self) -> dict[str, Change]:
        """All that its parts change of the weights, by the weights' names."""
        return {name: change for part in self.parts for name, change in part.changes().items()}

    def of(self, kind: type[P]) -> tuple[P, ...]:
        """Its parts of one kind."""
        return tuple(part for part in self.parts if isinstance(part, kind))

    @property
    def names(self) -> list[str]:
        """The concepts that it erases, each once."""
        return list(dict.fromkeys(_lines(self.metadata.concept)))

    @property
    def targets(self) -> list[str]:
        """What takes the place of each name; empty for nothing, or for what no text says."""
        targets, names = _lines(self.metadata.target), self.names
        targets = targets if len(targets) == len(names) else [" ".join(targets)] * len(names)
        return ["" if text == NOTHING else text for text in targets]

    @property
    def strengths(self) -> list[float]:
        """How much of its way each name goes, as its line says."""
        given = [float(text) for text in _lines(self.metadata.strengths)]
        return given if len(given) == len(self.names) else [1.0] * len(self.names)

    @property
    def recovered(self) -> list[str]:
        """The concepts that its key brings back."""
        return (_lines(self.metadata.recovers) or self.names) if self.key else []

    def without_key(self) -> Erasure:
        """What can be published: it erases, and nobody can recover with it."""
        return replace(self, parts=self.erasers)

    def key_only(self) -> Erasure:
        """What is kept: it recovers, and erases nothing."""
        return replace(self, parts=self.key)

    def bytes(self) -> int:
        """Size of the tensors."""
        return sum(t.numel() * t.element_size() for t in to_tensors(self).values())

    def identity(self) -> str:
        """A short hash of what erases: the same with a key and without, whatever file it came from."""
        return _hash(self.without_key())

    def identities_of_keys(self) -> list[str]:
        """A short hash of each part of the key: the same in every file, whatever it was combined with."""
        return [identity_of(part) for part in self.key]


def _hash(erasure: Erasure) -> str:
    """A short hash of an erasure's tensors, without its probes."""
    return _hash_of(to_tensors(replace(erasure, probes=())))


def identity_of(part: Part) -> str:
    """A short hash of what a part learned."""
    return _hash_of(part.learned())


def _hash_of(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def places(parts: Iterable[Part | type[Part]]) -> list[str]:
    """What the names of each part's tensors begin with in a file: its kind, and its number among those of its kind."""
    counts: Counter[str] = Counter()
    out = []
    for part in parts:
        out.append(f"{part.kind}." if part.single else f"{part.kind}.{counts[part.kind]}.")
        counts[part.kind] += 1
    return out


def to_tensors(erasure: Erasure) -> dict[str, torch.Tensor]:
    """The erasure's tensors under their names in the file."""
    out: dict[str, torch.Tensor] = {}
    for place, part in zip(places(erasure.parts), erasure.parts, strict=True):
        out |= {f"{place}{name}": tensor for name, tensor in part.tensors().items()}
    for i, probe in enumerate(erasure.probes):
        out[f"probe.{i}.source"] = probe.source
        if probe.goal is not None:
            out[f"probe.{i}.goal"] = probe.goal
    return out
