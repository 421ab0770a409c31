"""The Erasure: what every method returns and every use takes, and the file it lives in. torch and safetensors only.

A file holds tensors under these names::

    prompt.<i>.keys, prompt.<i>.values       [k, context_dim], the erasure prompt
    prompt.<i>.gate.direction, .centre       its text gate: [context_dim, directions] or [context_dim]
    prompt.<i>.pooled                        [width], what it adds to the pooled text
    delta.<weight name>.up, .down or .full   [out, r] and [r, in], or [out, in]
    probe.<i>.source, probe.<i>.goal         [r, context_dim], encodings that what it does is checked by

and strings as metadata, so that a reader needs no tensor to know what the file is. ``workflow`` and ``prompt`` among
them are the graph that made the file, as the editor keeps it in pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

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
class GateTensors:
    """A text gate at rest: a linear reading of token encodings.

    ``direction``: [d], or [d, g] for several; ``centre``: [d]. A row is open when a token x of it has
    ``(x - centre) . direction >= threshold`` for one of them.
    """

    direction: torch.Tensor
    centre: torch.Tensor
    threshold: float


@dataclass(frozen=True)
class PromptTensors:
    """An erasure prompt at rest.

    ``keys``, ``values``: [k, d]. ``blocks``: ``middle``, ``middle+output`` or ``all``. ``role``: ``eraser`` or
    ``key``. ``chunk``: tokens of one text chunk (77 for CLIP), the unit in which the prompt repeats when the host
    pads a conditioning by repetition. ``gate``: None lets the prompt act on every text. ``pooled`` [d']: what is added
    to the pooled text, where a network reads one.
    """

    keys: torch.Tensor
    values: torch.Tensor
    blocks: str
    role: str
    chunk: int
    gate: GateTensors | None = None
    pooled: torch.Tensor | None = None


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
    """What an erasure says of itself. Every field is a string, as safetensors wants it."""

    format_version: str = FORMAT_VERSION
    method: str = ""
    role: str = ""
    concept: str = ""
    target: str = ""
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
    only_in: str = ""
    verdict: str = ""
    doubts: str = ""
    unknown: str = ""
    notes: str = ""
    thumbnail: str = ""
    pack_version: str = ""
    host_version: str = ""


@dataclass(frozen=True)
class Erasure:
    """One erasure: prompts and/or a delta, what they are, and probes to check them by. Immutable; tensors are on the
    CPU.

    ``choices``: for each name, the words nearest to it that could take its place; files do not keep them. ``file``: the
    name of the file that it was read from, without its ending.
    """

    metadata: Metadata
    prompts: tuple[PromptTensors, ...] = ()
    delta: Mapping[str, Change] = field(default_factory=dict)
    probes: tuple[Probe, ...] = ()
    choices: tuple[tuple[str, ...], ...] = ()
    file: str = field(default="", compare=False)

    @property
    def key(self) -> tuple[PromptTensors, ...]:
        """The prompts that bring the concept back."""
        return tuple(p for p in self.prompts if p.role == "key")

    @property
    def erasers(self) -> tuple[PromptTensors, ...]:
        """The prompts that erase."""
        return tuple(p for p in self.prompts if p.role == "eraser")

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

    def without_key(self) -> Erasure:
        """What can be published: it erases, and nobody can recover with it."""
        return replace(self, prompts=self.erasers)

    def key_only(self) -> Erasure:
        """What is kept: it recovers, and erases nothing."""
        return replace(self, prompts=self.key, delta={})

    def bytes(self) -> int:
        """Size of the tensors."""
        return sum(t.numel() * t.element_size() for t in to_tensors(self).values())

    def identity(self) -> str:
        """A short hash of what erases: the same with a key and without, whatever file it came from."""
        digest = hashlib.sha256()
        for name, tensor in sorted(to_tensors(replace(self.without_key(), probes=())).items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]



def to_tensors(erasure: Erasure) -> dict[str, torch.Tensor]:
    """The erasure's tensors under their names in the file."""
    out: dict[str, torch.Tensor] = {}
    for i, prompt in enumerate(erasure.prompts):
        out[f"prompt.{i}.keys"], out[f"prompt.{i}.values"] = prompt.keys, prompt.values
        if prompt.gate is not None:
            out[f"prompt.{i}.gate.direction"] = prompt.gate.direction
            out[f"prompt.{i}.gate.centre"] = prompt.gate.centre
        if prompt.pooled is not None:
            out[f"prompt.{i}.pooled"] = prompt.pooled
    for name, change in erasure.delta.items():
        out |= {f"delta.{name}.{part}": tensor for part, tensor in change.tensors().items()}
    for i, probe in enumerate(erasure.probes):
        out[f"probe.{i}.source"] = probe.source
        if probe.goal is not None:
            out[f"probe.{i}.goal"] = probe.goal
    return out
