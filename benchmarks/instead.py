"""What people use instead of erasing: a negative prompt, the host's NAG, negative weights, safe guidance, SAFREE.

    python3 scripts/run.py benchmarks.instead                     # half an hour on one core; goes on where it stopped
    python3 scripts/run.py benchmarks.instead --concepts circle   # one concept
    python3 scripts/run.py benchmarks.instead --world drawn       # on the drawn world

Into ``benchmarks/results/instead.json`` or ``drawn_instead.json``, and a table of docs/measured.md: ESR-1, PSR-1 and
kept attributes, each at the world's CFG and at CFG 1, in many steps and in few, and the time of
drawing beside the unedited model's. What stands beside an erasure is in ``guards.py``, written from the papers. The
same pictures, noise and judge as in ``benchmarks.quality``; on the drawn world as in ``benchmarks.drawn``, whose file
takes the rows up.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from copy import copy
from functools import cache
from itertools import product
from pathlib import Path

import torch

from concept_erasure.erasure import instant, learning
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.instant import Instant
from concept_erasure.erasure.methods import preset_for
from toyworld.report import CFG
from toyworld.scoring import plan

from . import drawn
from .drawn_world import NEAR
from .guards import GUARDS, Guard
from .quality import LEARNED_ON
from .tables import put
from .toy import ROWS, Shot, Toy, shots

FILE = Path(__file__).with_name("results") / "instead.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "measured.md"
MARKS = ("<!-- table of benchmarks.instead -->", "<!-- end of the table of benchmarks.instead -->")
DRAWN_MARKS = ("<!-- instead, drawn world -->", "<!-- end of instead, drawn world -->")
OURS = ("Erase Concept", "Erase Concept, gated", "recommended")
FIGURES = ("esr1", "psr1", "kept_attributes", "relative_time")
CLOCK = time.perf_counter if torch.cuda.is_available() else time.process_time


class OnToy:
    """What is drawn and judged on the toy world."""

    file, marks = FILE, MARKS
    concepts: Sequence[str] = LEARNED_ON
    settings = tuple(product((CFG, 1.0), (20, 6)))
    """CFG and steps."""
    every = 2
    """One in so many of the pictures."""

    def __init__(self) -> None:
        self.world = Toy()

    def wanted(self, concept: str) -> list[Shot]:
        return list(shots(concept)[:: self.every])

    def scored(self, pictures: torch.Tensor, wanted: Sequence[Shot], concept: str) -> dict[str, float]:
        return self.world.score(pictures, wanted, concept)

    def edited(self, name: str, concept: str):
        """The MODEL as one of ours has edited it."""
        toy, kept = self.world, "\n".join(text for text in plan(concept)["preserve"] if text != concept)
        with torch.inference_mode(name != "recommended"):
            if name != "recommended":
                how = Instant(gated=name.endswith("gated"))
                return attach.erase(toy.model, instant.erase_instantly(toy.model, toy.clip, concept, kept, how))
            with learning.gradients():
                prepared = learning.prepare(toy.model, toy.clip, concept, kept, preset_for("recommended"))
                return attach.erase(toy.model, learning.learn(prepared))


class OnDrawn:
    """The same on the drawn world."""

    file, marks = drawn.INSTEAD, DRAWN_MARKS
    concepts: Sequence[str] = tuple(NEAR)
    settings = tuple(product((drawn.CFG, 1.0), (drawn.STEPS, drawn.STEPS // 2)))

    def __init__(self) -> None:
        self.world = drawn.Drawn()

    def wanted(self, concept: str) -> list[Shot]:
        return list(self.world.shots(concept, drawn.COUNT // 2))

    def scored(self, pictures: torch.Tensor, wanted: Sequence, concept: str) -> dict[str, float]:
        found = self.world.scored(pictures, wanted)
        return {**found, "psr1": (found["psr1_near"] + found["psr1_random"]) / 2}

    def edited(self, name: str, concept: str):
        what, method = drawn.erased(concept), name.replace("Erase Concept", "UCE")
        return attach.erase(self.world.model, drawn.make(self.world, method, what.names, what.typed, 0)[0])


Place = OnToy | OnDrawn
PLACES: dict[str, type[Place]] = {"toy": OnToy, "drawn": OnDrawn}


def draw(toy: Toy, guard: Guard, wanted: Sequence, concept: str, cfg: float, steps: int) -> torch.Tensor:
    """Pictures [n, 3, h, w] of a guarded model."""
    parts = [wanted[start : start + ROWS] for start in range(0, len(wanted), ROWS)]
    return torch.cat([guard(toy, part, concept, cfg, steps) for part in parts])


@cache
def seconds_unedited(place: Place, pictures: int, cfg: float, steps: int) -> float:
    """How long the model takes as it is, for so many pictures of any concept."""
    wanted = place.wanted(place.concepts[0])[:pictures]
    draw(place.world, GUARDS["nothing"], wanted[:2], "", cfg, 1)
    started = CLOCK()
    draw(place.world, GUARDS["nothing"], wanted, "", cfg, steps)
    return CLOCK() - started


def measured(place: Place, name: str, concept: str) -> Iterator[dict]:
    """One row for each CFG and number of steps."""
    wanted = place.wanted(concept)
    guard = GUARDS["nothing"] if name in OURS else GUARDS[name]
    guarded = copy(place.world)
    if name in OURS:
        guarded.model = place.edited(name, concept)
    for cfg, steps in place.settings:
        unedited = seconds_unedited(place, len(wanted), cfg, steps)
        started = CLOCK()
        pictures = draw(guarded, guard, wanted, concept, cfg, steps)
        seconds = CLOCK() - started
        found = place.scored(pictures, wanted, concept)
        yield {
            "name": name, "concept": concept, "cfg": cfg, "steps": steps,
            **{key: found[key] for key in FIGURES[:3]}, "relative_time": seconds / unedited,
            "pictures": len(wanted),
        }  # fmt: skip


def settings_of(rows: Sequence[dict]) -> list[tuple[float, int]]:
    return list(dict.fromkeys((row["cfg"], row["steps"]) for row in rows))


def summed_up(rows: Sequence[dict]) -> list[dict]:
    """Means over concepts, one row for each name, CFG and number of steps."""
    out = []
    for name, (cfg, steps) in product([*GUARDS, *OURS], settings_of(rows)):
        own = [row for row in rows if (row["name"], row["cfg"], row["steps"]) == (name, cfg, steps)]
        if own:
            means = {key: round(sum(row[key] for row in own) / len(own), 4) for key in FIGURES}
            out.append({"name": name, "cfg": cfg, "steps": steps, **means, "concepts": len(own)})
    return out


def table(found: Sequence[dict]) -> list[str]:
    """One line for each name, with ESR-1 / PSR-1 in each setting."""
    settings = settings_of(found)
    heads = [f"CFG {cfg:g}, {steps} steps" for cfg, steps in settings]
    lines = [f"| | {' | '.join(heads)} | attributes | time |", "|" + "---|" * (len(heads) + 3)]
    for name in dict.fromkeys(row["name"] for row in found):
        own = {(row["cfg"], row["steps"]): row for row in found if row["name"] == name}
        cells = [f"{own[s]['esr1']:.2f} / {own[s]['psr1']:.2f}" if s in own else "–" for s in settings]
        last = [sum(row[key] for row in own.values()) / len(own) for key in ("kept_attributes", "relative_time")]
        lines.append(f"| {name} | {' | '.join(cells)} | {last[0]:.2f} | {last[1]:.2f} |")
    return lines


def write(rows: Sequence[dict], file: Path, place: type[Place]) -> None:
    found = summed_up(rows)
    concepts = list(dict.fromkeys(row["concept"] for row in rows))
    about = {"instead": found, "concepts": concepts, "pictures": sum(row["pictures"] for row in rows), "each": rows}
    file.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    if file == place.file:
        text = put(PAGE.read_text(encoding="utf-8"), place.marks, table(found))
        PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=PLACES, default="toy")
    parser.add_argument("--concepts", nargs="+")
    parser.add_argument("--names", nargs="+", choices=[*GUARDS, *OURS], default=[*GUARDS, *OURS])
    parser.add_argument("--again", action="store_true", help="measure these anew, and keep all others")
    parser.add_argument("--file", type=Path)
    options = parser.parse_args()
    kind = PLACES[options.world]
    file = options.file or kind.file
    rows: list[dict] = json.loads(file.read_text(encoding="utf-8"))["each"] if file.exists() else []
    place = kind()
    for concept, name in product(options.concepts or place.concepts, options.names):
        others = [row for row in rows if (row["name"], row["concept"]) != (name, concept)]
        if options.again or len(others) == len(rows):
            found = list(measured(place, name, concept))
            for row in found:
                print({key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()}, flush=True)
            rows = [*others, *found]
            write(rows, file, kind)
    print("\n".join(table(summed_up(rows))))


if __name__ == "__main__":
    main()
