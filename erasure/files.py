"""The file of an Erasure: written in one move, read with every fault named."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .artifact import (
    FORMAT_VERSION,
    Change,
    Erasure,
    ErasureError,
    Full,
    GateTensors,
    LowRank,
    Metadata,
    Probe,
    PromptTensors,
    to_tensors,
)

SEVERAL_DIRECTIONS, POOLED = "2", "3"
"""Versions of a file with a text gate that reads several directions, and with a prompt that adds to the pooled text;
earlier versions of this pack cannot read it."""
ROLES = ("eraser", "key")
PLACES = ("middle", "middle+output", "all")
THUMBNAIL = "modelspec.thumbnail"
"""The key under which a file holds its picture, which other programs read, too (ModelSpec 1.0.1)."""




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
    if any(p.pooled is not None for p in erasure.prompts):
        strings["format_version"] = POOLED
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
    if strings["format_version"] not in (FORMAT_VERSION, SEVERAL_DIRECTIONS, POOLED):
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
    keys, values, pooled = (tensors.get(f"prompt.{i}.{part}") for part in ("keys", "values", "pooled"))
    if keys is None or values is None:
        raise KeyError(i)
    return PromptTensors(keys, values, facts["blocks"], facts["role"], facts["chunk"], gate, pooled)


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
