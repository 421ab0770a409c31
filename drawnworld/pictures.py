"""The training pictures: rendered once, in shards that each have a seed of their own."""

from __future__ import annotations

import random

import numpy as np
import torch

from .fetch import WORK
from .world import Scene, random_scene, render

SEED = 20600
SHARDS, IN_SHARD = 32, 4096


def scenes(shard: int) -> list[Scene]:
    """What the pictures of a shard show."""
    rng = random.Random(SEED + shard)
    return [random_scene(rng) for _ in range(IN_SHARD)]


def shard(number: int) -> torch.Tensor:
    """uint8 [IN_SHARD, 3, SIZE, SIZE], on disk; rendered where it is not there yet."""
    path = WORK / f"pictures_{number:02}.npy"
    if not path.exists():
        print(f"rendering shard {number + 1} of {SHARDS} …", flush=True)
        rng = random.Random(SEED + 1000 + number)
        data = np.stack([render(scene, rng) for scene in scenes(number)]).transpose(0, 3, 1, 2)
        partial = path.with_suffix(".part.npy")
        np.save(partial, np.ascontiguousarray(data))
        partial.replace(path)
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def fresh(count: int, seed: int) -> tuple[torch.Tensor, list[Scene]]:
    """Pictures that no training sees, uint8 [count, 3, SIZE, SIZE]."""
    rng = random.Random(seed)
    shown = [random_scene(rng) for _ in range(count)]
    data = np.stack([render(scene, rng) for scene in shown])
    return torch.from_numpy(data).permute(0, 3, 1, 2).contiguous(), shown
