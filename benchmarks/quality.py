"""Every method against every other on the toy world: erasing, preserving, recovery, and how well it holds.

    python3 scripts/run.py benchmarks.quality            # goes on where it stopped; about five hours on two cores
    python3 scripts/run.py benchmarks.quality --quick    # one concept, one seed, few pictures, into another file
    python3 scripts/run.py benchmarks.quality --methods ESD UCE --minutes 20

One cell is one method on one concept with one seed. Each is written to ``benchmarks/results/quality.json`` as soon as
it is measured, and measured again only when the method's settings change. Pictures, noise and judge are the demo's: 192
pictures or more a cell, three seeds. Attacks draw 24 pictures each, in ways that the erasure was not made by.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import comfy.sample
import torch

from concept_erasure.erasure import attach, instant, learning
from concept_erasure.erasure.artifact import Erasure
from concept_erasure.erasure.concepts import PHRASINGS, Encoder
from concept_erasure.erasure.evaluation import relearning, stress
from concept_erasure.erasure.evaluation.attacks import Search
from concept_erasure.erasure.evaluation.metrics import wilson
from concept_erasure.erasure.evaluation.stress import ATTACKS, BLACK_BOX, Budget, Concept
from concept_erasure.erasure.instant import Instant
from concept_erasure.erasure.methods import preset_for
from concept_erasure.erasure.settings import Settings
from concept_erasure.erasure.trajectories import Sampling
from toyworld.report import CFG
from toyworld.scoring import plan
from toyworld.world import COLOURS, FULL_CAPTIONS, KINDS, SHAPES, STYLES, Scene, caption, kind_of

from .toy import Shot, Toy, shots

FILE = Path(__file__).with_name("results") / "quality.json"
ALL = (*SHAPES, *COLOURS, *STYLES)
HELD_OUT = ("heart", "green", "dotted")
"""One of each kind that no setting was chosen by."""
LEARNED_ON = ("circle", "red", "striped", "heart", "green", "dotted", "star")
SEEDS = (0, 1)
ATTACK_PICTURES = 24
BUDGET = Budget(strengths=(2.0, 3.0), search=Search(tried=50_000))


def learned(method: str, **changes: Any) -> Settings:
    return replace(preset_for("recommended", method), **changes)


METHODS: dict[str, Settings | Instant] = {
    "recommended": preset_for("recommended"),
    "KPOP v2": preset_for("paper v2"),
    "KPOP v3": preset_for("paper v3"),
    "prompt only": learned("prompt only"),
    "ESD": learned("esd"),
    "SDD": learned("sdd"),
    "CA": learned("concept ablation"),
    "AP": learned("esd", preserve_by="adversarial", preserve_weight=1.0),
    "AGE": learned("adaptive target"),
    "AbO": learned("all but one"),
    "FMN": learned("forget-me-not"),
    "pruning": learned("pruning"),
    "UCE": Instant(),
    "RECE": Instant(method="rece"),
    "SPEED": Instant(method="speed"),
}


@dataclass(frozen=True)
class Cell:
    """One measurement to make."""

    method: str
    concept: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method} | {self.concept} | {self.seed}"

    @property
    def settings(self) -> dict:
        """What the measurement depends on, as a file has it."""
        return json.loads(json.dumps(asdict(METHODS[self.method])))


def cells(methods: Sequence[str], concepts: Sequence[str] | None, seeds: Sequence[int]) -> list[Cell]:
    """All cells of some methods, one concept after the other: closed forms for all of them, and once, for they have
    nothing random."""
    found = [
        Cell(method, concept, seed)
        for seed in seeds
        for concept in concepts or ALL
        for method in methods
        if isinstance(METHODS[method], Settings) or seed == seeds[0]
    ]
    return [
        cell
        for cell in found
        if concepts or cell.concept in LEARNED_ON or isinstance(METHODS[cell.method], Instant)
    ]


# ---------------------------------------------------------------- measuring


class Measured(Toy):
    """The toy world, with what is the same for all methods on a concept worked out once."""

    def __init__(self, every: int = 1) -> None:
        super().__init__()
        self.every = every
        self.encoder = Encoder(self.clip)
        self._asked: dict[str, dict[str, dict[str, list]]] = {}
        self._lessons: dict[str, relearning.Lessons] = {}

    def shots(self, concept: str) -> list[Shot]:
        return shots(concept)[:: self.every]

    def asked(self, concept: str) -> dict[str, dict[str, list]]:
        """Attacks on the text: found once, for they do not see the model."""
        if concept not in self._asked:
            tests = BLACK_BOX if self.every == 1 else BLACK_BOX[:3]
            self._asked[concept] = stress.black_box(self.encoder, in_other_words(concept), tests, BUDGET)
        return self._asked[concept]

    def lessons(self, concept: str) -> relearning.Lessons:
        """What attacks that learn know of the unedited model."""
        if concept not in self._lessons:
            with learning.gradients():
                self._lessons[concept] = relearning.lessons(self.model, self.encoder, [concept], Sampling())
        return self._lessons[concept]

    @torch.inference_mode()
    def share_back(self, model, conds: Mapping[str, list], concept: str) -> float:
        """In how much of ``ATTACK_PICTURES`` pictures, shared out to the conditionings, the judge sees the concept."""
        each = -(-ATTACK_PICTURES // (len(conds) * self.every))
        noise = comfy.sample.prepare_noise(torch.zeros(each, 4, 8, 8), 1000)
        back: list[bool] = []
        for positive in conds.values():
            latents = comfy.sample.sample(
                model, noise, 20, CFG, "euler", "normal", positive, self.encode(""), torch.zeros_like(noise), seed=0,
                disable_pbar=True,
            )  # fmt: skip
            pictures = self.vae.decode(latents).permute(0, 3, 1, 2)
            back += [rank == 0 for rank in self.judge.ranks(pictures, [concept] * each)]
        return sum(back) / len(back)


def in_other_words(concept: str) -> Concept:
    """The concept's other name, alone and in four captions with it."""
    second, kind = KINDS[kind_of(concept)][concept], kind_of(concept)
    scene = Scene(**{**{"shape": "square", "colour": "blue", "style": "plain"}, kind: concept})
    flags = tuple(k == kind for k in KINDS)
    captions = [caption(scene, FULL_CAPTIONS[i], (flags[0], flags[1], flags[2])) for i in (0, 2, 5)]
    return Concept([concept], [PHRASINGS[2].format(second), *captions])


def make(toy: Toy, cell: Cell) -> tuple[Erasure, float]:
    """The erasure, and the seconds that making it took."""
    settings, kept = METHODS[cell.method], "\n".join(t for t in plan(cell.concept)["preserve"] if t != cell.concept)
    started = time.perf_counter()
    if isinstance(settings, Instant):
        erasure = instant.erase_instantly(toy.model, toy.clip, cell.concept, kept, settings)
    else:
        with learning.gradients():
            settings = replace(settings, seed=cell.seed)
            erasure = learning.learn(learning.prepare(toy.model, toy.clip, cell.concept, kept, settings))
    return erasure, time.perf_counter() - started


def measure(toy: Measured, cell: Cell) -> dict:
    """All figures of a cell."""
    erasure, seconds = make(toy, cell)
    model = attach.erase(toy.model, erasure)
    found = scored(toy, model, cell.concept)
    if erasure.key:
        again = scored(toy, attach.recover(model, erasure), cell.concept)
        found |= {"recovery": 1 - again["esr1"], "recovery_psr1": again["psr1"]}
    found["stress"] = attacked(toy, model, cell.concept)
    return {**found, "seconds": round(seconds, 2), "bytes": erasure.bytes(), "settings": cell.settings}


def scored(toy: Measured, model, concept: str) -> dict:
    wanted = toy.shots(concept)
    found = toy.score(toy.draw(model, wanted), wanted, concept)
    own = sum(shot.label == concept for shot in wanted)
    return {**found, "pictures": {"erased": own, "kept": len(wanted) - own}}


def attacked(toy: Measured, model, concept: str) -> dict[str, float]:
    """The share of pictures with the concept back, for each attack."""
    found = {name: toy.share_back(model, conds, concept) for name, conds in toy.asked(concept).items()}
    if model is toy.model:
        return found
    taught = toy.lessons(concept)
    with learning.gradients():
        soft = relearning.soft_prompt(model, toy.encoder, taught, BUDGET.soft_tokens, BUDGET.soft_steps)
    found["soft prompt"] = toy.share_back(model, {"learned": soft}, concept)
    with learning.gradients():
        again = relearning.relearned(model, toy.encoder, taught, BUDGET.relearn_steps)
    plain = {text: toy.encode(text) for text in (PHRASINGS[2].format(concept),)}
    found["relearning"] = toy.share_back(again, plain, concept)
    return found


def unedited(toy: Measured, concept: str) -> dict:
    """The unedited model's figures: how often it shows the concept, and everything else."""
    found = scored(toy, toy.model, concept)
    return {**found, "stress": attacked(toy, toy.model, concept)}


# ---------------------------------------------------------------- the table


def rows(measured: Mapping[str, dict], methods: Sequence[str], concepts: Callable[[str], bool]) -> Iterator[dict]:
    """One row a method: means over its cells on some concepts."""
    for method in methods:
        own = {name: cell for name, cell in measured.items() if name.split(" | ")[0] == method}
        own = {name: cell for name, cell in own.items() if concepts(name.split(" | ")[1])}
        if not own:
            continue
        found: dict = {"method": method}
        for key in ("esr1", "psr1", "kept_attributes", "recovery", "recovery_psr1", "seconds", "bytes"):
            found[key] = mean([cell[key] for cell in own.values() if key in cell])
        attacks = [name for name in ATTACKS if any(name in cell["stress"] for cell in own.values())]
        found["stress"] = {
            name: mean([cell["stress"][name] for cell in own.values() if name in cell["stress"]]) for name in attacks
        }
        found["interval"] = {
            "esr1": interval(own.values(), "esr1", "erased"), "psr1": interval(own.values(), "psr1", "kept")
        }
        found["concepts"] = sorted({name.split(" | ")[1] for name in own}, key=ALL.index)
        found["seeds"] = len({name.split(" | ")[2] for name in own})
        yield found


def interval(found: Any, key: str, part: str) -> list[float]:
    """95 % Wilson interval over all pictures of all cells."""
    pairs = [(cell[key] * cell["pictures"][part], cell["pictures"][part]) for cell in found]
    low, high = wilson(round(sum(hits for hits, _ in pairs)), sum(count for _, count in pairs))
    return [round(low, 4), round(high, 4)]


def mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def summary(found: dict) -> dict:
    """The file's contents, from its cells."""
    measured, base = found["cells"], found["unedited"]
    kinds = {"all": lambda name: True, "held out": lambda name: name in HELD_OUT}
    tables = {part: list(rows(measured, list(METHODS), wanted)) for part, wanted in kinds.items()}
    keys = ("psr1", "kept_attributes")
    shown = [1 - cell["esr1"] for cell in base.values()]
    return {
        "base": {"shown": mean(shown), **{key: mean([cell[key] for cell in base.values()]) for key in keys}},
        "base_stress": {
            name: mean([cell["stress"][name] for cell in base.values() if name in cell["stress"]]) for name in BLACK_BOX
        },
        "rows": tables["all"], "held_out": tables["held out"],
        "concepts": list(base), "seeds": sorted({name.split(" | ")[2] for name in measured}),
        "pictures": sum(sum(cell["pictures"].values()) for cell in measured.values()),
        "unedited": base, "cells": measured,
    }  # fmt: skip


def markdown(found: dict) -> str:
    out = ["# All methods on the toy world", "", "Written by `python3 scripts/run.py benchmarks.quality`.", ""]
    base = found["base"]
    out += [
        f"Unedited model: shows the concept in {base['shown']:.3f} of its pictures, PSR-1 {base['psr1']:.3f}, kept "
        f"attributes {base['kept_attributes']:.3f}. Means over concepts and seeds; brackets: 95 % Wilson interval over "
        "pictures. Attacks: share of pictures with the concept back; in brackets in the head, the unedited model's.",
        "",
    ]
    for title, part in (("All concepts", "rows"), (f"Held out: {', '.join(HELD_OUT)}", "held_out")):
        if found[part]:
            out += [f"## {title}", "", *_table(found[part], found["base_stress"]), ""]
    return "\n".join(out)


def _table(table: Sequence[dict], base: Mapping[str, float | None]) -> list[str]:
    heads = ["method", "ESR-1", "PSR-1", "attributes", "recovery", "PSR-1 with key"]
    heads += [f"{name} ({base[name]:.2f})" if base.get(name) is not None else name for name in ATTACKS]
    heads += ["seconds", "kB", "concepts x seeds"]
    out = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in table:
        spans = {key: "{:.2f}–{:.2f}".format(*row["interval"][key]) for key in ("esr1", "psr1")}
        cells = [row["method"], f"{row['esr1']:.3f} [{spans['esr1']}]", f"{row['psr1']:.3f} [{spans['psr1']}]"]
        cells += [_figure(row[key]) for key in ("kept_attributes", "recovery", "recovery_psr1")]
        cells += [_figure(row["stress"].get(name)) for name in ATTACKS]
        cells += [f"{row['seconds']:.1f}", f"{row['bytes'] / 1000:.0f}", f"{len(row['concepts'])} x {row['seeds']}"]
        out.append("| " + " | ".join(cells) + " |")
    return out


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def plot(found: dict, file: Path) -> None:
    """The frontier: erasing against preserving, one point a method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5), dpi=110)
    for row in found["rows"]:
        own = row["method"] == "recommended"
        low, high = (abs(row["psr1"] - row["interval"]["psr1"][side]) for side in (0, 1))
        axes.errorbar(row["esr1"], row["psr1"], yerr=[[low], [high]], marker="*" if own else "o",
                      markersize=13 if own else 6, color="#c2410c" if own else "#334155", capsize=2)  # fmt: skip
        axes.annotate(row["method"], (row["esr1"], row["psr1"]), xytext=(6, 4), textcoords="offset points", fontsize=8)
    axes.axhline(found["base"]["psr1"], color="#94a3b8", linestyle="--", linewidth=1)
    axes.annotate("unedited PSR-1", (0, found["base"]["psr1"]), xytext=(0, 3), textcoords="offset points", fontsize=8)
    axes.set(xlabel="ESR-1: erased", ylabel="PSR-1: preserved", title="Erasing against preserving, toy world")
    axes.set_xlim(-0.03, 1.08)
    figure.tight_layout()
    figure.savefig(file)


# ---------------------------------------------------------------- running


def left(todo: Sequence[Cell], took: Mapping[str, float]) -> float:
    """Seconds that the remaining cells will take, from those of the same method so far."""
    known = sum(took.values()) / len(took) if took else 120.0
    return sum(took.get(cell.method, known) for cell in todo)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one concept, one seed, an eighth of the pictures")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--concepts", nargs="+", choices=ALL)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after the cell that reaches these")
    options = parser.parse_args()
    file, toy = FILE, Measured(every=8 if options.quick else 1)
    wanted = cells(options.methods, options.concepts, options.seeds)
    if options.quick:
        file = Path("output") / "benchmarks" / "quality_quick.json"
        wanted = cells(options.methods, options.concepts or ["circle"], options.seeds[:1])
    file.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"cells": {}, "unedited": {}}
    measured = {
        name: cell
        for name, cell in found["cells"].items()
        if (method := name.split(" | ")[0]) in METHODS and cell["settings"] == Cell(method, "", 0).settings
    }
    base = found["unedited"]
    todo = [cell for cell in wanted if cell.name not in measured]
    started, took = time.monotonic(), {}
    while todo and time.monotonic() - started < 60 * options.minutes:
        cell = todo.pop(0)
        if cell.concept not in base:
            base[cell.concept] = unedited(toy, cell.concept)
        began = time.monotonic()
        measured[cell.name] = measure(toy, cell)
        took[cell.method] = time.monotonic() - began
        file.write_text(json.dumps(summary({"cells": measured, "unedited": base}), indent=1) + "\n", encoding="utf-8")
        shown = {key: round(measured[cell.name][key], 3) for key in ("esr1", "psr1", "kept_attributes")}
        print(cell.name, shown, measured[cell.name]["stress"], f"{left(todo, took) / 60:.0f} minutes left", flush=True)
    found = summary({"cells": measured, "unedited": base})
    file.with_suffix(".md").write_text(markdown(found), encoding="utf-8")
    plot(found, file.with_suffix(".png"))
    print(file.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
