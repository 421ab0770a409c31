"""What a report says in plain words: whether the concept is gone, whether the rest is as it was, who counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .metrics import Share

if TYPE_CHECKING:
    from .report import Row

ENOUGH, POOR = 0.95, 0.5
"""Shares from which on an erasure did what it should, and below which it failed."""
FEW = 4
"""Pictures of a concept below which a count proves little: gone in 3 of 3 leaves it possible that half show it."""
TRUSTED = 0.8
"""Share of the unedited model's pictures that a judge must read right to be relied on."""
INVISIBLE, SLIGHT, VISIBLE = 40.0, 30.0, 20.0
"""dB of PSNR from which on a change cannot be seen; can be seen side by side; leaves the picture recognisable."""
NOT_COUNTED = "Pictures were drawn, not counted."
ONE_LABEL = (
    "Not counted: the judge has nothing to choose from but '{}'. Type prompts with other labels into keep, such as: a "
    "red square | square."
)


def verdict(row: Row, before: Row) -> str:
    """The mark and the first sentence of a report: how one model did; empty where nothing was counted."""
    sentence = opening(row)
    return f"{mark(row, before)} {sentence}" if sentence else ""


def opening(row: Row) -> str:
    """How often the concept is gone and the rest is there."""
    gone, same = row.esr.get(1), row.psr.get(1)
    if gone is not None:
        there = Share(gone.count - gone.hits, gone.count)
        first = f"Gone in {of(gone)} pictures" if gone.value >= POOR else f"Still there in {of(there)} pictures"
        return f"{first}; everything else kept in {of(same)}." if same else f"{first}; nothing else was looked at."
    return f"Everything else kept in {of(same)} pictures." if same is not None else ""


def mark(row: Row, before: Row) -> str:
    """✓, ⚠ or ✗. What the judge does not see in the unedited model's pictures either is not held against an erasure,
    nor is it to its credit, if it is the concept."""
    values = [row.esr[1].value] if 1 in row.esr else []
    if values and not_shown(before.esr[1]):
        values.append(POOR)
    if 1 in row.psr:
        values.append(row.psr[1].value + 1 - before.psr[1].value)
    return "✓" if min(values) >= ENOUGH else "✗" if min(values) < POOR else "⚠"


def too_few(share: Share | None) -> str:
    """A doubt about a count of few pictures; empty where there are enough, or none."""
    if share is None or share.count >= FEW:
        return ""
    return f"⚠ Too few pictures of the concept to be sure ({share.count}): raise 'pictures'."


def not_shown(gone: Share | None) -> str:
    """A doubt about a concept that the unedited model mostly does not draw; empty where it does."""
    if gone is None or 2 * gone.hits <= gone.count:
        return ""
    return (
        f"⚠ The unedited model itself does not show it in {gone.hits} of {gone.count} pictures: take prompts "
        "that draw it."
    )


def accuracy(before: Row) -> Share | None:
    """In how many of the unedited model's pictures the judge sees what was asked for; None without a judge."""
    gone, same = before.esr.get(1, Share(0, 0)), before.psr.get(1, Share(0, 0))
    count = gone.count + same.count
    return Share(gone.count - gone.hits + same.hits, count) if count else None


def of_the_judge(judge: str, before: Row) -> str:
    """Who counted, and how far that can be relied on; empty where nobody did."""
    share = accuracy(before)
    if share is None:
        return ""
    sentence = f"The judge is {judge}: it reads {of(share)} pictures of the unedited model right."
    if share.value >= TRUSTED:
        return sentence
    return f"⚠ {sentence} Do not rely on its counts: give labels that look less alike, or connect another judge."


def likeness(row: Row) -> str:
    """How far the kept pictures are from the unedited model's; empty where there are none."""
    if row.identical is None or row.psnr is None:
        return ""
    if row.identical.hits == row.identical.count:
        return "Kept pictures are the same to the bit."
    hits, count = row.identical.hits, row.identical.count
    same = [f"{hits} of {count} are the same to the bit."] if hits else []
    return " ".join([_changed(row.psnr, decibels(row.psnr)), *same])


def _changed(psnr: float, measure: str) -> str:
    if psnr >= INVISIBLE:
        return f"Kept pictures changed by less than you can see ({measure})."
    if psnr >= SLIGHT:
        return f"Kept pictures changed a little: it shows side by side ({measure})."
    if psnr >= VISIBLE:
        return f"Kept pictures changed visibly ({measure})."
    return f"Kept pictures are other pictures than before ({measure})."


def decibels(psnr: float) -> str:
    """The middle one of several pictures' PSNR."""
    return "most are the same to the bit" if psnr == float("inf") else f"{psnr:.1f} dB"


def of(share: Share) -> str:
    return f"{share.hits} of {share.count}"


def sentences(rows: Sequence[Row], judge: str, doubt: str, uncounted: str) -> list[str]:
    """A report's first lines: the doubt if there is one, a verdict for each edited model, the judge, the likeness."""
    before, edited = rows[0], rows[1:]
    names = [f"{row.name}: " if len(edited) > 1 else "" for row in edited]
    verdicts = [name + said for name, row in zip(names, edited, strict=True) if (said := verdict(row, before))]
    alike = [name + said for name, row in zip(names, edited, strict=True) if (said := likeness(row))]
    doubts = [too_few(before.esr.get(1)), not_shown(before.esr.get(1))]
    lines = [doubt, *verdicts, *doubts, of_the_judge(judge, before) or uncounted, *alike]
    return [line for line in lines if line]
