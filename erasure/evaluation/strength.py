"""The smallest strength of an erasure that erases: the same prompts and noise at a row of strengths, counted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import torch

from .. import inspection
from ..artifact import Erasure, ErasureError
from ..host import attach
from ..protocols import Clip, Model, Vae
from ..texts.encoder import Encoder
from ..verdict import ARRIVED, percent
from ..version import host_version, pack_version
from .curve import Value, curve
from .grid import grid, shrunk
from .judges import Judge, name_of, try_out
from .metrics import Share
from .report import Drawing, Prompt, Row, Scores, Shelf, choices, draw, shares
from .subject import subject_of
from .wording import not_shown, too_few

LARGEST, MOST = 2.0, 16
"""Strengths go up to this one, the largest that Apply Erasure takes, and there are at most so many of them."""
CLOSE = 0.02
"""Between two strengths that are this close none is looked for."""


@dataclass(frozen=True)
class How:
    """What is tried: ``strengths``, and ``refine`` more between the last that fails and the first that erases. One
    erases that has the concept gone from at least the share ``enough`` of the pictures."""

    strengths: Sequence[float] = (0.25, 0.5, 0.75, 1.0, 1.5)
    refine: int = 2
    enough: float = 1.0


def read_strengths(text: str) -> list[float]:
    """The strengths in a text field, ascending, without 0, which is always tried. Raises ErasureError."""
    words = [word for word in re.split(r"[\s,;|]+", text) if word]
    strengths = sorted({_number(word) for word in words} - {0.0})
    if not strengths or len(strengths) > MOST:
        count = f"{len(strengths)} strengths" if strengths else "no strength above 0"
        raise ErasureError(f"'strengths' has {count}: type 1 to {MOST} of them, such as 0.25, 0.5, 1.")
    return strengths


def _number(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = -1.0
    if not 0 <= number <= LARGEST:
        raise ErasureError(
            f"'{word[:40]}' in 'strengths' is no strength: type numbers from 0 to {LARGEST:g}, such as 0.25, 0.5, 1."
        )
    return number


@dataclass(frozen=True)
class Point:
    """What one strength does. ``moved``: the share of the way that the concept's keys and values have gone, None where
    that cannot be known; ``pictures`` [prompts * seeds, h, w, 3], shrunk for the sheet."""

    strength: float
    row: Row
    moved: float | None
    pictures: torch.Tensor

    @property
    def gone(self) -> Share | None:
        """In how many pictures the judge does not see the concept."""
        return self.row.esr.get(1)

    @property
    def kept(self) -> Share | None:
        """In how many of the other pictures it sees what is asked for."""
        return self.row.psr.get(1)

    def erases(self, enough: float) -> bool:
        """Whether the concept is gone; without a judge, whether it has moved as far as a verdict asks for."""
        if self.gone is not None:
            return self.gone.value >= enough
        return self.moved is not None and self.moved >= ARRIVED

    def sentence(self) -> str:
        """What it does, in a line."""
        name = f"Strength {self.strength:g}" if self.strength else "Unedited"
        parts = [f"gone in {_of(self.gone)}"] if self.gone is not None else []
        parts += [f"kept in {_of(self.kept)}"] if self.kept is not None else []
        parts += [f"moved {percent(self.moved)} of the way"] if self.strength and self.moved is not None else []
        if self.row.psnr is not None:
            same = self.row.psnr == float("inf")
            parts.append("kept pictures the same to the bit" if same else f"kept pictures at {self.row.psnr:.1f} dB")
        return f"{name}: {', '.join(parts) or 'drawn'}."


def _of(share: Share) -> str:
    low, high = share.interval
    return f"{share.hits} of {share.count} [{low:.3f}, {high:.3f}]"


@dataclass(frozen=True)
class StrengthReport:
    """The points by strength, the unedited model first; what was asked. ``doubt``: what speaks against the judge;
    ``judge``: who it is; ``uncounted``: why nothing was counted, if so."""

    points: Sequence[Point]
    how: How
    prompts: Sequence[Prompt]
    drawing: Drawing
    doubt: str = ""
    judge: str = ""
    uncounted: str = ""

    @property
    def best(self) -> Point | None:
        """The smallest strength that erases."""
        return next((point for point in self.points[1:] if point.erases(self.how.enough)), None)

    @property
    def strength(self) -> float:
        """The smallest strength that erases, else the one that comes nearest to it."""
        return (self.best or max(self.points[1:], key=_success)).strength

    def grid(self) -> torch.Tensor:
        """All pictures, [sheets, h, w, 3]: a row for each prompt and seed, with the same noise at every strength."""
        seeds = self.drawing.seeds
        rows = [
            f"{'erase' if prompt.erased else 'keep'}: {prompt.text}" + (f" (seed {seed})" if len(seeds) > 1 else "")
            for prompt in self.prompts for seed in seeds
        ]  # fmt: skip
        heads = [self._head(point) for point in self.points]
        return grid(rows, heads, [point.pictures for point in self.points])

    def _head(self, point: Point) -> str:
        if not point.strength:
            return "unedited"
        return f"{point.strength:g}" + (": the smallest that erases" if point is self.best else "")

    def curve(self) -> torch.Tensor:
        """Shares over strength, [1, h, w, 3]."""
        judged = self.points[0].gone is not None
        lines = {
            "concept gone": [_value(point, point.gone) for point in self.points if point.gone is not None],
            "everything else kept": [_value(point, point.kept) for point in self.points if point.kept is not None],
            "way moved by the concept": [] if judged else [
                Value(p.strength, *[max(0.0, min(1.0, p.moved))] * 3) for p in self.points if p.moved is not None
            ],
        }  # fmt: skip
        title = self.headline().split(":")[0].split(". ")[0]
        mark = self.best.strength if self.best is not None else None
        return curve(title, "strength", {name: line for name, line in lines.items() if line}, mark)

    def headline(self) -> str:
        """What it comes to."""
        if self.best is not None:
            return f"✓ {self.best.strength:g} is the smallest strength that erases: {self._outcome(self.best)}."
        tried = self.points[-1].strength
        if all(point.gone is None and point.moved is None for point in self.points[1:]):
            return "⚠ Nothing says which strength erases: have it counted, or look at the sheet."
        nearest = next(point for point in self.points if point.strength == self.strength)
        return f"✗ No strength up to {tried:g} erases. {nearest.strength:g} comes nearest: {self._outcome(nearest)}."

    def _outcome(self, point: Point) -> str:
        if point.gone is None:
            return f"the concept moved {percent(point.moved or 0.0)} of the way; no judge looked at the pictures"
        gone = f"gone in {point.gone.hits} of {point.gone.count}"
        if point.kept is None:
            return gone
        base, hits, count = self.points[0].kept, point.kept.hits, point.kept.count
        if base is not None and base.hits != hits:
            return f"{gone}, everything else kept in {hits} of {count} (unedited {base.hits})"
        return f"{gone}, everything else kept in {hits} of {count}"

    def doubts(self) -> list[str]:
        """What speaks against relying on the strength."""
        base = self.points[0]
        doubts = [doubt for doubt in (self.doubt, too_few(base.gone), not_shown(base.gone)) if doubt]
        later = [p for p in self.points if self.best and p.strength > self.best.strength]
        if back := [f"{point.strength:g}" for point in later if not point.erases(self.how.enough)]:
            doubts.append(f"⚠ Larger is not always stronger here: at {', '.join(back)} it is back.")
        return doubts

    def text(self) -> str:
        """The strength first, then doubts, then what each strength does, with 95 % intervals."""
        judge = f"The judge is {self.judge}." if self.judge else self.uncounted
        lines = [self.headline(), *self.doubts(), *(point.sentence() for point in self.points), judge]
        return "\n".join(line for line in lines if line)

    def json(self) -> str:
        """Everything but the pictures."""
        points = [
            {
                "strength": point.strength, "erases": point.erases(self.how.enough) and point.strength > 0,
                "moved": point.moved, "psnr": None if point.row.psnr == float("inf") else point.row.psnr,
                **shares({"gone": point.gone, "kept": point.kept, "identical": point.row.identical}),
            }
            for point in self.points
        ]  # fmt: skip
        about = {
            "strength": self.strength, "erases": self.best is not None, "headline": self.headline(),
            "doubts": self.doubts(), "how": asdict(self.how), "prompts": [asdict(p) for p in self.prompts],
            "drawing": asdict(self.drawing), "judge": self.judge, "uncounted": self.uncounted,
        }  # fmt: skip
        made_by = {"pack_version": pack_version(), "host_version": host_version()}
        return json.dumps({"points": points, **about, **made_by}, indent=1, ensure_ascii=False)


def _success(point: Point) -> tuple[float, float]:
    """How near a strength comes to erasing; of equal ones the smaller is meant."""
    reached = point.gone.value if point.gone is not None else point.moved or 0.0
    return reached, -point.strength


def _value(point: Point, share: Share) -> Value:
    return Value(point.strength, share.value, *share.interval)


# ---------------------------------------------------------------- finding it


OnPicture = Callable[[float, int, int, torch.Tensor | None], None]
"""Takes a strength, how many of how many prompts have been drawn, and the pictures of the last one."""


def find_strength(
    model: Model, erasure: Erasure, clip: Clip, vae: Vae, prompts: Sequence[Prompt], drawing: Drawing,
    how: How | None = None, judge: Judge | None = None,
    on_picture: OnPicture = lambda strength, done, total, pictures: None,
) -> StrengthReport:  # fmt: skip
    """Draws prompts with an erasure at several strengths; ``on_picture`` is told how far it is, and may raise.

    Raises ErasureError without a prompt for the concept, and for an erasure that erases nothing or does not fit.
    """
    how = how or How()
    if not any(prompt.erased for prompt in prompts):
        raise ErasureError("There are no prompts that ask for the concept: type at least one into 'erase'.")
    erased = attach.erase(model, erasure, min(how.strengths))  # raises before anything is drawn
    total = (1 + len(how.strengths) + how.refine) * len(prompts)
    on_picture(0.0, 0, total, None)
    judge, among, uncounted = choices(judge, prompts, subject_of(model, [erased]).targets)
    doubt = try_out(judge, among, drawing.width, drawing.height)
    with Sweep(model, erasure, Encoder(clip), vae, prompts, drawing, judge, among, total, on_picture) as sweep:
        points = [sweep.point(strength) for strength in (0.0, *how.strengths)]
        for _ in range(how.refine):
            if (strength := between(points, how.enough)) is None:
                break
            points = sorted([*points, sweep.point(strength)], key=lambda point: point.strength)
    return StrengthReport(points, how, prompts, drawing, doubt, name_of(judge), uncounted)


def between(points: Sequence[Point], enough: float) -> float | None:
    """The strength half way between the first that erases and the one below it; None where there is no such place."""
    first = next((i for i, point in enumerate(points) if i and point.erases(enough)), None)
    if first is None:
        return None
    low, high = points[first - 1].strength, points[first].strength
    middle = round((low + high) / 2, 2)
    return middle if high - low > CLOSE and low < middle < high else None


@dataclass
class Sweep:
    """The same prompts and noise with one erasure; the unedited model's pictures wait in files to be compared with."""

    model: Model
    erasure: Erasure
    encode: Encoder
    vae: Vae
    prompts: Sequence[Prompt]
    drawing: Drawing
    judge: Judge | None
    among: Sequence[str]
    total: int
    on_picture: OnPicture
    done: int = 0
    shelf: Shelf = field(default_factory=Shelf)

    def __enter__(self) -> Sweep:
        self.shelf.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.shelf.__exit__(*error)

    def point(self, strength: float) -> Point:
        """Draws and counts; 0 comes first."""
        model = attach.erase(self.model, self.erasure, strength)
        negative, drawn = self.encode(self.drawing.negative).cond, []
        scores = Scores(self.among, self.judge)
        self.on_picture(strength, self.done, self.total, None)
        for number, prompt in enumerate(self.prompts):
            pictures = draw(model, self.vae, self.encode(prompt.text).cond, negative, self.drawing)
            scores.add(prompt, pictures, self._before(number, pictures, strength) if not prompt.erased else None)
            drawn.append(shrunk(pictures, self.total * len(self.drawing.seeds)))
            self.done += 1
            self.on_picture(strength, self.done, self.total, pictures)
        way = inspection.shares(self.model, self.erasure, strength) if strength else []
        moved = min(way) if way else (None if strength else 0.0)
        return Point(strength, scores.row(f"{strength:g}"), moved, torch.cat(drawn))

    def _before(self, number: int, pictures: torch.Tensor, strength: float) -> torch.Tensor | None:
        """The unedited model's pictures of a prompt; they are put away when they are these."""
        if not strength:
            self.shelf.put(number, pictures)
            return None
        return self.shelf.get(number)
