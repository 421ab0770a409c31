"""What a concept becomes, as the fields ``target`` and ``anchor`` say it together."""

from __future__ import annotations

from collections.abc import Sequence

from .artifact import ErasureError

ANCHOR = "anchor"


def resolve_target(target: str, anchor: str, default: str) -> str:
    """The target that a user means: a typed anchor, unless ``target`` was set to something that has no use for it.

    ``default``: what ``target`` says when nobody touched it; whoever leaves it there and types an anchor wants the
    anchor. See ``ignored_anchor`` for the rest.
    """
    return ANCHOR if anchor.strip() and target == default else target


def ignored_anchor(target: str, anchor: str, default: str) -> str:
    """A sentence for the node where a typed anchor does nothing, because ``target`` asks for something else; or ""."""
    if not anchor.strip() or resolve_target(target, anchor, default) == ANCHOR:
        return ""
    shown = " ".join(anchor.split())
    return f"The anchor '{shown}' is not used, because target is '{target}': set target to '{ANCHOR}' to use it."


def anchor_for_each(anchors: Sequence[str], names: Sequence[str]) -> list[str]:
    """The anchor of each name: one for all of them, or as many as there are names, in the same order.

    Both are the lines of their field as read. Raises ErasureError when the counts do not match.
    """
    if len(anchors) not in (1, len(names)):
        raise ErasureError(
            f"There are {_count(anchors, 'anchor')} for {_count(names, 'concept')}: give one anchor for all, or one a "
            "line for each concept, in the same order."
        )
    return list(anchors) * (len(names) // len(anchors))


def _count(texts: Sequence[str], noun: str) -> str:
    return f"{len(texts)} {noun}{'' if len(texts) == 1 else 's'}"
