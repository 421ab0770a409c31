"""The drawn world's figures as tables: a short one for the README, and all of them for docs/measured.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .matched import KEPT
from .tables import put

REPO = Path(__file__).resolve().parents[1]
PAGES = (REPO / "README.md", REPO / "docs" / "measured.md")
MARKS = ("<!-- table of benchmarks.drawn -->", "<!-- end of the table of benchmarks.drawn -->")
CALLED = {"unedited": "nothing erased", "UCE": "by typing (closed form)", "recommended": "trained, *recommended*"}
FIRST = ("unedited", "UCE", "recommended", "ESD", "KPOP v3")
"""The five rows of the short table."""
GROUPS = {"objects": "objects", "styles": "hands", "theme": "weapons"}
MORE = {
    "implicit": "by keywords", "other_name": "other names", "img2img": "img2img", "noise_probe": "noise probe",
    "soft_prompt": "soft prompt",
}  # fmt: skip
"""Columns of the long table in which the concept is back."""

AT_MATCHED = (
    "At matched deletion: strength is swept, and what is kept is read off where a method first erases so much, between",
    "two strengths by their distance. Only concepts of which it erases so much count; the last column is what",
    "*recommended* keeps of the same ones, a dash where it erases one of these less. One seed was swept. Intervals are",
    "95 % (Wilson) over pictures.",
)


def figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def shown(row: Mapping, key: str) -> float | None:
    """The share of pictures with the concept back."""
    value = row.get(key)
    return value.get("shown") if isinstance(value, Mapping) else value


def scores(row: Mapping, group: str) -> list[str]:
    found = row.get(group) or {}
    return [figure(found.get(key)) for key in ("esr1", "psr1_near", "psr1_random")]


def short(rows: Sequence[Mapping]) -> list[str]:
    """Erased, near and random shares of objects and of hands, and what keywords bring back."""
    heads = ["objects: gone", "near kept", "others kept", "hands: gone", "other hands kept", "keywords bring back"]
    lines = [f"| | {' | '.join(heads)} |", "|" + "---|" * (len(heads) + 1)]
    for row in (row for name in FIRST for row in rows if row["method"] == name):
        objects, hands = scores(row, "objects"), scores(row, "styles")
        cells = [*objects, hands[0], hands[1], figure(shown(row, "implicit"))]
        lines.append(f"| {CALLED.get(row['method'], row['method'])} | {' | '.join(cells)} |")
    return lines


def long(rows: Sequence[Mapping], matched: Sequence[Mapping]) -> list[str]:
    """Every method: ESR-1 / near / random by group, what brings the concept back, twenty in a row, and the cost."""
    heads = [*GROUPS.values(), "16 more objects", *MORE.values(), "after 1, 2 … base steps"]
    heads += ["20 in a row", "key", "s", "bytes", "cells"]
    lines = [f"| | {' | '.join(heads)} |", "|" + "---|" * (len(heads) + 1)]
    for row in rows:
        sequence = row.get("sequence20")
        cells = [" / ".join(scores(row, group)) for group in (*GROUPS, "more_objects")]
        cells += [figure(shown(row, key)) for key in MORE]
        cells += [" ".join(figure(share) for share in row.get("completion") or ()) or "–"]
        cells += [" / ".join(figure(sequence[key]) for key in ("esr1", "psr1", "relapse")) if sequence else "–"]
        cells += [figure(row.get("recovery")), f"{row['seconds']:.0f}" if row.get("seconds") is not None else "–"]
        cells += [f"{row['bytes']:.0f}" if row.get("bytes") is not None else "–", str(row["cells"])]
        lines.append(f"| {row['method']} | {' | '.join(cells)} |")
    if matched:
        lines += ["", *AT_MATCHED, ""]
        heads = ("erased share", "near kept", "random kept", "concepts that reach it", "*recommended* on these")
        lines += [f"| | {' | '.join(heads)} |", "|" + "---|" * (len(heads) + 1)]
        lines += [_matched(row) for row in matched]
    return lines


def _matched(row: Mapping) -> str:
    kept = [_interval(row, key) for key in KEPT]
    kept += [f"{row['reached']} of {row['cells']}", " / ".join(figure(row.get(f"{key}_of_ours")) for key in KEPT)]
    return f"| {row['method']} | {row['share']:.2f} | {' | '.join(kept)} |"


def _interval(row: Mapping, key: str) -> str:
    if key not in row:
        return "–"
    low, high = row[f"{key}_interval"]
    return f"{row[key]:.2f} [{low:.2f}, {high:.2f}]"


def write(found: Mapping) -> None:
    """The tables of README and docs/measured.md."""
    rows = [found["base"], *found["rows"]]
    for page, lines in zip(PAGES, (short(rows), long(rows, found["matched"])), strict=True):
        page.write_text(put(page.read_text(encoding="utf-8"), MARKS, lines), encoding="utf-8")
