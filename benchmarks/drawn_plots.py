"""The drawn world's figures as pictures: all methods at a glance, at matched deletion, and after base-model steps.

    python3 scripts/run.py benchmarks.drawn_plots    # of what is measured; ``benchmarks.drawn`` draws them, too

Into ``drawn.png``, ``drawn_matched.png`` and ``drawn_completion.png`` in ``benchmarks/results``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from concept_erasure.erasure.evaluation.metrics import wilson

from . import matched
from .drawn_tables import GROUPS
from .drawn_world import COUNT

RESULTS = Path(__file__).with_name("results")
OWN, OTHERS = "#c2410c", "#334155"
"""The colours of what the pack recommends, and of all else."""
OURS = ("recommended", "UCE, gated")
SCORES = {"esr1": "gone", "psr1_near": "near\nkept", "psr1_random": "others\nkept"}
SHARES = tuple(i / 20 for i in range(4, 20))
"""Erased shares, of .2 to .95, at which curves have points."""


def write(found: Mapping, folder: Path = RESULTS) -> None:
    """The three pictures, of the file's contents."""
    import matplotlib

    matplotlib.use("Agg")
    rows = [found["base"], *found["rows"]]
    at_a_glance(rows, folder / "drawn.png")
    at_matched_deletion(found["cells"], folder / "drawn_matched.png")
    after_base_steps(rows, folder / "drawn_completion.png")


def at_a_glance(rows: Sequence[Mapping], file: Path) -> None:
    """A row a method, a column a score; darker where more is lost. The best first, by their weakest score."""
    from matplotlib import pyplot

    unedited, *others = (row for row in rows if None not in scores(row))
    others.sort(key=lambda row: (min(scores(row)), sum(scores(row))), reverse=True)
    shown = [unedited, *others]
    names = list(SCORES.values()) * len(GROUPS)
    figure, axes = pyplot.subplots(figsize=(9, 0.3 * len(shown) + 1.4), dpi=110)
    axes.imshow([scores(row) for row in shown], cmap="Blues_r", vmin=0, vmax=1.15, aspect="auto")
    for y, row in enumerate(shown):
        for x, value in enumerate(scores(row)):
            ink = "white" if value < 0.5 else "black"
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_yticks(range(len(shown)), [row["method"] for row in shown], fontsize=9)
    for label in axes.get_yticklabels():
        if label.get_text() in OURS:
            label.set(color=OWN, fontweight="bold")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for i, name in enumerate(GROUPS.values()):
        axes.text(3 * i + 1, -1.75, name, ha="center", va="bottom", fontsize=10, fontweight="bold")
        if i:
            axes.axvline(3 * i - 0.5, color="white", linewidth=5)
    axes.axhline(0.5, color="white", linewidth=5)
    axes.spines[:].set_visible(False)
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)


def scores(row: Mapping) -> list[float]:
    """A row's scores, group by group."""
    return [row[group][score] for group in GROUPS for score in SCORES]


def at_matched_deletion(cells: Mapping[str, Mapping], file: Path) -> None:
    """A panel a method: near things kept over the erased share, with 95 % intervals, beside those of the same concepts
    with the recommended one."""
    from matplotlib import pyplot

    swept = matched.sweeps(cells)
    names = [*(name for name in OURS if name in swept), *(name for name in swept if name not in OURS)]
    across = 4
    down = -(-len(names) // across)
    figure, panels = pyplot.subplots(
        down, across, figsize=(10, 1.9 * down + 0.5), dpi=110, sharex=True, sharey=True, squeeze=False
    )
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(panels.flat, names, strict=False):
        points = curve(swept[name])
        colour = OWN if name in OURS else OTHERS
        if name != names[0]:
            ours = curve(swept[name], swept[names[0]])
            axes.plot(*list(zip(*ours, strict=True))[:2], color=OWN, linewidth=1, linestyle=":")
        if points:
            share, middle, low, high = zip(*points, strict=True)
            axes.fill_between(share, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(share, middle, color=colour, linewidth=2)
        axes.set_title(f"{name} ({len(swept[name])})", fontsize=9, color=colour)
        axes.set(xlim=(0.2, 0.97), ylim=(0.6, 1.01))
        axes.grid(color="#e2e8f0", linewidth=0.6)
        axes.tick_params(labelsize=7)
    figure.supxlabel("share of pictures in which the concept is gone", fontsize=9)
    figure.supylabel("near things kept", fontsize=9)
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)


def curve(
    own: Mapping[str, matched.Sweep], other: Mapping[str, matched.Sweep] | None = None
) -> list[tuple[float, float, float, float]]:
    """Erased shares, what is kept of near things there, and its interval; where most of the concepts reach the share.
    ``other``: a method of which the same is shown, of these concepts alone."""
    points = []
    for share in SHARES:
        reached = matched.kept(own, share, "psr1_near")
        found = reached if other is None else matched.kept({name: other[name] for name in reached}, share, "psr1_near")
        if 2 * len(reached) > len(own):
            total = sum(found.values())
            points.append((share, total / len(found), *wilson(total * COUNT, len(found) * COUNT)))
    return points


def after_base_steps(rows: Sequence[Mapping], file: Path) -> None:
    """A line a method: in how many pictures the concept is there, by the share of steps that the base model drew."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.8), dpi=110)
    found = sorted((row["completion"][::-1], row["method"]) for row in rows if row.get("completion"))
    height = -1.0
    for backwards, name in found:
        points = backwards[::-1]
        steps = [10 * (i + 1) for i in range(len(points))]
        colour = OWN if name in OURS else OTHERS
        axes.plot(steps, points, marker="o", markersize=4, color=colour, linewidth=2 if name in OURS else 1)
        height = max(points[-1], height + 0.05)  # names of lines that end together stand one above the other
        axes.text(steps[-1] + 1, height, name, fontsize=8, va="center", color=colour)
    axes.set(ylim=(-0.03, 1.05), ylabel="concept in the picture")
    axes.set(xticks=steps, xlabel="steps by the unedited model before the edited one takes over, %")
    axes.grid(color="#e2e8f0", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)


def main() -> None:
    write(json.loads((RESULTS / "drawn.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
