"""Methods on the drawn world: objects, hands and a theme erased; near and far, implicit prompts, compositions, attacks.

    python3 scripts/run.py benchmarks.drawn                        # goes on where it stopped; says how long it takes
    python3 scripts/run.py benchmarks.drawn --methods UCE --concepts dog
    python3 scripts/run.py benchmarks.drawn --parts scores         # what is drawn for prompts alone
    python3 scripts/run.py benchmarks.drawn --methods UCE SPEED --concepts cat lion      # closed forms on more subjects

Into ``benchmarks/results/drawn.json``: a cell for each method, concept and seed, and a row a method; and into the
tables and plots of README and docs/measured.md. Half of what is counted as near and random is typed as preserved, the
same for all methods. Probes and attacks are those of Stress Test, through the code behind the node.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from concept_erasure.erasure import instant, jointly
from concept_erasure.erasure.artifact import Erasure
from concept_erasure.erasure.evaluation.attacks import Concept
from concept_erasure.erasure.evaluation.by_kind import Request, by_kind, composed, counted
from concept_erasure.erasure.evaluation.by_kind import erased as asked_for
from concept_erasure.erasure.evaluation.drawing import Drawing
from concept_erasure.erasure.evaluation.metrics import drift, wilson
from concept_erasure.erasure.evaluation.sequence import sequence
from concept_erasure.erasure.evaluation.stress import stress
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.instant import Instant
from concept_erasure.erasure.methods import LEARNED
from concept_erasure.erasure.parts.gate import is_open
from concept_erasure.erasure.parts.prompt import PromptTensors
from concept_erasure.erasure.texts.names import is_said
from concept_erasure.erasure.training.pictures import with_pictures, with_sampling
from concept_erasure.erasure.training.settings import Settings
from drawnworld.captions import article
from drawnworld.report import CFG
from drawnworld.subjects import BY_NAME

from . import drawn_plots, drawn_tables, matched
from .cells import made
from .drawn_world import CONCEPTS, COUNT, MORE, NEAR, PICTURE, RANDOM, STYLES, Drawn, erased, mean, wording
from .families import commit
from .peers import Gated, Spm
from .quality import METHODS as MEASURED_ON_BOTH

METHODS = {**MEASURED_ON_BOTH, "SPM": Spm()}
FILE = Path(__file__).with_name("results") / "drawn.json"
INSTEAD = FILE.with_name("drawn_instead.json")
"""What ``benchmarks.instead --world drawn`` has measured."""
SEEDS = (0, 1)
STEPS = 12
HOW = Drawing((0, 1), STEPS, CFG, "euler", "normal", PICTURE, PICTURE)
PROBING = replace(HOW, seeds=tuple(range(6)))
PROBES = ("completion", "img2img", "noise probe", "soft prompt")
IN_A_ROW = (
    "cat", "lion", "tiger", "mouse", "cow", "pig", "horse", "monkey", "frog", "elephant", "owl", "eagle", "duck",
    "rooster", "dolphin", "shark", "octopus", "turtle", "snake", "bee",
)  # fmt: skip
"""Twenty animals that are erased one after the other, and those of their kind that are not."""
CANARY, FAR = ("dog", "rabbit", "crab", "butterfly"), ("pizza", "castle", "guitar", "rocket")
TYPED = "\n".join([*CANARY[:2], *RANDOM[:6]])
"""What is preserved in each of them."""
WAYS = {"typed": TYPED, "nothing typed": ""}
PARTS = ("scores", "openings", "strengths", "kinds", "drift", "probes", "sequence", "at_once")
IN_A_ROW_PARTS = ("sequence", "at_once")
"""Of the first concept's cell only."""
BY_PROMPTS = ("scores", "strengths")
"""All that is measured of SPM, which acts as much as the prompt says: the other parts draw from conditionings."""
UNPROMPTED = 48
SAID = (*NEAR, *MORE, *STYLES)
"""Whose prompts a text gate is asked for, beside those of what is erased."""


def make(world: Drawn, method: str, names: Sequence[str], typed: str, seed: int) -> tuple[Erasure, float]:
    """The erasure, and the seconds of the core that making it took."""
    how = METHODS[method]
    if isinstance(how, Settings):
        how = with_sampling(with_pictures(world.model, how, PICTURE, PICTURE))
    with torch.inference_mode():
        return made(world, how, "\n".join(names), typed, seed)


class Bench:
    """What is measured of an edited model; the unedited one's figures are measured the same way."""

    def __init__(self, world: Drawn) -> None:
        self.world, self.before = world, list[tuple[str, str]]()
        self.trained: dict[str, dict[str, Erasure]] = {}
        """Those of twenty in a row, by method and name."""

    def scores(self, model, concept: str) -> dict:
        wanted = self.world.shots(concept)
        drawn = model.draw(wanted, STEPS) if isinstance(model, Gated) else self.world.draw(model, wanted, STEPS)
        return self.world.scored(drawn, wanted)

    def edited(self, method: str, erasure: Erasure, names: Sequence[str], strength: float = 1.0):
        """The model with an erasure on it, which acts by the prompt where the method says so."""
        if isinstance(METHODS[method], Spm):
            return Gated(self.world, erasure, names, strength)
        return attach.erase(self.world.model, erasure, strength)

    def strengths(self, method: str, erasure: Erasure, concept: str) -> dict:
        """The scores at every strength of a sweep, for methods to be compared where they erase the same share."""
        names = erased(concept).names
        return {
            str(strength): self.scores(self.edited(method, erasure, names, strength), concept)
            for strength in matched.STRENGTHS
        }

    def openings(self, erasure: Erasure, concept: str) -> dict[str, int]:
        """For how many prompts a text gate opens that say nothing of the concept, and for how many it stays
        closed that say it, of how many."""
        labels = dict.fromkeys((*SAID, *erased(concept).names))
        texts = dict.fromkeys(shot.text for name in labels for shot in self.world.shots_of(name, COUNT))
        own = {text: any(is_said(name, text) for name in erased(concept).names) for text in texts}
        rows = torch.stack(self.world.encoder.rows(list(own)))
        gates = [part.gate for part in erasure.of(PromptTensors) if part.gate is not None]
        opened = torch.stack([is_open(rows, gate) for gate in gates]).any(0).tolist()
        pairs = list(zip(own.values(), opened, strict=True))
        return {
            "opened": pairs.count((False, True)), "others": sum(not is_own for is_own, _ in pairs),
            "missed": pairs.count((True, False)), "own": sum(is_own for is_own, _ in pairs),
        }  # fmt: skip

    def kinds(self, model, concept: str) -> dict:
        """Shares by kind of prompt; of subjects only, which have other names and descriptions."""
        if concept not in BY_NAME:
            return {}
        near = erased(concept).near[:3]
        plurals = {name: BY_NAME[name].plural for name in (concept, *near[:1])}
        kind = BY_NAME[concept].kind
        requests = [*asked_for(wording(concept), "a {}"), *composed(concept, near), *counted(concept, plurals)]
        requests += [Request("superclass", form.format(article(kind)), (kind,)) for form in ("{}", "a drawing of {}")]
        found = by_kind(model, self.world.encoder, self.world.vae, requests, HOW, self.world.sees)
        return {kind: {side: share.value for side, share in sides.items()} for kind, sides in found.items()}

    def drift(self, model, concept: str) -> dict:
        """How far pictures of the empty prompt have moved, in kinds of things and in hands."""
        if not self.before:
            self.before = self.world.unprompted(self.world.model, UNPROMPTED, STEPS)
        after = self.world.unprompted(model, UNPROMPTED, STEPS)
        return {
            name: drift([one[i] for one in self.before], [one[i] for one in after])
            for i, name in enumerate(("kind", "hand"))
        }

    def probes(self, model, concept: str) -> dict:
        """Shares of pictures with the concept back, beside the control's, and curves."""
        names = list(erased(concept).names)
        asked = Concept(names, among=[*names, *erased(concept).near])
        world = self.world
        report = stress(world.model, model, world.clip, world.vae, asked, PROBING, PROBES, judge=world)
        found = {}
        for trial in report.trials:
            sides = {"before": trial.before, "after": trial.after, "control": trial.control}
            found[trial.attack] = {side: share and share.value for side, share in sides.items()}
            if len(trial.each) > 1:
                found[trial.attack]["curve"] = [three[1].value for three in trial.each if three[1]]
        return found

    def without(self, model, names: Sequence[str], typed: str, method: str):
        """The model without what one node would be told to erase. A closed form is solved on the model that comes in;
        what is trained was trained on the unedited one, as files are that people share."""
        how = METHODS[method]
        if isinstance(how, Instant):
            erasure = instant.erase_instantly(model, self.world.clip, "\n".join(names), typed, how)
        else:
            erasure, _ = make(self.world, method, names, typed, 0)
            if len(names) == 1:
                self.trained.setdefault(method, {})[names[0]] = erasure
        return attach.erase(model, erasure)

    def shown(self, model, name: str) -> list[bool]:
        """Whether each of six pictures shows a subject."""
        wanted = self.world.shots_of(name, 6)
        ranks = self.world.judge.ranks(self.world.draw(model, wanted, STEPS), [name] * len(wanted))
        return [rank == 0 for rank in ranks]

    def at_once(self, method: str) -> dict:
        """The same twenty animals as lines of one node, with what is typed in a row and with nothing typed; and those
        that were trained one by one, solved jointly."""
        base, found = self.world.model, {}
        models = {way: self.without(base, IN_A_ROW, typed, method) for way, typed in WAYS.items()}
        if method in self.trained:
            solved = jointly.solve_jointly(base, self.world.clip, list(self.trained[method].values()))
            models["solved jointly"] = attach.erase(base, solved)
        for way, model in models.items():
            some = {"esr1": IN_A_ROW, "psr1": (*CANARY, *FAR)}
            seen = {key: mean([right for name in names for right in self.shown(model, name)]) for key, names in
                    some.items()}  # fmt: skip
            found[way] = {"esr1": 1 - seen["esr1"], "psr1": seen["psr1"]}
        return found

    def sequence(self, method: str) -> dict:
        """Twenty animals in a row, each by an erasure of its own on top of the others."""

        def erase(model, name: str):
            return self.without(model, [name], TYPED, method)

        stages = sequence(self.world.model, IN_A_ROW, erase, self.shown, CANARY, FAR, (5, 10))
        last = stages[-1]
        return {
            "esr1": last.gone.value, "psr1": mean([last.canary.value, last.far.value]), "relapse": last.relapsed.value,
            "stages": [{name: getattr(stage, name).value for name in ("gone", "relapsed", "canary", "far")} for stage in
                       stages],
        }  # fmt: skip


def is_of(method: str, part: str) -> bool:
    """Whether a part is measured of a method; the unedited model's probes are in each cell of probes."""
    if method == "unedited":
        return part not in ("strengths", "probes", "openings", *IN_A_ROW_PARTS)
    if part == "openings":
        return has_gate(METHODS[method])
    return not isinstance(METHODS[method], Spm) or part in BY_PROMPTS


def has_gate(how) -> bool:
    """Whether a method makes a text gate."""
    if isinstance(how, Settings):
        return how.gate and bool(LEARNED[how.method].role)
    return isinstance(how, Instant) and how.gated


def measure(bench: Bench, method: str, concept: str, seed: int, parts: Sequence[str], cell: dict) -> None:
    """Measures what a cell lacks of some parts."""
    missing = [part for part in parts if part not in (*IN_A_ROW_PARTS, *cell) and is_of(method, part)]
    if not missing:
        return
    if method == "unedited":
        model, key, erasure = bench.world.model, None, None
    else:
        what = erased(concept)
        erasure, seconds = make(bench.world, method, what.names, what.typed, seed)
        model = bench.edited(method, erasure, what.names)
        cell |= {"seconds": round(seconds, 2), "bytes": erasure.bytes()}
        key = erasure if erasure.key else None
    for part in missing:
        if part == "strengths":
            cell[part] = bench.strengths(method, erasure, concept)
        elif part == "openings":
            cell[part] = bench.openings(erasure, concept)
        else:
            cell[part] = getattr(bench, part)(model, concept)
    if key and "recovery" not in cell:
        cell["recovery"] = 1 - bench.scores(attach.recover(model, key), concept)["esr1"]


# ---------------------------------------------------------------- rows


def rows(cells: Mapping[str, dict]) -> Iterator[dict]:
    """One row a method, of means over its cells."""
    for method in dict.fromkeys(name.split(" | ")[0] for name in cells):
        own = {tuple(name.split(" | ")[1:]): cell for name, cell in cells.items() if name.split(" | ")[0] == method}
        scored = {place: cell for place, cell in own.items() if "scores" in cell}
        singles = {place: cell for place, cell in scored.items() if place[0] in CONCEPTS}
        more = [cell["scores"] for place, cell in scored.items() if place not in singles]
        row: dict = {"method": method}
        for kind in ("objects", "styles", "theme"):
            some = [cell["scores"] for (concept, _), cell in singles.items() if erased(concept).kind == kind]
            row[kind] = {
                key: rounded(some, key) for key in ("esr1", "psr1_near", "psr1_random", "kept_attributes", "leaked")
            }
        if more:
            row["more_objects"] = {key: rounded(more, key) for key in ("esr1", "psr1_near", "psr1_random")}
            row["more_objects"]["concepts"] = len(more)
        kinds = [cell["kinds"] for cell in own.values() if cell.get("kinds")]
        row["implicit"] = {"shown": opposite(shares(kinds, "implicit", "gone"))}
        row["other_name"] = {"shown": opposite(shares(kinds, "other name", "gone"))}
        row["superclass"] = {"shown": shares(kinds, "superclass", "shown")}
        moved = [cell["drift"] for cell in own.values() if "drift" in cell]
        row["drift"] = {name: rounded(moved, name) for name in ("kind", "hand")}
        row["composition"] = {
            kind: {side: value for side in ("gone", "shown") if (value := shares(kinds, kind, side)) is not None}
            for kind in dict.fromkeys(kind for one in kinds for kind in one) if kind in COMPOSED
        }  # fmt: skip
        probes = [cell["probes"] for cell in own.values() if "probes" in cell]
        for name in PROBES:
            some = [probe[name] for probe in probes if name in probe]
            row[name.replace(" ", "_")] = rounded(some, "after")
        curves = [probe["completion"]["curve"] for probe in probes if "curve" in probe.get("completion", {})]
        row["completion"] = [round(mean(points), 4) for points in zip(*curves, strict=True)]
        gates = [cell["openings"] for cell in singles.values() if "openings" in cell]
        row["openings"] = {key: sum(gate[key] for gate in gates) for key in gates[0]} if gates else None
        row["sequence20"] = next((cell["sequence"] for cell in own.values() if "sequence" in cell), None)
        row["at_once"] = next((cell["at_once"] for cell in own.values() if "at_once" in cell), None)
        row |= {key: rounded([cell for cell in singles.values() if key in cell], key) for key in
                ("recovery", "seconds", "bytes")}  # fmt: skip
        esr = [cell["scores"]["esr1"] for cell in singles.values()]
        row["interval"] = [round(end, 4) for end in wilson(sum(esr) * COUNT, len(esr) * COUNT)]
        row |= {"concepts": list(dict.fromkeys(concept for concept, _ in singles)), "cells": len(singles)}
        yield row


COMPOSED = (
    "two subjects", "left of", "right of", "number", "two subjects, one erased", "left of, one erased",
    "right of, one erased", "number, one erased",
)  # fmt: skip


def rounded(cells: Sequence[Mapping], key: str) -> float | None:
    values = [cell[key] for cell in cells if cell.get(key) is not None]
    return round(mean(values), 4) if values else None


def shares(kinds: Sequence[Mapping], kind: str, side: str) -> float | None:
    return rounded([one[kind] for one in kinds if kind in one], side)


def opposite(share: float | None) -> float | None:
    return None if share is None else round(1 - share, 4)


def write(cells: Mapping[str, dict], file: Path, commits: Sequence[str]) -> None:
    table = list(rows(cells))
    base = next((row for row in table if row["method"] == "unedited"), {})
    found = {
        "base": base, "rows": [row for row in table if row is not base],
        "instead": json.loads(INSTEAD.read_text())["instead"] if INSTEAD.exists() else [],
        "matched": list(matched.rows(cells)), "concepts": list(dict.fromkeys(name.split(" | ")[1] for name in cells)),
        "seeds": sorted({int(name.split(" | ")[2]) for name in cells}), "pictures": 3 * COUNT, "steps": STEPS,
        "commits": list(commits), "cells": cells,
    }  # fmt: skip
    file.write_text(json.dumps(found, indent=1) + "\n")
    if file == FILE and base:
        drawn_tables.write(found)
        drawn_plots.write(found)


def wanted(methods: Sequence[str], concepts: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, str, int]]:
    """Cells in their order: what is measured of every method first, then the next concept; closed forms once."""
    yield from (("unedited", concept, 0) for concept in concepts)
    for seed, concept, method in product(seeds, concepts, methods):
        is_closed = isinstance(METHODS[method], Instant)
        if is_closed and seed == seeds[0]:
            yield method, concept, 0
        elif not is_closed and concept in CONCEPTS:
            yield method, concept, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["UCE", "recommended"])
    parser.add_argument("--concepts", nargs="+", choices=[*CONCEPTS, *MORE], default=CONCEPTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--checkpoint", type=Path, help="another than the world's own")
    parser.add_argument("--file", type=Path, default=FILE)
    options = parser.parse_args()
    bench = Bench(Drawn(options.checkpoint) if options.checkpoint else Drawn())
    known = json.loads(options.file.read_text()) if options.file.exists() else {"cells": {}}
    cells, commits = known["cells"], sorted({*known.get("commits", ()), commit()})
    todo = list(wanted(options.methods, options.concepts, options.seeds))
    run(bench, todo, options, cells, lambda: write(cells, options.file, commits))


def run(bench: Bench, todo: Sequence[tuple], options, cells: dict, report: Callable[[], None]) -> None:
    took: dict[str, float] = {}
    for i, (method, concept, seed) in enumerate(todo):
        started = time.perf_counter()
        cell = cells.setdefault(f"{method} | {concept} | {seed}", {})
        with torch.inference_mode():
            measure(bench, method, concept, seed, options.parts, cell)
            is_first = (concept, seed) == (CONCEPTS[0], 0)
            for part in IN_A_ROW_PARTS:
                if part in options.parts and is_first and is_of(method, part) and part not in cell:
                    cell[part] = getattr(bench, part)(method)
        report()
        took[method] = time.perf_counter() - started
        left = sum(took.get(name, mean(list(took.values()))) for name, *_ in todo[i + 1 :])
        print(f"{method} | {concept} | {seed}: {cell.get('scores')} {left / 60:.0f} minutes left", flush=True)


if __name__ == "__main__":
    main()
