"""What a report is of: the checkpoint, and the erasures on the edited models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..artifact import Erasure
from ..host import attach
from ..host.subject import subject
from ..modelspec import base_of
from ..protocols import Model
from ..texts.names import plain, short

LONGEST = 80
"""Characters of a target that a judge is given as a label."""
MOST = 6
"""Names of one erasure that are said."""
FAMILIES = {
    "stable-diffusion-v1": "Stable Diffusion 1.x",
    "stable-diffusion-v2-512": "Stable Diffusion 2.x",
    "stable-diffusion-xl-v1-base": "Stable Diffusion XL",
    "stable-diffusion-xl-v1-refiner": "Stable Diffusion XL Refiner",
}
"""ModelSpec's word for an architecture, and what people call it."""


@dataclass(frozen=True)
class Entry:
    """One erasure: what becomes what, how it was made, the file that it came from if any, and how strongly it acts."""

    moves: str
    method: str
    file: str = ""
    strength: float = 1.0

    @property
    def title(self) -> str:
        """A short name, for the head of a column."""
        return f"{self.file}: {self.moves}" if self.file else f"{self.moves} ({self.method})"


@dataclass(frozen=True)
class Subject:
    """``model``: the checkpoint's file, if the host tells it; ``family``: what kind of model; ``targets``: what the
    erasures aim at."""

    model: str = ""
    family: str = ""
    erasures: Sequence[Entry] = ()
    targets: Sequence[str] = ()


def subject_of(before, models: Iterable) -> Subject:
    """Of an unedited MODEL and the models that were made of it."""
    applied = [one for model in models for one in attach.applied(model)[len(attach.applied(before)) :]]
    entries = [entry(one.erasure, one.strength) for one in applied]
    targets = [plain(text) for one in applied for text in one.erasure.targets]
    known = [text for text in dict.fromkeys(targets) if text and len(text) <= LONGEST]
    return Subject(checkpoint_name(before), family_name(before), entries, known)


def entry(erasure: Erasure, strength: float = 1.0) -> Entry:
    """What is said of an erasure."""
    pairs = list(zip(erasure.names, erasure.targets, strict=True))
    known = bool(erasure.metadata.target)
    moves = [short(plain(name)) + f" → {short(plain(target)) or 'nothing'}" * known for name, target in pairs[:MOST]]
    more = ", …" if len(pairs) > MOST else ""
    return Entry(", ".join(moves) + more, erasure.metadata.method, erasure.file, strength)


def checkpoint_name(model: Model) -> str:
    """The file that a MODEL was loaded from; empty where the host does not tell it."""
    loader = getattr(model, "cached_patcher_init", None)
    path = loader[1][0] if loader and len(loader) > 1 and loader[1] else None
    return Path(path).name if isinstance(path, str) else ""


def family_name(model: Model) -> str:
    """What kind of model it is, as people call it."""
    architecture = base_of(model, subject(model).kind).architecture
    return FAMILIES.get(architecture, architecture)
