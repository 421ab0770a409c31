"""Recordings of what blocks give out: parts on disk, so that neither memory nor an interrupt is a matter of how many
there are. torch only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..files import read_tensors, write_tensors

TOGETHER = 8
"""Parts whose vectors are mixed before they are learned on."""


class Recording:
    """A folder of parts, each with vectors [n, d] of every point. ``facts``: what it is of; a folder that says
    otherwise is emptied."""

    def __init__(self, folder: Path, facts: Mapping[str, object]):
        self.folder, self.note = folder, folder / "recording.json"
        text = json.dumps(facts, sort_keys=True)
        if not self.note.exists() or self.note.read_text(encoding="utf-8") != text:
            self.discard_at(folder)
            folder.mkdir(parents=True, exist_ok=True)
            self.note.write_text(text, encoding="utf-8")

    @classmethod
    def discard_at(cls, folder: Path) -> None:
        """Takes a recording off the disk."""
        shutil.rmtree(folder, ignore_errors=True)

    def part(self, number: int) -> Path:
        return self.folder / f"part_{number:05}.safetensors"

    def has(self, number: int) -> bool:
        """Whether a part was written; parts appear whole or not at all."""
        return self.part(number).exists()

    def add(self, number: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Raises ErasureError when there is no room."""
        write_tensors(tensors, {}, self.part(number))

    def parts(self) -> list[Path]:
        return sorted(self.folder.glob("part_*.safetensors"))

    def vectors(self, point: str, paths: Sequence[Path]) -> torch.Tensor:
        return torch.cat([load_file(path)[point] for path in paths])

    def count(self, point: str) -> int:
        return sum(len(load_file(path)[point]) for path in self.parts())

    def batches(self, point: str, size: int, seed: int) -> Iterator[torch.Tensor]:
        """All vectors of a point once, mixed, in batches [size, d]; what is left over at the end is left out."""
        generator = torch.Generator().manual_seed(seed)
        paths = self.parts()
        order = torch.randperm(len(paths), generator=generator).tolist()
        rest = torch.empty(0)
        for start in range(0, len(order), TOGETHER):
            fresh = self.vectors(point, [paths[i] for i in order[start : start + TOGETHER]])
            pool = torch.cat([rest.to(fresh.dtype).reshape(-1, fresh.shape[1]), fresh])
            pool = pool[torch.randperm(len(pool), generator=generator)]
            full = len(pool) // size * size
            yield from pool[:full].split(size) if full else ()
            rest = pool[full:]

    def keep_state(self, point: str, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, str]) -> None:
        """What was learned of a point so far, for going on."""
        write_tensors(tensors, dict(facts), self._state(point))

    def state(self, point: str) -> tuple[dict[str, torch.Tensor], dict[str, str]] | None:
        return read_tensors(self._state(point)) if self._state(point).exists() else None

    def _state(self, point: str) -> Path:
        return self.folder / f"state_{point.replace('.', '_')}.safetensors"
