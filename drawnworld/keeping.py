"""What every stage of the training shares: a record, and states that an interrupted run goes on from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from .fetch import HERE, WORK

RECORD = HERE / "training.json"
KEEP_SECONDS = 180.0
"""So often a stage writes its state."""


def record(stage: str, **facts) -> None:
    """Adds a stage's facts to the training record."""
    known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    known[stage] = facts
    RECORD.write_text(json.dumps(known, indent=1) + "\n")


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
        saved = torch.load(self.path, weights_only=False)
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        self.step, self.losses, self.mean = saved["step"], saved["losses"], saved["mean"]
        self.begun -= saved["seconds"]
        torch.set_rng_state(saved["random"])

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
        torch.save({**saved, "random": torch.get_rng_state()}, partial)
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
