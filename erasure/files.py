"""The file of an Erasure: written in one move, read with every fault named."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .artifact import Erasure, ErasureError, Metadata, Probe, places, to_tensors
from .parts import PARTS
from .parts.part import NEWEST, Part

OLDEST = "1"
THUMBNAIL = "modelspec.thumbnail"
"""The key under which a file holds its picture, which other programs read, too (ModelSpec 1.0.1)."""
OWN_STRINGS = {"format_version", "prompts"}
"""In every file that ``save_erasure`` wrote, and in no other."""


def save_erasure(erasure: Erasure, path: str | Path, more: Mapping[str, str] | None = None) -> None:
    """Writes the erasure in one move: on any failure an older file of that name is still whole.

    ``more``: strings for other programs, which ``load_erasure`` passes over. Raises ErasureError when the disk is full
    or the place cannot be written.
    """
    path = Path(path)
    strings = dict(more or {}) | {k: v for k, v in asdict(erasure.metadata).items() if v}
    if picture := strings.pop("thumbnail", ""):
        strings[THUMBNAIL] = picture
    strings |= _said(erasure.parts)
    if erasure.probes:
        strings["probes"] = json.dumps([probe.text for probe in erasure.probes], ensure_ascii=False)
    write_tensors(to_tensors(erasure), strings, path)


def _said(parts: Sequence[Part]) -> dict[str, str]:
    """The strings that say which parts a file holds, in the earliest version that can."""
    version = max((part.version for part in parts), default=OLDEST)
    if version != NEWEST:
        facts = [part.facts() for part in parts if part.kind == "prompt"]  # a delta has none
        return {"format_version": version, "prompts": json.dumps(facts)}
    # without "prompts", earlier versions of this pack would not say that the file is a newer one's
    contents = [{"kind": part.kind, **part.facts()} for part in parts]
    return {"format_version": version, "prompts": "[]", "contents": json.dumps(contents)}


def _prompts_and_delta(strings: Mapping[str, str], names: Iterable[str]) -> list[dict[str, Any]]:
    prompts = [{"kind": "prompt", **facts} for facts in json.loads(strings["prompts"])]
    return [*prompts, *([{"kind": "delta"}] if any(name.startswith("delta.") for name in names) else [])]


def _contents(strings: Mapping[str, str], names: Iterable[str]) -> list[dict[str, Any]]:
    return [dict(facts) for facts in json.loads(strings["contents"])]


READERS: Mapping[str, Callable[[Mapping[str, str], Iterable[str]], list[dict[str, Any]]]] = {
    "1": _prompts_and_delta,
    "2": _prompts_and_delta,  # with text gates that read several directions
    "3": _prompts_and_delta,  # with prompts that add to the pooled text
    "4": _contents,
}
"""Version of a file -> what it says of its parts, of each the ``kind`` and its facts, from its strings and the names of
its tensors. Every version is read for ever."""


def contents(strings: Mapping[str, str], names: Iterable[str]) -> list[dict[str, Any]]:
    """What a file says of its parts. Raises KeyError, ValueError or TypeError where it is damaged."""
    return READERS[strings["format_version"]](strings, names)


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
        # the host runs nodes in inference mode, and what is made there nothing can be learned through
        with torch.inference_mode(False), safe_open(path, framework="pt") as file:
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
    if strings["format_version"] not in READERS:
        raise ErasureError(f"'{name}' was written by a newer version of this pack: update the pack to open it.")
    if not all(torch.isfinite(t).all() for t in tensors.values()):
        raise ErasureError(f"'{name}' contains numbers that are not finite: train or download the erasure again.")
    known = {f.name for f in fields(Metadata)}
    strings["thumbnail"] = strings.get(THUMBNAIL, "")
    try:
        parts = _parts(name, tensors, contents(strings, tensors))
        texts = json.loads(strings.get("probes", "[]"))
        probes = tuple(
            Probe(text, tensors[f"probe.{i}.source"], tensors.get(f"probe.{i}.goal")) for i, text in enumerate(texts)
        )
    except ErasureError:
        raise
    except (KeyError, ValueError, TypeError) as error:
        raise ErasureError(f"'{name}' lacks a part of its erasure: download or save it again.") from error
    metadata = Metadata(**{k: v for k, v in strings.items() if k in known})
    return Erasure(metadata, parts, probes, file=Path(name).stem)


def _parts(name: str, tensors: Mapping[str, torch.Tensor], facts: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    unknown = next((one["kind"] for one in facts if one["kind"] not in PARTS), None)
    if unknown is not None:
        raise ErasureError(
            f"'{name}' holds a part of a kind that this version of the pack does not know ({unknown}): update the pack "
            "to open it."
        )
    kinds = [PARTS[one["kind"]] for one in facts]
    parts = []
    for kind, place, said in zip(kinds, places(kinds), facts, strict=True):
        own = {key.removeprefix(place): tensor for key, tensor in tensors.items() if key.startswith(place)}
        parts.append(kind.read(own, said))
    return tuple(parts)
