"""Methods at matched deletion: how much each keeps where all erase the same share of pictures.

The scores of a cell at every strength are points; between two of them, kept shares are taken to change linearly with
the erased share. ``benchmarks.drawn --parts strengths`` measures the points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from concept_erasure.erasure.evaluation.metrics import wilson

from .drawn_world import COUNT

STRENGTHS = (0.3, 0.5, 0.7, 0.85, 1.0)
SHARES = (0.5, 0.8, 0.95)
"""Erased shares at which methods are compared."""
KEPT = ("psr1_near", "psr1_random")
OURS = "recommended"


def at(points: Sequence[Mapping[str, float]], share: float, key: str) -> float | None:
    """A figure where an erased share is first reached, in the order of the points, of which the first is the unedited
    model's; None where it never is."""
    before = points[0]
    for point in points:
        if point["esr1"] >= share:
            span = point["esr1"] - before["esr1"]
            way = max(0.0, share - before["esr1"]) / span if span > 0 else 1.0
            return before[key] + way * (point[key] - before[key])
        before = point
    return None


Sweep = Sequence[Mapping[str, float]]
"""The unedited model's scores, then those at every strength."""


def sweeps(cells: Mapping[str, Mapping]) -> dict[str, dict[str, Sweep]]:
    """For each method, a sweep for each of its concepts."""
    unedited = {name.split(" | ")[1]: cell["scores"] for name, cell in cells.items() if name.startswith("unedited | ")}
    found: dict[str, dict[str, Sweep]] = {}
    for name, cell in cells.items():
        if cell.get("strengths"):
            method, concept, _ = name.split(" | ")
            found.setdefault(method, {})[concept] = [unedited[concept], *cell["strengths"].values()]
    return found


def kept(own: Mapping[str, Sweep], share: float, key: str) -> dict[str, float]:
    """A figure of each concept's sweep that reaches an erased share, there."""
    return {name: value for name, points in own.items() if (value := at(points, share, key)) is not None}


def rows(cells: Mapping[str, Mapping]) -> Iterator[dict]:
    """For each method and erased share: what is kept, near and random, over the cells that reach the share; and what
    *recommended* keeps at that share of the same concepts."""
    swept = sweeps(cells)
    for method, own in swept.items():
        for share in SHARES:
            row: dict = {"method": method, "share": share, "cells": len(own)}
            for key in KEPT:
                found = kept(own, share, key)
                row["reached"] = len(found)
                if found:
                    total, ours = sum(found.values()), kept(swept.get(OURS, {}), share, key)
                    row[key] = round(total / len(found), 4)
                    row[f"{key}_interval"] = [round(end, 4) for end in wilson(total * COUNT, len(found) * COUNT)]
                    if found.keys() <= ours.keys():
                        row[f"{key}_of_ours"] = round(sum(ours[name] for name in found) / len(found), 4)
            yield row
