"""What was worked out for a training is remembered, so that going on for a few steps does not work it out again."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


class Memory:
    """The last value of each part, for one MODEL and one CLIP, of which it keeps neither alive.

    What is remembered depends on these two and on its key alone, so that a result is the same with it and without.
    """

    def __init__(self) -> None:
        self._of: tuple[weakref.ref, ...] = ()
        self._parts: dict[str, tuple[Any, Any]] = {}

    def of(self, *things: object) -> Memory:
        """The memory for these objects; what it holds of others, or of some that are gone, is forgotten."""
        if len(self._of) != len(things) or any(ref() is not thing for ref, thing in zip(self._of, things, strict=True)):
            self.forget()
            self._of = tuple(weakref.ref(thing, self._gone) for thing in things)
        return self

    def part(self, name: str, key: Any, make: Callable[[], _T]) -> _T:
        """A part's value for a key, made anew unless the part was last asked for with an equal key."""
        if name not in self._parts or self._parts[name][0] != key:
            self._parts[name] = key, make()
        value: _T = self._parts[name][1]
        return value

    def forget(self) -> None:
        self._of, self._parts = (), {}

    def _gone(self, ref: weakref.ref) -> None:
        if any(ref is one for one in self._of):
            self.forget()
