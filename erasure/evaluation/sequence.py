"""Erasures of one kind, one on top of the other: whether early ones relapse, and when what stays begins to suffer.

A *canary* is of their kind and never erased: where closed forms run out of rank it suffers first (as audits of SPEED,
arXiv 2503.07392, found). A control that is far from all of them tells what is more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ..protocols import Model
from .metrics import Share

Shown = Callable[[Model, str], Sequence[bool]]
"""Which pictures of a model, drawn for a concept, show it; the same pictures every time."""


@dataclass(frozen=True)
class Stage:
    """After ``count`` erasures. ``gone``: pictures of all erased concepts that lack theirs; ``relapsed``: of those that
    lacked it right after its own erasure, those that show it again; ``canary`` and ``far``: those that show theirs."""

    count: int
    gone: Share
    relapsed: Share
    canary: Share
    far: Share


def sequence(
    model: Model, names: Sequence[str], erase: Callable[[Model, str], Model], shown: Shown, canary: Sequence[str],
    far: Sequence[str], looks: Collection[int] = (),
) -> list[Stage]:  # fmt: skip
    """Erases the names one after the other, and looks after each of some numbers of erasures; always after the last."""
    stages, first = [], dict[str, list[bool]]()
    for count, name in enumerate(names, 1):
        model = erase(model, name)
        first[name] = list(shown(model, name))
        if count not in {*looks, len(names)}:
            continue
        now = {**{earlier: list(shown(model, earlier)) for earlier in names[: count - 1]}, name: first[name]}
        stays = (share([is_seen for kept in some for is_seen in shown(model, kept)]) for some in (canary, far))
        gone = share([not is_seen for row in now.values() for is_seen in row])
        pairs = [pair for earlier in names[: count - 1] for pair in zip(first[earlier], now[earlier], strict=True)]
        relapsed = share([again for before, again in pairs if not before])
        stages.append(Stage(count, gone, relapsed, *stays))
    return stages


def share(seen: Sequence[bool]) -> Share:
    return Share(sum(seen), len(seen))
