"""No false ✓: random concept lines are typed into the nodes, and what the nodes say is held against what is drawn.

    python3 scripts/run.py benchmarks.lines               # 320 lines, about half an hour on one core
    python3 scripts/run.py benchmarks.lines --lines 20    # some of them
    python3 scripts/run.py benchmarks.lines --world flux  # ten bare names, on the toy world in another architecture

Writes ``benchmarks/results/lines.json``, or ``lines_WORLD.json``: how many names have which mark, and every line whose
mark is wrong. Bare names are typed into Erase Concept and nothing else, 16 pictures of each. A ✓ is
wrong where the judge still sees the concept in more than a fifth of the pictures, or where a name names nothing here.
A ✗ is wrong where the concept is gone. A line follows from its number and the seed alone.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import comfy.sample
import torch

from concept_erasure.erasure import instant, verdict
from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.choosing import TARGETS
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.inspection import base_weights
from concept_erasure.erasure.posing import TOKENS
from concept_erasure.erasure.texts.names import plain, quoted, short
from concept_erasure.nodes.instant import ErasureInstant, ErasureText
from concept_erasure.nodes.use import ErasureApply
from toyworld.world import FULL_CAPTIONS, KINDS, Scene, caption, first_name, kind_of
from toyworld.worlds import WORLDS

from .toy import Reader, Shot, Toy

RESULTS = Path(__file__).with_name("results")
LINES, SEED = 320, 17
PICTURES, STEPS = 12, 8
BARE = ("circle", "star", "heart", "moon", "square", "red", "green", "blue", "striped", "dotted")
BARE_PICTURES = 16
STILL_SEEN, GONE = 0.2, 0.05
"""Shares of the pictures above which a concept is still drawn, and up to which it is gone."""

DECORATIONS = (
    "{}", "{}", "{}", "({})", "({}:1.3)", "(({}))", "[{}]", "{{{{{}}}}}", "- {}", "* {}", "• {}", "1. {}", "2) {}",
    '"{}"', "“{}”", "'{}'", "「{}」", "«{}»", "a {}", "the {}", "A {}.", "{}!", "{},", "  {}  ", "{}'s", "{}’s",
    "a photo of a {}", "an image of the {}", "\ufeff{}", "{}\u200b", "{}  # no more", "# note\n{}", "<lora:x:0.8> {}",
    "- ({}:0.9)", "1. \"{}\"", "{}\r\n", "\t{}",
)  # fmt: skip
STRENGTHS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)
FOREIGN = {
    "Kreis": "circle", "cercle": "circle", "círculo": "circle", "cerchio": "circle", "круг": "circle", "丸": "circle",
    "Quadrat": "square", "carré": "square", "Dreieck": "triangle", "三角": "triangle", "Stern": "star",
    "étoile": "star", "星": "star", "Kreuz": "cross", "Herz": "heart", "cœur": "heart", "corazón": "heart",
    "心": "heart",
    "Mond": "moon", "lune": "moon", "луна": "moon", "rot": "red", "rouge": "red", "赤": "red", "grün": "green",
    "vert": "green", "blau": "blue", "azul": "blue", "jaune": "yellow", "lila": "purple", "gestreift": "striped",
    "gepunktet": "dotted",
}  # fmt: skip
METHODS = ("uce", "rece", "speed", "dp")
NOTHING = ("xqzwv", "blorft", "qwertz", "gzzk", "vlompern", "zzyzx", "frumious kwop", "asdfgh")
"""Words that name nothing at all."""


@dataclass(frozen=True)
class Meaning:
    """What one name of a line means.

    ``words``: for each kind that it names, the words that prompts say for it. ``labels``: the first names that the
    judge knows them by; none for a name that means nothing. ``beside``: words for other kinds that prompts say, too.
    """

    words: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    beside: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """What is typed, into which of the nodes, and what each of its names means, in order."""

    number: int
    sort: str
    node: str
    concept: str
    inputs: dict
    meanings: tuple[Meaning, ...]


# ---------------------------------------------------------------- lines


def case(number: int, seed: int = SEED) -> Case:
    """The line of that number."""
    rng = random.Random(f"{seed} {number}")
    sorts = ("known", "strength", "arrow", "misspelled", "foreign", "two words", "list", "nothing")
    sort = rng.choices(sorts, (34, 10, 15, 9, 8, 12, 9, 3))[0]
    concept, meanings = _LINES[sort](rng)
    node, inputs = _settings(rng, meanings)
    if (context := _context(rng, meanings)) and sort in ("known", "arrow", "list"):
        meanings = tuple(Meaning(m.words, m.labels, {kind_of(context): context}) for m in meanings)
        inputs["only_in"] = context
    return Case(number, sort, node, concept, inputs, meanings)


def bare(number: int) -> Case:
    """One name and no more, as most people begin."""
    word = BARE[number]
    inputs = {"target": TARGETS[0], "anchor": "", "preserve": "", "strength": 1.0}
    return Case(number, "bare", "text", word, inputs, (_meaning(word),))


def _word(rng: random.Random, kind: str | None = None) -> str:
    """A name of the toy world, sometimes the second one."""
    kind = kind or rng.choices(list(KINDS), (5, 3, 2))[0]
    first = rng.choice(list(KINDS[kind]))
    return first if rng.random() < 0.7 else KINDS[kind][first]


def _meaning(word: str, said: str = "") -> Meaning:
    return Meaning({kind_of(word): said or word}, {kind_of(word): first_name(word)})


def _dressed(rng: random.Random, word: str) -> str:
    written = rng.choice((word, word, word, word.upper(), word.title()))
    return rng.choice(DECORATIONS).format(written)


def _known(rng: random.Random) -> tuple[str, tuple[Meaning, ...]]:
    word = _word(rng)
    return _dressed(rng, word), (_meaning(word),)


def _strength(rng: random.Random) -> tuple[str, tuple[Meaning, ...]]:
    word = _word(rng)
    return f"{word} : {rng.choice(STRENGTHS)}", (_meaning(word),)


def _arrow(rng: random.Random) -> tuple[str, tuple[Meaning, ...]]:
    word = _word(rng)
    kind = kind_of(word)
    other = rng.choice([w for w in KINDS[kind] if w != first_name(word)])
    names = (first_name(word), KINDS[kind][first_name(word)])
    colour = rng.choice(list(KINDS["colour"]))
    goals = (other, other, other, KINDS[kind][other], "", "dog", "painting", f"{colour} {other}", "qwertz",
             names[word == names[0]], f"big {word}")  # fmt: skip
    goal = rng.choice(goals)
    return f"{word} {rng.choice(('->', '→', '=>'))} {goal}", (_meaning(word),)


def _misspelled(rng: random.Random) -> tuple[str, tuple[Meaning, ...]]:
    word = _word(rng)
    i = rng.randrange(1, len(word) - 1)
    wrong = rng.choice(
        (word[:i] + word[i + 1 :], word[:i] + word[i] + word[i:], word[:i] + word[i + 1] + word[i] + word[i + 2 :],
         word.replace("c", "k", 1), f"{word}s", f"{word}es", word[:i] + rng.choice("aeiourtn") + word[i + 1 :])
    )  # fmt: skip
    return wrong, (_meaning(word),)


def _foreign(rng: random.Random) -> tuple[str, tuple[Meaning, ...]]:
    word = rng.choice(list(FOREIGN))
    return word, (_meaning(FOREIGN[word]),)


def _two_words(rng: random.Random) -> tuple[str, tuple[Meaning, ...]]:
    shape, colour, style = (_word(rng, kind) for kind in ("shape", "colour", "style"))
    pair = Meaning({"colour": colour, "shape": shape}, {"colour": first_name(colour), "shape": first_name(shape)})
    choices = (
        (f"{colour} {shape}", pair),
        (f"{shape} shape", _meaning(shape)),
        (f"{style} background", _meaning(style)),
        (f"{style} picture", _meaning(style)),
        (f"{colour} colour", _meaning(colour)),
        (f"big {shape}", _meaning(shape, f"big {shape}")),
        (f"Claude {shape}", _meaning(shape, f"Claude {shape}")),
        (f"one {colour} {shape}", pair),
    )
    line, meaning = rng.choice(choices)
    return line, (meaning,)


def _list(rng: random.Random) -> tuple[str, tuple[Meaning, ...]]:
    kind = rng.choice(["shape", "shape", "colour", None])
    words = list(dict.fromkeys(first_name(_word(rng, kind)) for _ in range(rng.choice((2, 2, 3)))))
    return rng.choice((", ", "\n", "; ", " BREAK ", "、", ",")).join(words), tuple(map(_meaning, words))


def _nothing(rng: random.Random) -> tuple[str, tuple[Meaning, ...]]:
    return rng.choice(NOTHING), (Meaning(),)


_LINES = {
    "known": _known, "strength": _strength, "arrow": _arrow, "misspelled": _misspelled, "foreign": _foreign,
    "two words": _two_words, "list": _list, "nothing": _nothing,
}  # fmt: skip


def _settings(rng: random.Random, meanings: Sequence[Meaning]) -> tuple[str, dict]:
    """Which node, and its inputs beside the concept."""
    labels = {label for meaning in meanings for label in meaning.labels.values()}
    free = [word for names in KINDS.values() for word in names if word not in labels]
    target, anchor = TARGETS[0], ""
    if rng.random() < 0.25:
        target = rng.choice(TARGETS[1:])
        anchor = rng.choice(free) if target == TARGETS[2] else ""
    preserve = rng.sample(free, rng.randint(2, 6)) if rng.random() < 0.4 else []
    if preserve and labels and rng.random() < 0.15:
        preserve.append(f"a big {min(labels)} line")
    inputs: dict = {"target": target, "anchor": anchor, "preserve": "\n".join(preserve)}
    inputs["strength"] = rng.choice(STRENGTHS) if rng.random() < 0.25 else 1.0
    if rng.random() < 0.6:
        return "text", inputs
    inputs |= {
        "method": rng.choice(METHODS), "tokens": rng.choice(TOKENS),
        "weights": rng.choice(("keys+values", "keys+values", "values")), "rank": rng.choice((0, 1, 4, 8)),
        "balance": rng.choice((0, 3)),
    }  # fmt: skip
    if rng.random() < 0.5:
        inputs |= {"erase_scale": rng.choice((0.1, 1.0, 10.0)), "preserve_scale": rng.choice((0.3, 3.0, 30.0)),
                   "ridge": rng.choice((1e-4, 1e-2, 1.0))}  # fmt: skip
    return "instant", inputs


def _context(rng: random.Random, meanings: Sequence[Meaning]) -> str:
    """A word of another kind, beside which alone the names are to be erased; mostly none."""
    taken = {kind for meaning in meanings for kind in meaning.labels}
    free = [word for kind, names in KINDS.items() if kind not in taken for word in names]
    return rng.choice(free) if free and rng.random() < 0.15 else ""


# ---------------------------------------------------------------- what the nodes say, and what is drawn


@torch.inference_mode()
def typed(toy: Toy, line: Case):
    """(MODEL, the nodes' text) of a line. Raises ErasureError."""
    inputs = dict(line.inputs)
    if line.node == "text":
        out = ErasureText.execute(toy.model, toy.clip, line.concept, **inputs)
        return out.args[0], out.ui.as_dict()["text"][0]
    strength = inputs.pop("strength")
    erasure = ErasureInstant.execute(toy.model, toy.clip, line.concept, **inputs).args[0]
    out = ErasureApply.execute(toy.model, erasure, strength=strength)
    return out.args[0], out.ui.as_dict()["text"][0]


def mark_of(name: str, text: str) -> str:
    """✗, ⚠ or ✓, as a node's text says of a name; empty where it says nothing of it.

    A doubt counts for a name that it says, or that it must mean because it says none.
    """
    doubts = [line for line in text.splitlines() if line[:1] in ("⚠", "✗")]
    for mark in "✗⚠":
        if any(line[0] == mark and (quoted([name]) in line or f"{short(plain(name))} →" in line) for line in doubts):
            return mark
    well = any(line[:1] == "✓" for line in text.splitlines())
    return "✓" if well else doubts[0][0] if doubts else ""


def shots_of(meaning: Meaning, pictures: int = PICTURES) -> list[Shot]:
    """Pictures that say what a name means; the rest of each scene and the phrasing take turns."""
    said = {**meaning.beside, **meaning.words}
    captions = FULL_CAPTIONS[: 5 if len(meaning.words) > 1 else None]  # the last one keeps colour and shape apart
    out = []
    for i in range(pictures):
        scene = {
            kind: said.get(kind) or list(names)[(5 * i + i // 3 + 2) % len(names)] for kind, names in KINDS.items()
        }
        text = caption(Scene(**scene), captions[i % len(captions)])
        noise = comfy.sample.prepare_noise(torch.zeros(1, 4, 8, 8), 100 + i)[0]
        out.append(Shot(text, "", meaning.labels, noise))
    return out


def seen(toy: Toy, model, meaning: Meaning, pictures: int = PICTURES, steps: int = STEPS) -> float:
    """Share of the pictures for a name in which the judge sees what it means."""
    drawn = toy.draw(model, shots_of(meaning, pictures), steps)
    ranks = [toy.judge.ranks(drawn, [label] * pictures) for label in meaning.labels.values()]
    return sum(not any(places) for places in zip(*ranks, strict=True)) / pictures


def shares(toy: Toy, model) -> dict[str, float]:
    """How far each name of the last erasure on a MODEL moved, without what is said of it."""
    one = attach.applied(model)[-1]
    with torch.inference_mode(False), torch.no_grad():
        weights = base_weights(toy.model, one.erasure)
        move = verdict.movement(weights, one.erasure.delta, one.erasure.probes, one.strength)
    return {name: round(share, 3) for name, share in move.concepts.items()}


@dataclass(frozen=True)
class Outcome:
    """What a node said of one name, and how often the concept is still seen; None where there is nothing to see."""

    mark: str
    seen: float | None

    @property
    def fault(self) -> str:
        """What is wrong with the mark; empty for nothing."""
        if self.mark == "✓" and (self.seen is None or self.seen > STILL_SEEN):
            return "false ✓"
        return "false ✗" if self.mark == "✗" and self.seen is not None and self.seen <= GONE else ""


def outcome(toy: Toy, model, meaning: Meaning, mark: str, pictures: int, steps: int) -> Outcome:
    """What became of a name; a mark that looks wrong is held against four times as many pictures."""
    if not meaning.labels:
        return Outcome(mark, None)
    first = Outcome(mark, seen(toy, model, meaning, pictures, steps))
    return Outcome(mark, seen(toy, model, meaning, 4 * pictures, steps)) if first.fault else first


def run(toy: Toy, line: Case, pictures: int = PICTURES, steps: int = STEPS) -> dict:
    """What became of a line: its outcomes, and enough to see why."""
    about = {k: v for k, v in asdict(line).items() if k != "meanings"} | {"means": [m.labels for m in line.meanings]}
    try:
        model, text = typed(toy, line)
    except ErasureError as error:
        return {**about, "refused": str(error), "outcomes": [], "faults": []}
    names = attach.applied(model)[-1].erasure.names
    names = names if len(names) == len(line.meanings) else [" ".join(names)] * len(line.meanings)
    outcomes = [
        outcome(toy, model, meaning, mark_of(name, text), pictures, steps)
        for name, meaning in zip(names, line.meanings, strict=True)
    ]
    faults = [one.fault for one in outcomes if one.fault]
    said = {"text": text, "shares": shares(toy, model), "outcomes": list(map(asdict, outcomes))}
    return {**about, **said, "faults": faults}


def summary(found: Iterable[dict]) -> dict:
    """Counts of lines and marks, and the lines whose mark is wrong."""
    rows = list(found)
    outcomes = [(row["sort"], outcome) for row in rows for outcome in row["outcomes"]]

    def level(share: float | None) -> str:
        if share is None:
            return "means nothing"
        return "still seen" if share > STILL_SEEN else "gone" if share <= GONE else "seldom seen"

    marks = Counter(f"{o['mark'] or 'nothing said'} {level(o['seen'])}" for _, o in outcomes)
    return {
        "lines": len(rows),
        "names": len(outcomes),
        "refused": sum("refused" in row for row in rows),
        "marks": dict(sorted(marks.items())),
        "sorts": dict(Counter(row["sort"] for row in rows)),
        "false ✓": sum(row["faults"].count("false ✓") for row in rows),
        "false ✗": sum(row["faults"].count("false ✗") for row in rows),
        "offenders": [row for row in rows if row["faults"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=LINES, help="so many lines, from the first")
    parser.add_argument("--numbers", type=int, nargs="+", help="these lines only; nothing is written")
    parser.add_argument("--all", metavar="FILE", help="write every line to a file, too")
    parser.add_argument("--world", choices=[name for name in WORLDS if name != "unet"], help="bare names on that one")
    options = parser.parse_args()
    toy, rows, began = Toy(WORLDS[options.world or "unet"]), [], time.monotonic()
    one, pictures, count = (bare, BARE_PICTURES, len(BARE)) if options.world else (case, PICTURES, options.lines)
    if not options.world:
        reader = Reader(toy.clip)
        instant.Encoder = lambda *_: reader  # every line reads much the same texts
    for number in options.numbers or range(count):
        rows.append(run(toy, one(number), pictures))
        row = rows[-1]
        marks = [(o["mark"], o["seen"]) for o in row["outcomes"]] or row.get("refused")
        print(number, row["sort"], repr(row["concept"]), marks, *row["faults"], flush=True)
        if options.all:
            Path(options.all).write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    found = summary(rows)
    found |= {"seed": SEED, "pictures": pictures, "steps": STEPS, "seconds": round(time.monotonic() - began)}
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    if not options.numbers:
        RESULTS.mkdir(exist_ok=True)
        name = f"lines_{options.world}.json" if options.world else "lines.json"
        (RESULTS / name).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
