"""What has been erased from a MODEL in front of a node: later erasures neither aim at it nor undo it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .artifact import Erasure
from .closed_form import CLOSED_FORM
from .host import attach
from .protocols import Model
from .texts.names import is_form_of, lines

MANY = 4
"""Trained erasures whose sum was seen to harm the rest: in the drawn world four left .79 of it, and twenty .46."""


@dataclass(frozen=True)
class Erased:
    """A name that is erased from a MODEL, and the text that takes its place; empty for nothing.

    ``strength``: how much of its way it has gone, where a closed form has sent it there in all prompts and in all of
    sampling; None where it was erased in another way.
    """

    name: str
    target: str
    strength: float | None = None


def moves(erasure: Erasure) -> list[Erased]:
    """The names that an erasure erases, and what takes the place of each."""
    strengths = erasure.strengths if is_solved(erasure) else [None] * len(erasure.names)
    return [Erased(*three) for three in zip(erasure.names, erasure.targets, strengths, strict=True)]


def erased_from(model: Model) -> list[Erased]:
    """All names that the erasures on a MODEL erase, in the order of its nodes."""
    return [
        replace(move, strength=move.strength * one.strength) if move.strength is not None and one.window is None
        else replace(move, strength=None)
        for one in attach.applied(model) if erases(one.erasure) for move in moves(one.erasure)
    ]  # fmt: skip


def preserved_on(model: Model) -> list[str]:
    """What closed-form erasures on a MODEL preserve."""
    solved = [one.erasure for one in attach.applied(model) if is_solved(one.erasure)]
    return list(dict.fromkeys(text for erasure in solved for text in lines(erasure.metadata.preserve)))


def is_solved(erasure: Erasure) -> bool:
    """Whether a closed form has sent its names to their targets in all prompts."""
    m = erasure.metadata
    return m.method in CLOSED_FORM and not m.only_in and not m.parts and not erasure.beside


def added_up(erasures: Sequence[Erasure]) -> str | None:
    """A sentence on trained changes of the weights that are added, where they are many; closed forms on one MODEL know
    of each other."""
    count = sum(map(trained_in, erasures))
    if count < MANY:
        return None
    return (
        f"{count} trained erasures are added up, and each one harms the rest a little more: 'solve jointly' in "
        "Combine Erasures keeps more of it."
    )


def trained_in(erasure: Erasure) -> int:
    """How many trained changes of the weights it adds up that could be solved jointly instead."""
    m = erasure.metadata
    if not erasure.delta or erasure.beside or m.only_in or {*m.method.split(" + ")} <= {*CLOSED_FORM}:
        return 0
    return int(m.added or 1)


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
