"""The verdict: what an erasure did, computed from encodings and weights, in sentences with ✓, ⚠ or ✗. torch only.

How far a text moves is seen in the keys and values that an edited model makes of it. With W an unedited projection, dW
its change, c token encodings of a concept and t those of what takes its place, the *share of the way* is

    s = sum <dW c, W (t - c)> / sum |W (t - c)|^2

over layers, for each token: 0 for one that stays where it was, 1 for one that has arrived. That of a concept is their
mean, weighed by how long their ways are. A token that goes too far makes up for no other: the share passes 1 only where
all of them have arrived. What other texts move is given as a share of the concepts' own way,
sqrt(mean |dW p|^2 / mean |W (t - c)|^2).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch

from .artifact import Change, LowRank, Probe
from .texts.names import MOST_QUOTED, plain, quoted, short

ARRIVED = 0.82
"""Share of the way from which on a concept counts as erased: what moves less is often still drawn in the toy world."""
ARRIVED_BESIDE = 0.9
"""The same for a concept that is erased beside other texts only: more phrases say the two than are looked at."""
HARDLY = 0.1
"""Share of the way below which nothing can have been erased."""
DISTURBED = 0.5
"""Share of the concepts' way beyond which another text is said to have moved, too."""
LEARNED = 0.8
"""Share of the way of a model's predictions from which on a trained concept counts as erased."""
LEARNED_DISTURBED = 0.4
"""Share of that way beyond which preserved pictures are said to have changed."""
BEYOND = 1.25
"""Share of the way beyond which a concept is past its target, and something else may be drawn."""
MARKS = "✗⚠✓"
"""What a finding can have, the worst first."""
LAYERS = 16
"""Layers that are looked at; more tell the same."""


@dataclass(frozen=True)
class Finding:
    """One sentence of a verdict. ``mark``: ✓ as asked, ⚠ doubtful, ✗ not done."""

    mark: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """All that was found out about one erasure, the doubts first."""

    findings: tuple[Finding, ...] = ()

    def text(self) -> str:
        """A line for each doubt, and one for all that is well."""
        doubts = [f"{finding.mark} {finding.text}" for finding in self.findings if finding.mark != "✓"]
        well = " ".join(finding.text for finding in self.findings if finding.mark == "✓")
        return "\n".join([*doubts, f"✓ {well}"] if well else doubts)

    @property
    def mark(self) -> str:
        """The worst of the marks; empty when nothing was found out."""
        marks = {finding.mark for finding in self.findings}
        return next((mark for mark in MARKS if mark in marks), "")

    def plus(self, *findings: Finding) -> Verdict:
        """With more findings; those that are not ✓ stand in front."""
        together = dict.fromkeys((*self.findings, *findings))
        return Verdict(tuple(sorted(together, key=lambda finding: MARKS.index(finding.mark))))

    def as_json(self) -> str:
        return json.dumps([[finding.mark, finding.text] for finding in self.findings], ensure_ascii=False)


def read_verdict(text: str) -> Verdict:
    """The inverse of ``as_json``; an empty verdict for a text that is none."""
    try:
        return Verdict(tuple(Finding(str(mark), str(sentence)) for mark, sentence in json.loads(text)))
    except (ValueError, TypeError):
        return Verdict()


# ---------------------------------------------------------------- how far texts move


@dataclass(frozen=True)
class Movement:
    """How far each concept moved, as a share of its way, and how far other texts did, as a share of that way.

    ``totals``: the concepts' shares where tokens that go too far make up for others, as in ``concepts`` none does.
    """

    concepts: Mapping[str, float]
    others: Mapping[str, float]
    totals: Mapping[str, float] = field(default_factory=dict)


def movement(
    weights: Mapping[str, torch.Tensor], delta: Mapping[str, Change], probes: Sequence[Probe], strength: float = 1.0
) -> Movement:
    """What a change does to the probes, in some of the projections [out, d] that it changes.

    ``weights``: those projections without the change.
    """
    names = sample([name for name in delta if name in weights and weights[name].ndim == 2])
    concepts = [probe for probe in probes if probe.goal is not None]
    others = [probe for probe in probes if probe.goal is None]
    done, way = ([torch.zeros(len(probe.source)) for probe in concepts] for _ in range(2))
    moved = torch.zeros(len(others))
    for name in names:
        weight = weights[name].float().cpu()
        for i, probe in enumerate(concepts):
            source = probe.source.float()
            wanted = (cast("torch.Tensor", probe.goal).float() - source) @ weight.T
            done[i] += (wanted * added(delta[name], source)).sum(1) * strength
            way[i] += wanted.square().sum(1)
        for i, probe in enumerate(others):
            moved[i] += added(delta[name], probe.source.float()).square().sum() * strength**2 / len(probe.source)
    scale = torch.stack([w.mean() for w in way]).mean() if way else torch.tensor(0.0)
    return Movement(
        {p.text: _share(d, w) for p, d, w in zip(concepts, done, way, strict=True)},
        {p.text: float((m / scale).sqrt()) if scale > 0 else 0.0 for p, m in zip(others, moved, strict=True)},
        {p.text: float(d.sum() / w.sum()) for p, d, w in zip(concepts, done, way, strict=True) if w.sum() > 0},
    )


def _share(done: torch.Tensor, way: torch.Tensor) -> float:
    """The share of the way of tokens [r] together: none makes up for another by going too far."""
    if not way.sum() > 0:
        return 0.0
    arrived = bool((done >= way).all())
    return float((done if arrived else torch.minimum(done, way)).sum() / way.sum())


def sample(names: Sequence[str]) -> list[str]:
    """At most about ``LAYERS`` of the names, evenly taken."""
    return list(names[:: max(1, len(names) // LAYERS)])


def added(change: Change, tokens: torch.Tensor) -> torch.Tensor:
    """What a change adds to a projection's output for tokens [r, d]: [r, out]."""
    if isinstance(change, LowRank):
        return tokens @ change.down.float().T @ change.up.float().T
    return tokens @ change.dense().T


# ---------------------------------------------------------------- in words


def judge(move: Movement, targets: Mapping[str, str], at: str = "", arrived: float = ARRIVED) -> Verdict:
    """The verdict on how far concepts and other texts moved.

    ``targets``: what takes each concept's place; ``at``: words on the strength, behind each share; ``arrived``: share
    of the way from which on a concept counts as erased.
    """
    findings = [
        _finding(name, targets.get(name, ""), share, move.totals.get(name, share), at, arrived)
        for name, share in move.concepts.items()
    ]
    verdict = Verdict().plus(*_summary(findings, move.concepts, targets, at))
    if move.others:
        most = max(move.others, key=lambda text: move.others[text])
        share = move.others[most]
        if share > DISTURBED:
            far = [text for text in sorted(move.others, key=lambda t: -move.others[t]) if move.others[text] > DISTURBED]
            verdict = verdict.plus(
                Finding(
                    "⚠",
                    f"Also moved: {quoted(far[:MOST_QUOTED])}, by up to {percent(share)} of the concept's "
                    "way: type what must stay into 'preserve'.",
                )  # fmt: skip
            )
        else:
            verdict = verdict.plus(Finding("✓", f"Others moved at most {percent(share)} ({plain(most)})."))
    return verdict


def predictions(share: float, others: float, names: Sequence[str], targets: Sequence[str], sure: bool) -> list[Finding]:
    """The verdict on a training: how far the model's predictions moved, as a share of the way, and those for preserved
    texts, as a share of that way.

    ``sure``: keys and values have moved, too, or a prompt erases. Without it, predictions that have moved are no proof:
    in the toy world, methods whose predictions went all of the way left the concept in up to a third of the pictures.
    """
    target = " and ".join(dict.fromkeys(short(plain(text)) for text in targets if text)) or "what is drawn without it"
    what = f"{quoted(names[:3])} → {target}: the model's predictions moved {percent(min(1.0, share))} of the way"
    if share < HARDLY:
        findings = [Finding("✗", f"{what}, so it is still drawn: train more steps.")]
    elif share < LEARNED:
        findings = [Finding("⚠", f"{what}, so it may still be drawn: train more steps.")]
    elif not sure:
        findings = [
            Finding("⚠", f"{what}, which is no proof that it is gone by this method: count it with Erasure Report.")
        ]
    else:
        findings = [Finding("✓", f"{what}.")]
    if others > LEARNED_DISTURBED:
        return [*findings, Finding("⚠", f"Predictions for preserved texts moved {percent(others)} as far: that shows.")]
    return [*findings, Finding("✓", f"Predictions for preserved texts moved {percent(others)} as far.")]


def _finding(name: str, target: str, share: float, total: float, at: str, arrived: float) -> Finding:
    arrow = f"{short(plain(name))} → {short(plain(target)) or 'nothing'}"
    if share >= arrived and total > BEYOND:
        return Finding(
            "⚠", f"{arrow}: moved {percent(total)} of the way{at}, past it, so something else may be drawn: lower the "
            "strength.",
        )  # fmt: skip
    if share >= arrived:
        return Finding("✓", f"{arrow}: moved {percent(share)} of the way{at}.")
    if share >= HARDLY:
        return Finding("⚠", f"{arrow}: moved only {percent(share)} of the way{at}, so it may still be drawn.")
    return Finding("✗", f"{arrow}: moved {percent(share)} of the way{at}, so it is still drawn.")


def _summary(
    findings: Sequence[Finding], shares: Mapping[str, float], targets: Mapping[str, str], at: str
) -> Sequence[Finding]:
    """The findings, or one for all that are well, when there are too many to read."""
    good = [name for name, finding in zip(shares, findings, strict=True) if finding.mark == "✓"]
    if len(good) <= MOST_QUOTED:
        return bounded(findings)
    least = min(shares[name] for name in good)
    some = ", ".join(f"{plain(name)} → {plain(targets.get(name, '')) or 'nothing'}" for name in good[:3])
    rest = [finding for finding in findings if finding.mark != "✓"]
    all_of_them = f"{len(good)} concepts moved at least {percent(least)} of the way{at}: {some}, …"
    return [*bounded(rest), Finding("✓", all_of_them)]


def bounded(findings: Sequence[Finding]) -> list[Finding]:
    """The first findings of each mark, and how many more there are of it."""
    out = []
    for mark in MARKS:
        alike = [finding for finding in findings if finding.mark == mark]
        more = len(alike) - MOST_QUOTED
        out += alike[:MOST_QUOTED]
        out += [Finding(mark, f"… and {more} more like these.")] if more > 0 else []
    return out


def percent(share: float) -> str:
    """A share in percent, in words that a person would use."""
    return "less than 1 %" if 0 <= share < 0.005 else f"{round(100 * share)} %"


def thin(probe: Probe) -> Probe:
    """The probe in half precision, as files hold it."""
    goal = None if probe.goal is None else probe.goal.half()
    return replace(probe, source=probe.source.half(), goal=goal)
