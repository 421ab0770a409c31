"""How far a piece of work is that has several phases, for whoever shows it."""

from __future__ import annotations


class Steps:
    """Is told how far the work is, and may raise, to stop it. This one shows nothing."""

    def begin(self, phase: str, until: float) -> None:
        """A phase begins, at whose end so much of all the work will be done: 1 for all."""

    def __call__(self, done: int, total: int) -> None:
        """So many of some texts have been read."""
