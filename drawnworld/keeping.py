"""What every stage of the training shares: a record, and states that an interrupted run goes on from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from toyworld.train import DEVICE

from .fetch import HERE, WORK

RECORD = HERE / "training.json"
KEEP_SECONDS = 180.0
"""So often a stage writes its state."""
_GETTERS = [torch.get_rng_state, torch.cuda.get_rng_state][: 1 + (DEVICE == "cuda")]
_SETTERS = [torch.set_rng_state, torch.cuda.set_rng_state][: 1 + (DEVICE == "cuda")]


def adamw(parameters: Iterable, rate: float, decay: float, betas: tuple[float, float] = (0.9, 0.999)):
    """The optimiser of all stages; its rate is a tensor, so that a recorded step sees it change."""
    lr = torch.tensor(rate, device=DEVICE)
    recorded = DEVICE == "cuda"
    return torch.optim.AdamW(
        list(parameters), lr=lr, betas=betas, weight_decay=decay, fused=True, capturable=recorded
    )  # fmt: skip


def record(stage: str, **facts) -> None:
    """Adds a stage's facts to the training record."""
    known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    known[stage] = facts
    RECORD.write_text(json.dumps(known, indent=1) + "\n")


def keep(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Writes a file of tensors, which is there as a whole or not at all."""
    partial = path.with_suffix(".part")
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, partial)
    partial.replace(path)


class State:
    """A stage's state on disk: whatever has ``state_dict``, the random numbers, the step and the seconds spent."""

    def __init__(self, name: str, parts: Mapping[str, object]):
        self.path: Path = WORK / f"{name}_state.pt"
        self.parts = parts
        self.step, self.losses, self.mean = 0, [], None
        self.begun = self.kept = time.time()
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        saved = torch.load(self.path, map_location=DEVICE, weights_only=False)
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        self.step, self.losses, self.mean = saved["step"], saved["losses"], saved["mean"]
        self.begun -= saved["seconds"]
        for given, setter in zip(saved["random"], _SETTERS, strict=False):
            setter(given.cpu())

    @property
    def seconds(self) -> float:
        return time.time() - self.begun

    def note(self, loss: float, every: int = 250) -> None:
        """Counts a step; the running mean of the loss is noted every so often."""
        self.step += 1
        self.mean = loss if self.mean is None else self.mean + 0.01 * (loss - self.mean)
        if self.step % every == 0:
            self.losses.append(round(self.mean, 5))

    def save(self) -> None:
        saved = {name: part.state_dict() for name, part in self.parts.items()}
        saved |= {"step": self.step, "losses": self.losses, "mean": self.mean, "seconds": self.seconds}
        partial = self.path.with_suffix(".part")
        torch.save({**saved, "random": [getter() for getter in _GETTERS]}, partial)
        partial.replace(self.path)
        self.kept = time.time()

    def run(self, steps: int, update: Callable[[], float], name: str) -> None:
        """Updates until ``steps`` are done, saves on the way, and says how far it is."""
        first, started = self.step, time.time()
        while self.step < steps:
            self.note(update())
            if self.step % 100 == 0 or self.step == steps:
                pace = (time.time() - started) / (self.step - first)
                left = pace * (steps - self.step)
                print(
                    f"{name} {self.step}/{steps}  loss {self.mean:.4f}  {pace:.2f} s a step, {left / 60:.0f} min left",
                    flush=True,
                )
            if time.time() - self.kept > KEEP_SECONDS or self.step == steps:
                self.save()


class Recorded:
    """A step of training. A GPU records it once and then repeats it as a whole, which spares the launch of each part.

    The step takes nothing, works on the same tensors each time, and gives a tensor.
    """

    def __init__(self, step: Callable[[], torch.Tensor]):
        self.step = step
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> torch.Tensor:
        if DEVICE != "cuda":
            return self.step()
        if self.graph is None:
            self._record()
        assert self.graph is not None
        self.graph.replay()
        return self.out

    def _record(self) -> None:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what is made on the first calls must not be part of the record
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.out = self.step()
