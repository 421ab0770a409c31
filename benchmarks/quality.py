"""Every method against every other on the toy world: erasing, preserving, recovery, and how well it holds.

    python3 scripts/run.py benchmarks.quality            # goes on where it stopped; about five hours on two cores
    python3 scripts/run.py benchmarks.quality --quick    # one concept, one seed, few pictures, into another file
    python3 scripts/run.py benchmarks.quality --methods ESD UCE --minutes 20
    python3 scripts/run.py benchmarks.quality --methods RECE --again     # its code has changed
    python3 scripts/run.py benchmarks.quality --minutes 0   # only writes table and plot anew

Into ``benchmarks/results/quality.json``, ``.md`` and ``.png``, and the table of docs/measured.md. Pictures, noise and
judge are the demo's: 192 pictures or more a cell, three seeds. Attacks draw 24 pictures each. Learned methods are
measured on six concepts with two seeds, the closed forms, which have nothing random, on all eighteen; our own on three
more concepts of which no trial of training is on record.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from concept_erasure.erasure.dictionary.picking import Picking
from concept_erasure.erasure.instant import Instant
from concept_erasure.erasure.methods import preset_for
from concept_erasure.erasure.training.settings import Settings

from .cells import Cell, How, Results, measure_all
from .dictionary import FromDictionary
from .peers import Mace
from .tables import ALL, ahead, base_row, plot, put, rows, short, table

FILE = Path(__file__).with_name("results") / "quality.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "measured.md"
MARKS = ("<!-- table of benchmarks.quality -->", "<!-- end of the table -->")
HELD_OUT = ("heart", "green", "dotted")
"""One of each kind, kept out when the training's settings were chosen; the closed form was chosen by all of them."""
LEARNED_ON = ("circle", "red", "dotted", "heart", "green", "star")
UNSEEN = ("ring", "blue", "checked")
"""One of each kind that no trial of training is on record of, named before training was measured on them."""
UNSEEN_BY = ("recommended", "prompt only")
"""The learned methods that are measured on them, too; the closed forms are measured on all."""
SEEDS = (0, 1)


RATES: dict[str, Any] = {"steps": 150, "weight_lr": 5e-4, "prompt_lr": 1e-2, "batch": 4, "refresh": 10}
"""For the published presets on a network as narrow as the toy world's: at their own rates they erase colours alone."""
PRESERVED: dict[str, Any] = {"preserve_weight": 2.0, "in_context": True}
"""What recommended knows of the preserve set, given to methods that know nothing of it as published."""


def learned(method: str, **changes: Any) -> Settings:
    return replace(preset_for("recommended", method), **changes)


METHODS: dict[str, How] = {
    "recommended": preset_for("recommended"),
    "UCE": Instant(),
    "UCE, gated": Instant(gated=True),
    "RECE": Instant(method="rece"),
    "SPEED": Instant(method="speed"),
    "DP": Instant(method="dp"),
    "OCE": Instant(method="oce"),
    "SAeUron": FromDictionary(),
    "SAeUron, multiplier -30": FromDictionary(Picking(multiplier=-30.0)),
    "SAeUron, replace": FromDictionary(Picking(mode="replace")),
    "prompt only": learned("prompt only"),
    "ESD": learned("esd"),
    "ESD, preserve set": learned("esd", **PRESERVED),
    "SDD": learned("sdd"),
    "CA": learned("concept ablation"),
    "AP": learned("esd", preserve_by="adversarial", preserve_weight=1.0),
    "AGE": learned("adaptive target"),
    "AbO": learned("all but one"),
    "FMN": learned("forget-me-not"),
    "pruning": learned("pruning"),
    "MACE": Mace(),
    "DuMo": learned("dumo"),
    "KPOP v2": replace(preset_for("paper v2"), **RATES),
    "KPOP v3": replace(preset_for("paper v3"), **RATES),
    "KPOP v3, preserve set": replace(preset_for("paper v3"), **RATES, **PRESERVED),
    "KPOP v3, published rates": preset_for("paper v3"),
}


def cells(methods: Sequence[str], concepts: Sequence[str] | None, seeds: Sequence[int], quick: bool) -> list[Cell]:
    """All cells of some methods, a concept after the other: closed forms once, for they have nothing random."""
    names = concepts or (*LEARNED_ON, *(name for name in ALL if name not in LEARNED_ON))
    found = [
        Cell(method, concept, seed, METHODS[method], every=8 if quick else 1)
        for seed, concept, method in product(seeds, names, methods)
    ]

    def is_wanted(cell: Cell) -> bool:
        if isinstance(cell.how, Instant):
            return cell.seed == seeds[0]
        return bool(concepts) or cell.concept in LEARNED_ON or (cell.concept in UNSEEN and cell.method in UNSEEN_BY)

    return [cell for cell in found if is_wanted(cell)]


def summed_up(measured: dict, unedited: dict) -> dict:
    """The file's contents."""
    table = list(rows(measured, list(METHODS), LEARNED_ON.__contains__))
    done = {tuple(name.split(" | ")[:2]) for name in measured}
    closed = [name for name, how in METHODS.items() if isinstance(how, Instant) and {(name, c) for c in ALL} <= done]
    return {
        "base": base_row(unedited, LEARNED_ON),
        "rows": table,
        "ahead": ahead(table),
        "held_out": list(rows(measured, list(METHODS), HELD_OUT.__contains__)),
        "base_held_out": base_row(unedited, HELD_OUT),
        "unseen": list(rows(measured, [*UNSEEN_BY, *closed], UNSEEN.__contains__)),
        "base_unseen": base_row(unedited, UNSEEN),
        "closed_forms": list(rows(measured, closed)),
        "base_all": base_row(unedited, ALL),
        "concepts": list(LEARNED_ON),
        "seeds": list(SEEDS),
        "pictures": sum(sum(cell["pictures"].values()) for cell in measured.values()),
        "unedited": unedited,
        "cells": measured,
    }


def markdown(found: dict) -> str:
    base = found["base"]
    out = ["# All methods on the toy world", "", "Written by `python3 scripts/run.py benchmarks.quality`.", ""]
    out += [
        f"The unedited model shows the concept in {base['shown']:.3f} of its pictures, PSR-1 {base['psr1']:.3f}, kept "
        f"attributes {base['kept_attributes']:.3f}. Means over concepts and seeds. Brackets: 95 % Wilson interval over "
        "pictures, which is that of their noise alone; seeds share prompts and noise, and concepts differ far more, so "
        "the lowest and the highest cell stand behind it. Attacks: share of pictures with the concept back; in the "
        "head, the unedited model's. SSIM and PSNR (median, dB; 100 = equal): kept pictures beside the unedited "
        "model's. Seconds on one core. Bold: no other row is ahead on ESR-1, PSR-1 and attributes at once. "
        f"{found['pictures']} pictures judged, attacks not counted.",
        "",
    ]
    held_out = f"Of these, held out when the training's settings were chosen: {', '.join(HELD_OUT)}"
    parts = [
        (f"Six concepts: {', '.join(found['concepts'])}", "rows", base),
        (held_out, "held_out", found["base_held_out"]),
        (f"No trial of training on record when these were named: {', '.join(UNSEEN)}", "unseen", found["base_unseen"]),
        ("Closed forms, all 18 concepts", "closed_forms", found["base_all"]),
    ]
    for title, part, own in parts:
        if found[part]:
            out += [f"## {title}", "", *table(found[part], own), ""]
    return "\n".join(out)


def page(text: str, found: dict) -> str:
    """The page of figures with its table as measured."""
    return put(text, MARKS, short(found["rows"], found["base"]))


def write(results: Results) -> None:
    """The file, its table and its plot; the table of the page of figures, too, where it is of this file."""
    found = results.write()
    if found["rows"]:
        results.file.with_suffix(".md").write_text(markdown(found), encoding="utf-8")
        title = "Erasing against preserving, toy world"
        plot(found["rows"], found["base"], title, results.file.with_suffix(".png"))
        if results.file == FILE:
            PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
        print(results.file.with_suffix(".md").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one concept, one seed, an eighth of the pictures")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--concepts", nargs="+", choices=ALL)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after these")
    parser.add_argument("--again", action="store_true", help="measure these methods anew: their code has changed")
    parser.add_argument("--jobs", type=int, help="cells side by side; as many as cores without it")
    options = parser.parse_args()
    file, concepts, seeds = FILE, options.concepts, options.seeds
    if options.quick:
        file, concepts, seeds = Path("output/benchmarks/quality_quick.json"), concepts or ["circle"], seeds[:1]
    results = Results(file, summed_up)
    results.keep_only({name: Cell(name, "", 0, how).settings for name, how in METHODS.items()})
    if options.again:
        results.again(options.methods)
    measure_all(cells(options.methods, concepts, seeds, options.quick), results, options.minutes, options.jobs)
    write(results)


if __name__ == "__main__":
    main()
