"""What a concept becomes, as the fields ``target`` and ``anchor`` say it together."""

from __future__ import annotations

from collections.abc import Sequence

from .artifact import ErasureError
from .texts.names import is_form_of, listing, plain, read_field, without_weights

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
    text = " ".join(anchor.split())
    return f"The anchor '{text}' is not used, because target is '{target}': set target to '{ANCHOR}' to use it."


def check_target(target: str, names: Sequence[str]) -> None:
    """Raises ErasureError for a text that cannot take the names' place."""
    if not target.strip():
        raise ErasureError("The target is an anchor text, and the anchor is empty: type what the concepts become.")
    for name in names:
        if is_form_of(target, name):
            raise ErasureError(f"The target '{plain(target)}' is the concept itself: type what is to take its place.")


def anchors_for(anchor: str, names: Sequence[str]) -> list[str]:
    """The anchor text of each name: one for all, or as many as there are names, in their order.

    Raises ErasureError for another number of them, an empty one, or one that is the concept itself.
    """
    rows = [line for line in anchor.splitlines() if line.strip()]
    several = read_field(anchor).texts
    if len(several) == 1 or len(several) == len(names):
        texts = several
    elif len(rows) > 1:
        raise ErasureError(
            f"There are {len(several)} anchors for {listing(list(names), 'concept', 'concepts')}: type one for all, or "
            "one for each, in the same order."
        )
    else:
        texts = [" ".join(without_weights(anchor).split()).strip(" ,.;")]
    for text in texts:
        check_target(text, names)
    return texts * len(names) if len(texts) == 1 else texts
