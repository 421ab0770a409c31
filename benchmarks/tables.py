"""Tables and plots of measured cells: one row a method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from concept_erasure.erasure.evaluation.metrics import wilson
from concept_erasure.erasure.evaluation.stress import ATTACKS
from toyworld.world import COLOURS, SHAPES, STYLES

ALL = (*SHAPES, *COLOURS, *STYLES)
FIGURES = (
    "esr1", "psr1", "kept_attributes", "recovery", "recovery_psr1", "ssim", "psnr", "seconds", "bytes"
)  # fmt: skip
OWN = "recommended"
"""The row that plots point out."""


def rows(
    measured: Mapping[str, dict], methods: Sequence[str], wanted: Callable[[str], bool] = lambda concept: True
) -> Iterator[dict]:
    """One row a method: means over its cells on wanted concepts."""
    for method in methods:
        own = {tuple(name.split(" | ")[1:]): cell for name, cell in measured.items() if name.split(" | ")[0] == method}
        own = {place: cell for place, cell in own.items() if wanted(place[0])}
        if not own:
            continue
        found: dict = {"method": method}
        found |= {key: mean([cell[key] for cell in own.values() if key in cell]) for key in FIGURES}
        found["stress"] = {name: mean(_of_attack(own.values(), name)) for name in ATTACKS}
        found["stress"] = {name: share for name, share in found["stress"].items() if share is not None}
        found["interval"] = {
            "esr1": interval(own.values(), "esr1", "erased"), "psr1": interval(own.values(), "psr1", "kept")
        }  # fmt: skip
        found["range"] = {key: ends([cell[key] for cell in own.values()]) for key in ("esr1", "psr1")}
        found["concepts"] = sorted({concept for concept, _ in own}, key=ALL.index)
        found["seeds"] = len({seed for _, seed in own})
        found["cells"] = len(own)
        yield found


def base_row(unedited: Mapping[str, dict], concepts: Iterable[str]) -> dict:
    """The unedited model's figures on some concepts; ``shown``: how often it shows the concept that is asked for."""
    own = [unedited[concept] for concept in concepts if concept in unedited]
    return {
        "shown": mean([1 - cell["esr1"] for cell in own]),
        **{key: mean([cell[key] for cell in own]) for key in ("psr1", "kept_attributes")},
        "stress": {name: mean(_of_attack(own, name)) for name in ATTACKS},
    }


def _of_attack(cells: Iterable[dict], attack: str) -> list[float]:
    return [cell["stress"][attack] for cell in cells if attack in cell["stress"]]


def interval(found: Iterable[dict], key: str, part: str) -> list[float]:
    """95 % Wilson interval of the mean over cells, which weigh the same whatever their number of pictures."""
    pairs = [(cell[key], cell["pictures"][part]) for cell in found]
    share = sum(value for value, _ in pairs) / len(pairs)
    count = len(pairs) ** 2 / sum(1 / pictures for _, pictures in pairs)
    return [round(end, 4) for end in wilson(share * count, count)]


def ends(values: Sequence[float]) -> list[float]:
    """The lowest and the highest."""
    return [round(min(values), 4), round(max(values), 4)]


def mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


FRONT = ("esr1", "psr1", "kept_attributes")
"""Erasing, and both halves of preserving: other prompts, and what else an erased concept's prompt asked for."""


def ahead(table: Sequence[dict]) -> list[str]:
    """The methods that no other is ahead of: as good on all of ``FRONT``, and better on one."""
    points = {row["method"]: [row[key] for key in FRONT] for row in table}

    def beats(one: list[float], other: list[float]) -> bool:
        return one != other and all(a >= b for a, b in zip(one, other, strict=True))

    return [name for name, own in points.items() if not any(beats(other, own) for other in points.values())]


# ---------------------------------------------------------------- markdown


def measured_attacks(found: Sequence[dict]) -> list[str]:
    """The attacks that some row has a figure for."""
    return [attack for attack in ATTACKS if any(row["stress"].get(attack) is not None for row in found)]


def table(found: Sequence[dict], base: dict) -> list[str]:
    """The lines of a table; in its head the unedited model's share of each attack."""
    asked, shares = measured_attacks(found), base["stress"]
    heads = ["method", "ESR-1", "PSR-1", "attributes", "recovery", "PSR-1 with key"]
    heads += [name if shares.get(name) is None else f"{name} ({shares[name]:.2f})" for name in asked]
    heads += ["SSIM", "PSNR", "seconds", "kB", "concepts × seeds"]
    out = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    front = ahead(found)
    for row in found:
        name = f"**{row['method']}**" if row["method"] in front else row["method"]
        cells = [name, *(_with_interval(row, key) for key in ("esr1", "psr1"))]
        cells += [_figure(row[key]) for key in ("kept_attributes", "recovery", "recovery_psr1")]
        cells += [_figure(row["stress"].get(attack)) for attack in asked]
        cells += [_figure(row["ssim"]), _figure(row["psnr"], 1), f"{row['seconds']:.1f}", f"{row['bytes'] / 1000:.0f}"]
        out.append("| " + " | ".join([*cells, f"{len(row['concepts'])} × {row['seeds']}"]) + " |")
    return out


def short(found: Sequence[dict], base: dict) -> list[str]:
    """The lines of the table of docs/measured.md: fewer columns, shorter figures."""
    asked = measured_attacks(found)
    heads = ["method", "ESR-1", "PSR-1", "attributes", "with key", *asked, "seconds", "kB", "cells"]
    out = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    shares = (base["shown"], *(base["stress"].get(attack) for attack in asked))
    shown = ["–" if share is None else f"*{_brief(share)}*" for share in shares]
    own = ["*unedited*", "–", _brief(base["psr1"], 3), _brief(base["kept_attributes"]), *shown, "–", "–", "–"]
    out.append("| " + " | ".join(own) + " |")
    front = ahead(found)
    for row in found:
        cells = [f"**{row['method']}**" if row["method"] in front else row["method"]]
        cells += [_brief(row[key], 3) for key in ("esr1", "psr1")]
        cells += [_brief(row[key]) for key in ("kept_attributes", "recovery")]
        cells += [_brief(row["stress"].get(attack)) for attack in asked]
        cells += [
            f"{row['seconds']:.{0 if row['seconds'] >= 1 else 1}f}",
            f"{row['bytes'] / 1000:.0f}",
            str(row["cells"]),
        ]
        out.append("| " + " | ".join(cells) + " |")
    return out


def _brief(value: float | None, places: int = 2) -> str:
    return _figure(value, places).removeprefix("0")


def _with_interval(row: dict, key: str) -> str:
    low, high = row["interval"][key]
    least, most = (_brief(end) for end in row["range"][key])
    return f"{row[key]:.3f} [{low:.2f}, {high:.2f}], {least}–{most}"


def _figure(value: float | None, places: int = 2) -> str:
    return "–" if value is None else f"{value:.{places}f}"


# ---------------------------------------------------------------- plots


def plot(found: Sequence[dict], base: dict, title: str, file: Path) -> None:
    """The frontier: preserving over erasing, one point a method; on the right its best corner, larger."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.8), dpi=110)
    corner = [row for row in found if min(row["esr1"], row["psr1"]) >= 0.9]
    others = [row for row in found if row not in corner]
    bottom = min([0.9, *(row["psr1"] for row in found)])
    panels[0].set(xlim=(-0.05, 1.05), ylim=(bottom - 0.05, 1.04), title=title)
    low = min([0.98, *(row[key] - 0.01 for row in corner for key in ("esr1", "psr1"))])
    edge = (low, 1 + (1 - low) / 10)
    panels[1].set(xlim=edge, ylim=edge, title="its best corner; dashed: unedited PSR-1")
    for axes, named, shown in zip(panels, (others, corner), (found, corner), strict=True):
        axes.set(xlabel="ESR-1: erased", ylabel="PSR-1: preserved")
        axes.axhline(base["psr1"], color="#94a3b8", linestyle="--", linewidth=1)
        for row in shown:
            _point(axes, row)
        _label(axes, named, shown)
    figure.tight_layout()
    figure.savefig(file)


def _point(axes, row: dict) -> None:
    own = row["method"] == OWN
    ends = {key: [[abs(row[key] - end)] for end in row["interval"][key]] for key in ("esr1", "psr1")}
    axes.errorbar(
        row["esr1"], row["psr1"], xerr=ends["esr1"], yerr=ends["psr1"], fmt="none", ecolor="#b6c2d1", linewidth=0.8,
        zorder=1,
    )  # fmt: skip
    # above the names, which are above the intervals
    axes.plot(
        row["esr1"], row["psr1"], marker="*" if own else "o", markersize=14 if own else 5,
        color="#c2410c" if own else "#334155", zorder=5 if own else 4,
    )  # fmt: skip


def _label(axes, named: Sequence[dict], shown: Sequence[dict]) -> None:
    """Names near their points, clear of each other and of all points."""
    from adjustText import adjust_text
    from matplotlib.patheffects import withStroke

    together: dict[tuple[float, float], list[str]] = {}
    for row in named:
        together.setdefault((round(row["esr1"], 3), round(row["psr1"], 3)), []).append(row["method"])
    texts = [
        axes.text(
            x, y, "; ".join(names) if len(names) < 3 else f"{names[0]}; {len(names) - 1} more", fontsize=8,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
        for (x, y), names in together.items()
    ]  # fmt: skip
    adjust_text(
        texts, [row["esr1"] for row in shown], [row["psr1"] for row in shown], ax=axes, iter_lim=500,
        expand=(1.15, 1.4), arrowprops={"arrowstyle": "-", "color": "#94a3b8", "linewidth": 0.6},
    )  # fmt: skip


def put(text: str, marks: tuple[str, str], lines: Sequence[str]) -> str:
    """A page with other lines between two marks. Raises ValueError where a mark is missing."""
    before, rest = text.split(marks[0])
    _, after = rest.split(marks[1])
    return "\n".join([before + marks[0], "", *lines, "", marks[1] + after])
