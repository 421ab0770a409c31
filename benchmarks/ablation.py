"""The recommended settings with one thing changed at a time, on the toy world.

    python3 scripts/run.py benchmarks.ablation            # goes on where it stopped
    python3 scripts/run.py benchmarks.ablation --quick    # one concept, one seed, few pictures, into another file

Into ``benchmarks/results/ablation.json``, ``.md`` and ``.png``, on concepts that ``benchmarks.quality`` does not hold
out. Every second of the demo's pictures: 96 or more a cell.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from concept_erasure.erasure.methods import preset_for

from .cells import Cell, Results, measure_all
from .tables import OWN, base_row, plot, rows, table

FILE = Path(__file__).with_name("results") / "ablation.json"
CONCEPTS = ("circle", "red", "striped")
SEEDS = (0, 1)
CHANGES: dict[str, dict[str, Any]] = {
    OWN: {},
    "training starts from nothing": {"weights_start": "unchanged"},
    "target: empty prompt, eta 2": {"target": "empty prompt"},
    "target: empty prompt, eta 1": {"target": "empty prompt", "eta": 1.0},
    "both, eta 2": {"weights_start": "unchanged", "target": "empty prompt"},
    "prompt at middle": {"blocks": "middle"},
    "prompt at middle+output": {"blocks": "middle+output"},
    "4 tokens": {"tokens": 4},
    "32 tokens": {"tokens": 32},
    "prompt starts from the empty one": {"start": "empty prompt"},
    "prompt starts from noise": {"start": "noise"},
    "prompt rate / 3": {"prompt_lr": 3e-3},
    "prompt rate × 3": {"prompt_lr": 3e-2},
    "weight rate 0": {"weight_lr": 0.0},
    "weight rate / 3": {"weight_lr": 3e-4},
    "weight rate × 3": {"weight_lr": 3e-3},
    "constant rates": {"lr_decay": 0.0},
    "loss in noise space": {"space": "noise"},
    "with-prompt weight 0": {"options": {"with_prompt_weight": 0.0}},
    "with-prompt weight 0.5": {"options": {"with_prompt_weight": 0.5}},
    "rank 2": {"rank": 2},
    "full rank": {"rank": 0},
    "no preserve loss": {"preserve_weight": 0.0},
    "adversarial preservation": {"preserve_by": "adversarial"},
    "bare concept only": {"in_context": False},
    "no gate": {"gate": False},
    "new trajectory every 5 steps": {"refresh": 5},
    "one trajectory": {"refresh": 1000},
    "drawn by the edited model": {"drawn_by": "edited"},
    "average .95": {"average": 0.95},
    "half the steps": {"steps": 50},
    "twice the steps": {"steps": 200},
}


def cells(quick: bool) -> list[Cell]:
    """All cells, a seed after the other, and in it a change after the other."""
    base = preset_for("recommended")
    return [
        Cell(name, concept, seed, replace(base, **changes), every=8 if quick else 2, attacked=False)
        for seed in (SEEDS[:1] if quick else SEEDS)
        for name, changes in CHANGES.items()
        for concept in (CONCEPTS[:1] if quick else CONCEPTS)
    ]


def summed_up(measured: dict, unedited: dict) -> dict:
    """The file's contents."""
    return {
        "base": base_row(unedited, CONCEPTS), "rows": list(rows(measured, list(CHANGES))), "concepts": list(CONCEPTS),
        "seeds": list(SEEDS), "unedited": unedited, "cells": measured,
    }  # fmt: skip


def markdown(found: dict) -> str:
    base = found["base"]
    return "\n".join(
        [
            "# One thing changed at a time", "", "Written by `python3 scripts/run.py benchmarks.ablation`.", "",
            f"Concepts: {', '.join(found['concepts'])}. The unedited model shows them in {base['shown']:.3f} of the "
            f"pictures, PSR-1 {base['psr1']:.3f}. Columns as in [quality.md](quality.md).", "",
            *table(found["rows"], base), "",
        ]
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one concept, one seed, an eighth of the pictures")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after these")
    parser.add_argument("--jobs", type=int, help="cells side by side; as many as cores without it")
    options = parser.parse_args()
    wanted = cells(options.quick)
    file = Path("output/benchmarks/ablation_quick.json") if options.quick else FILE
    results = Results(file, summed_up)
    results.keep_only({cell.method: cell.settings for cell in wanted})
    measure_all(wanted, results, options.minutes, options.jobs)
    found = results.write()
    file.with_suffix(".md").write_text(markdown(found), encoding="utf-8")
    plot(found["rows"], found["base"], "Recommended settings, one thing changed", file.with_suffix(".png"))
    print(file.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
