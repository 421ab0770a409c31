"""Refactoring moves no figure: toy-world erasures and pictures are the same to the bit as when they were recorded.

Sums differ in the last bit between processors, so hashes in ``tests/data/figures.json`` hold for the kind of machine
that is recorded with them, and the tests are skipped on others. To record this machine's, before a refactoring::

    python3 scripts/run.py tests.host.test_figures
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.toy import Toy, shots
from concept_erasure.erasure import combine, instant, jointly, learning, posing
from concept_erasure.erasure.artifact import Erasure, to_tensors
from concept_erasure.erasure.closed_form import CLOSED_FORM
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.instant import Instant
from concept_erasure.erasure.methods import LEARNED, preset_for
from concept_erasure.erasure.training.pictures import with_sampling

FILE = Path(__file__).parents[1] / "data" / "figures.json"
SHORT = {"steps": 2, "refresh": 2, "batch": 2}
PRESERVE = "square\nred\nstriped"


def machine() -> str:
    """What the last bit of a sum depends on."""
    words = [line for line in _cpu_info().splitlines() if line.startswith(("model name", "flags"))]
    kind = hashlib.sha256("\n".join(sorted(set(words))).encode()).hexdigest()[:12]
    return f"{platform.machine()} {kind} torch {torch.__version__} threads {os.environ.get('OMP_NUM_THREADS', '')}"


def _cpu_info() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else platform.processor()


def hash_of(*tensors: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def hash_of_erasure(erasure: Erasure) -> str:
    """Of an erasure's tensors and of what it says of itself, without versions."""
    tensors = dict(sorted(to_tensors(erasure).items()))
    facts = replace(erasure.metadata, pack_version="", host_version="")
    words = "\n".join([*tensors, facts.concept, facts.target, facts.preserve, facts.verdict, facts.notes])
    return hash_of(*tensors.values(), torch.tensor(list(words.encode()), dtype=torch.uint8))


class Figures:
    """What is hashed, on one toy world; every figure by its name."""

    def __init__(self, toy: Toy):
        self.toy = toy

    def erase(self, concepts: str, preserve: str = PRESERVE, only_in: str = "", **settings) -> Erasure:
        how = Instant(**settings)
        return instant.erase_instantly(self.toy.model, self.toy.clip, concepts, preserve, how, only_in=only_in)

    def train(self, preset: str, method: str | None, **changes) -> Erasure:
        settings = with_sampling(replace(preset_for(preset, method), **{**SHORT, **changes}), steps=2)
        with torch.inference_mode(), learning.gradients():
            return learning.learn(learning.prepare(self.toy.model, self.toy.clip, "circle", PRESERVE, settings))

    def pictures(self, erasure: Erasure, **how) -> str:
        return hash_of(self.toy.draw(attach.erase(self.toy.model, erasure, **how), shots("circle")[::24], steps=4))

    def all(self) -> dict[str, Callable[[], str]]:
        """Name -> the function that works its hash out."""
        closed = {
            f"closed form: {name}": lambda name=name: hash_of_erasure(self.erase("circle", method=name))
            for name in CLOSED_FORM
        }
        learned = {
            f"learned: {name}": lambda name=name: hash_of_erasure(self.train("recommended", name)) for name in LEARNED
        }
        return {
            **closed,
            "closed form: lines": lambda: hash_of_erasure(self.erase("circle -> heart\nstar : 0.5\nred circle")),
            "closed form: found": lambda: hash_of_erasure(self.erase("striped", "")),
            "closed form: only in": lambda: hash_of_erasure(self.erase("circle", only_in="red")),
            "closed form: published": lambda: hash_of_erasure(
                self.erase("circle", target="empty prompt", tokens=posing.TOKENS[1], rank=0)
            ),
            **learned,
            "learned: paper v2": lambda: hash_of_erasure(self.train("paper v2", None)),
            "learned: paper v3": lambda: hash_of_erasure(self.train("paper v3", None)),
            "combined: solved jointly": lambda: hash_of_erasure(
                jointly.solve_jointly(self.toy.model, self.toy.clip, [self.erase("circle"), self.erase("star")])
            ),
            "combined: added": lambda: hash_of_erasure(
                combine.combine([self.erase("circle"), self.erase("star")], [1.0, 0.5])
            ),
            "pictures: closed form": lambda: self.pictures(self.erase("circle")),
            "pictures: windowed": lambda: self.pictures(self.erase("circle"), start_percent=0.2, end_percent=0.8),
            "pictures: gated prompt": lambda: self.pictures(self.train("recommended", "prompt only")),
        }


def recorded() -> dict[str, str]:
    """The hashes that were recorded on a machine like this; none on another."""
    return json.loads(FILE.read_text()).get(machine(), {})


@pytest.fixture(scope="module")
def figures(toys):
    return Figures(toys)


@pytest.mark.parametrize("name", list(Figures(None).all()))  # type: ignore[arg-type]
def test_it_is_the_same_to_the_bit(figures, name):
    before = recorded().get(name)
    if before is None:
        pytest.skip("It is not recorded for this kind of machine.")
    assert figures.all()[name]() == before


def main() -> None:
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    hashes = {name: make() for name, make in Figures(Toy()).all().items()}
    FILE.write_text(json.dumps({**known, machine(): hashes}, indent=1) + "\n")
    print(f"{len(hashes)} hashes of {machine()}")


if __name__ == "__main__":
    main()
