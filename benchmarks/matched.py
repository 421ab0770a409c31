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


def sweeps(cells: Mapping[str, Mapping]) -> dict[str, list[list[Mapping[str, float]]]]:
    """For each method, a sweep for each of its cells: the unedited model's scores, then those at every strength."""
    unedited = {name.split(" | ")[1]: cell["scores"] for name, cell in cells.items() if name.startswith("unedited | ")}
    found: dict[str, list[list[Mapping[str, float]]]] = {}
    for name, cell in cells.items():
        if cell.get("strengths"):
            method, concept, _ = name.split(" | ")
            found.setdefault(method, []).append([unedited[concept], *cell["strengths"].values()])
    return found


def kept(own: Sequence[Sequence[Mapping[str, float]]], share: float, key: str) -> list[float]:
    """A figure of each sweep that reaches an erased share, there."""
    return [value for points in own if (value := at(points, share, key)) is not None]


def rows(cells: Mapping[str, Mapping]) -> Iterator[dict]:
    """For each method and erased share: what is kept, near and random, over the cells that reach the share."""
    for method, own in sweeps(cells).items():
        for share in SHARES:
            row: dict = {"method": method, "share": share, "cells": len(own)}
            for key in KEPT:
                found = kept(own, share, key)
                row["reached"] = len(found)
                if found:
                    row[key] = round(sum(found) / len(found), 4)
                    row[f"{key}_interval"] = [round(end, 4) for end in wilson(sum(found) * COUNT, len(found) * COUNT)]
            yield row
