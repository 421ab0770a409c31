"""What has been erased from a MODEL in front of a node: later erasures neither aim at it nor undo it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .artifact import Erasure
from .host import attach
from .protocols import Model
from .texts.names import is_form_of


@dataclass(frozen=True)
class Erased:
    """A name that is erased from a MODEL, and the text that takes its place; empty for nothing."""

    name: str
    target: str


def moves(erasure: Erasure) -> list[Erased]:
    """The names that an erasure erases, and what takes the place of each."""
    return [Erased(name, target) for name, target in zip(erasure.names, erasure.targets, strict=True)]


def erased_from(model: Model) -> list[Erased]:
    """All names that the erasures on a MODEL erase, in the order of its nodes."""
    return [move for applied in attach.applied(model) if erases(applied.erasure) for move in moves(applied.erasure)]


def erases(erasure: Erasure) -> bool:
    """Whether an erasure holds more than a key."""
    return bool(erasure.erasers)


def leading_to(erased: Sequence[Erased], names: Sequence[str]) -> dict[str, str]:
    """Names erased before that became one of ``names``, which are now erased themselves, and which of them that is;
    directly or by way of others.

    They have to move on together with what they became.
    """
    goals, out = {name: name for name in names}, dict[str, str]()
    for move in reversed(erased):
        root = next((root for goal, root in goals.items() if move.target and is_form_of(move.target, goal)), None)
        if root is not None and not any(is_form_of(move.name, goal) for goal in goals):
            goals[move.name] = out[move.name] = root
    return out
