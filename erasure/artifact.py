"""The Erasure: what every method returns and every use takes, and the file it lives in. torch and safetensors only.

A file holds tensors under these names::

    prompt.<i>.keys, prompt.<i>.values       [k, context_dim], the erasure prompt
    prompt.<i>.gate.direction, .centre       its text gate: [context_dim, directions] or [context_dim]
    delta.<weight name>.up, .down or .full   [out, r] and [r, in], or [out, in]
    probe.<i>.source, probe.<i>.goal         [r, context_dim], encodings that what it does is checked by

and strings as metadata, so that a reader needs no tensor to know what the file is. ``workflow`` and ``prompt`` among
them are the graph that made the file, as the editor keeps it in pictures.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

FORMAT_VERSION = "1"
SEVERAL_DIRECTIONS = "2"
"""Version of a file with a text gate that reads several directions, which earlier versions of this pack cannot."""
ROLES = ("eraser", "key")
PLACES = ("middle", "middle+output", "all")
THUMBNAIL = "modelspec.thumbnail"
"""The key under which a file holds its picture, which other programs read, too (ModelSpec 1.0.1)."""
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
    pads a conditioning by repetition. ``gate``: None lets the prompt act on every text.
    """

    keys: torch.Tensor
    values: torch.Tensor
    blocks: str
    role: str
    chunk: int
    gate: GateTensors | None = None


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
    for name, change in erasure.delta.items():
        out |= {f"delta.{name}.{part}": tensor for part, tensor in change.tensors().items()}
    for i, probe in enumerate(erasure.probes):
        out[f"probe.{i}.source"] = probe.source
        if probe.goal is not None:
            out[f"probe.{i}.goal"] = probe.goal
    return out


def save_erasure(erasure: Erasure, path: str | Path, more: Mapping[str, str] | None = None) -> None:
    """Writes the erasure in one move: on any failure an older file of that name is still whole.

    ``more``: strings for other programs, which ``load_erasure`` passes over. Raises ErasureError when the disk is full
    or the place cannot be written.
    """
    path = Path(path)
    strings = dict(more or {}) | {k: v for k, v in asdict(erasure.metadata).items() if v}
    if picture := strings.pop("thumbnail", ""):
        strings[THUMBNAIL] = picture
    if any(p.gate is not None and p.gate.direction.ndim > 1 for p in erasure.prompts):
        strings["format_version"] = SEVERAL_DIRECTIONS
    strings["prompts"] = json.dumps(
        [
            {
                "blocks": p.blocks,
                "role": p.role,
                "chunk": p.chunk,
                "threshold": None if p.gate is None else p.gate.threshold,
            }
            for p in erasure.prompts
        ]
    )
    if erasure.probes:
        strings["probes"] = json.dumps([probe.text for probe in erasure.probes], ensure_ascii=False)
    write_tensors(to_tensors(erasure), strings, path)


def write_tensors(tensors: Mapping[str, torch.Tensor], strings: dict[str, str], path: Path) -> None:
    """Writes a .safetensors file in one move. Raises ErasureError."""
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    _write(save(plain, metadata=strings), path)


def _write(data: bytes, path: Path) -> None:
    temporary = path.with_name(f".{path.stem}-{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error.strerror or error)
        raise ErasureError(
            f"'{path.name}' could not be saved because {reason}; a file of that name that was there before is "
            "unchanged: free some space or choose another folder, then run again."
        ) from error


OWN_STRINGS = {"format_version", "prompts"}
"""In every file that ``save_erasure`` wrote, and in no other."""


def load_erasure(path: str | Path) -> Erasure:
    """Reads a file that ``save_erasure`` wrote.

    Raises ErasureError, with what to do, for a missing, foreign, pickled, damaged or truncated file.
    """
    path = Path(path)
    tensors, strings = read_tensors(path)
    return _from_file(path.name, tensors, strings)


def is_erasure(path: Path) -> bool:
    """Whether ``save_erasure`` wrote a file; False for one that cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.metadata() or {}) >= OWN_STRINGS
    except (SafetensorError, OSError, ValueError):
        return False


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and strings of a .safetensors file.

    Raises ErasureError, with what to do, for a missing, pickled, damaged or truncated file.
    """
    if path.suffix != ".safetensors":
        raise ErasureError(
            f"'{path.name}' is not a .safetensors file, and pickled files are never opened because they can run code: "
            "get the erasure as .safetensors."
        )
    if not path.is_file():
        raise ErasureError(f"The erasure file '{path.name}' does not exist: check its name, or save the erasure again.")
    try:
        with safe_open(path, framework="pt") as file:
            strings = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ErasureError(
            f"'{path.name}' is damaged, cut short or no .safetensors file inside: download or save it again."
        ) from error
    return tensors, strings


def _from_file(name: str, tensors: dict[str, torch.Tensor], strings: dict[str, str]) -> Erasure:
    if not set(strings) >= OWN_STRINGS:
        raise ErasureError(
            f"'{name}' holds no erasure: load LoRA files with the LoRA loader and checkpoints with the checkpoint "
            "loader, and bring in what other erasers wrote with Import Erasure."
        )
    if strings["format_version"] not in (FORMAT_VERSION, SEVERAL_DIRECTIONS):
        raise ErasureError(f"'{name}' was written by a newer version of this pack: update the pack to open it.")
    if not all(torch.isfinite(t).all() for t in tensors.values()):
        raise ErasureError(f"'{name}' contains numbers that are not finite: train or download the erasure again.")
    known = {f.name for f in fields(Metadata)}
    strings["thumbnail"] = strings.get(THUMBNAIL, "")
    try:
        prompts = tuple(_prompt(tensors, i, p) for i, p in enumerate(json.loads(strings["prompts"])))
        delta = _delta(tensors)
        texts = json.loads(strings.get("probes", "[]"))
        probes = tuple(
            Probe(text, tensors[f"probe.{i}.source"], tensors.get(f"probe.{i}.goal")) for i, text in enumerate(texts)
        )
    except (KeyError, ValueError, TypeError) as error:
        raise ErasureError(f"'{name}' lacks a part of its erasure: download or save it again.") from error
    metadata = Metadata(**{k: v for k, v in strings.items() if k in known})
    return Erasure(metadata, prompts, delta, probes, file=Path(name).stem)


def _prompt(tensors: dict[str, torch.Tensor], i: int, facts: dict) -> PromptTensors:
    if facts["blocks"] not in PLACES or facts["role"] not in ROLES:
        raise ValueError(f"{facts['blocks']}, {facts['role']}")
    gate = None
    if facts["threshold"] is not None:
        direction, centre = (tensors[f"prompt.{i}.gate.{part}"] for part in ("direction", "centre"))
        gate = GateTensors(direction, centre, float(facts["threshold"]))
    return PromptTensors(
        tensors[f"prompt.{i}.keys"], tensors[f"prompt.{i}.values"], facts["blocks"], facts["role"], facts["chunk"], gate
    )


def _delta(tensors: dict[str, torch.Tensor]) -> dict[str, Change]:
    delta: dict[str, Change] = {}
    for name, tensor in tensors.items():
        if not name.startswith("delta."):
            continue
        weight, part = name.removeprefix("delta.").rsplit(".", 1)
        if part == "full":
            delta[weight] = Full(tensor)
        elif part == "up":
            delta[weight] = LowRank(tensor, tensors[f"delta.{weight}.down"])
    return delta
