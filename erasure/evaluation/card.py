"""A card for a client: one page that says what was erased from which model, whether it is gone, and what nobody tested.

What is on the page is gathered here once; ``card_html`` and ``card_picture`` write it down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from PIL import Image

from ..texts.names import short
from ..version import host_version, pack_version
from .grid import within
from .metrics import Share
from .report import Drawing, Prompt, Report
from .wording import accuracy, likeness, mark, of, of_the_judge, opening

ERASED, KEPT = 3, 6
"""Pairs of pictures on a card, at most; the report's sheets have all of them."""
ERASURES = 4
"""Erasures that are described, at most."""
CELL = 264
"""Pixels of a picture's longer side."""
LONGEST = {"title": 120, "notes": 1200, "caption": 120}
"""Characters that there is room for."""
SECTIONS = ("Asked for what was erased", "Asked for other things")
COLUMNS = ("", "before", "after")
WITHOUT_COUNTS = "Nothing was counted: look at the pictures."
CHOICE = "The first pictures, in the order of prompts and seeds; none was picked by hand."
HIDDEN = "{} of {} pairs are shown."


@dataclass(frozen=True)
class Pair:
    """One prompt's picture by the unedited and by the edited model, with the same noise."""

    caption: str
    before: Image.Image
    after: Image.Image


@dataclass(frozen=True)
class Card:
    """All that the page says, as plain text. ``mark``: ✓, ⚠, ✗ or nothing. ``pairs``: by ``SECTIONS``.

    ``about``: what became what, on which model, when. ``numbers``: rows of ``COLUMNS``. ``facts``: what it is, and its
    value.
    """

    title: str
    about: str
    mark: str
    verdict: str
    remarks: Sequence[str]
    pairs: Sequence[Sequence[Pair]]
    shown: str
    numbers: Sequence[tuple[str, str, str]]
    facts: Sequence[tuple[str, str]]
    untested: Sequence[str]
    notes: str
    footer: str


def card_of(report: Report, title: str = "", notes: str = "", today: date | None = None) -> Card:
    """The card of a report on one edited model."""
    before, after = report.rows[0], report.rows[-1]
    verdict = opening(after)
    remarks = [report.doubt, of_the_judge(report.judge, before), likeness(after)]
    pairs = [list(_pairs(report, erased, most)) for erased, most in ((True, ERASED), (False, KEPT))]
    total = len(report.prompts) * len(report.drawing.seeds)
    return Card(
        title=within_bounds(title, "title") or "Concept erasure, before and after",
        about=_about(report, today or date.today()),
        mark=mark(after, before) if verdict else "",
        verdict=verdict or WITHOUT_COUNTS,
        remarks=[remark.removeprefix("⚠ ") for remark in remarks if remark],
        pairs=pairs,
        shown=f"{CHOICE} {HIDDEN.format(sum(map(len, pairs)), total)}",
        numbers=list(_numbers(report)),
        facts=list(_facts(report)),
        untested=untested(report),
        notes=within_bounds(notes, "notes"),
        footer=f"Made with Concept Erasure {pack_version()} on ComfyUI {host_version()}. "
        "Ranges are 95 % intervals (Wilson): with more pictures they get narrower.",
    )


def _pairs(report: Report, erased: bool, most: int) -> Iterator[Pair]:
    """The first picture of each prompt, then the second ones."""
    each = len(report.drawing.seeds)
    numbers = [p for p, prompt in enumerate(report.prompts) if prompt.erased == erased]
    order = [(p, seed) for seed in range(each) for p in numbers][:most]
    for p, seed in order:
        first, last = (within(report.pictures[side][p * each + seed], CELL) for side in (0, -1))
        yield Pair(within_bounds(report.prompts[p].text, "caption"), first, last)


def within_bounds(text: str, what: str) -> str:
    """A text, or as much of it as there is room for."""
    text, most = text.strip(), LONGEST[what]
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def _numbers(report: Report) -> Iterator[tuple[str, str, str]]:
    before, after = report.rows[0], report.rows[-1]
    if 1 in after.esr:
        was, now = (ranged(seen(row.esr[1])) for row in (before, after))
        yield "Pictures of the concept in which it is seen", was, now
    if 1 in after.psr:
        yield "Other pictures that show what was asked for", ranged(before.psr[1]), ranged(after.psr[1])
    if after.identical is not None and after.identical.hits:
        yield "Other pictures that are the same to the bit", "", of(after.identical)


def seen(gone: Share) -> Share:
    """The rest of a share."""
    return Share(gone.count - gone.hits, gone.count)


def ranged(share: Share) -> str:
    """A share with its interval, in percent."""
    low, high = (round(100 * bound) for bound in share.interval)
    return f"{of(share)} ({low} to {high} %)"


def _about(report: Report, today: date) -> str:
    """The line below the title."""
    moves = "; ".join(in_words(entry.moves) for entry in report.subject.erasures[:ERASURES])
    return " · ".join(part for part in (moves, report.subject.model, today.isoformat()) if part)


def in_words(moves: str) -> str:
    """What became what, without an arrow."""
    return moves.replace(" → ", " becomes ")


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    subject, drawing = report.subject, report.drawing
    yield "Model", f"{subject.model} ({subject.family})" if subject.model else subject.family or "not known"
    for entry in subject.erasures[:ERASURES]:
        file = f", file {entry.file}" if entry.file else ""
        yield "Erasure", f"{in_words(entry.moves)}; method {entry.method}{file}, strength {entry.strength:g}"
    yield "Pictures", _drawn(drawing, report.prompts)
    negative = f", negative prompt '{short(drawing.negative)}'" if drawing.negative else ""
    yield (
        "Sampler",
        (
            f"{drawing.sampler}, {drawing.scheduler}, {drawing.steps} steps, CFG {drawing.cfg:g}, {drawing.width} by "
            f"{drawing.height} pixels{negative}"
        ),
    )
    share = accuracy(report.rows[0])
    if share is not None:
        yield "Judge", f"{report.judge}; right about {ranged(share)} of the pictures before"


def _drawn(drawing: Drawing, prompts: Sequence[Prompt]) -> str:
    erased = sum(prompt.erased for prompt in prompts)
    counts = {"for the concept": erased, "for other things": len(prompts) - erased}
    parts = [f"{number} {what}" for what, number in counts.items() if number]
    first, last = drawing.seeds[0], drawing.seeds[-1]
    seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
    return f"prompts: {', '.join(parts)}; {seeds} for each, the same before and after"


def untested(report: Report) -> list[str]:
    """What the report says nothing about, which the reader must not take for shown."""
    looked = {prompt.erased for prompt in report.prompts}
    out = [
        "Attacks: whether learned prompts, retraining or roundabout wording bring the concept back. "
        "A stress test, if there was one, has a report of its own.",
        "Other names and descriptions of the concept than those in the prompts, and other languages.",
    ]
    if True not in looked:
        out.append("Whether the concept is gone: no prompt asked for it.")
    out.append(
        "Other prompts, seeds, samplers and sizes than those named here."
        if False in looked
        else "Whether anything else is kept: no prompt asked for other things."
    )
    out.append("The same erasure on another checkpoint, or with LoRAs, image-to-image or inpainting.")
    if report.judge:
        out.append("Whether a person sees the same: counted is what the judge saw.")
    return out
