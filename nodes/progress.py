"""How long work tells how far it is: in words on the node, from the first moment, and by one bar."""

import time

import comfy.model_management
import comfy.utils
from comfy_api.latest import io

from .report import thumbnail
from .types import show


class Working:
    """Says what is being done and how long it will take; the bar runs once. Lets Cancel stop the work."""

    SECONDS = 1.0
    """Between two texts that say the same, with another time."""
    SURE = 2.0
    """Seconds after which the time that is left can be told."""

    def __init__(self, node: type[io.ComfyNode]):
        self.node, self.bar = node, comfy.utils.ProgressBar(1)
        self.began, self.updated, self.text = time.monotonic(), 0.0, ""
        self.done, self.total = 0, 1

    def __call__(self, text: str, done: int, total: int, pictures=None) -> None:
        """``done`` of ``total``, of whatever takes about the same time each; ``pictures``: [n, h, w, 3], if any were
        drawn."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.done, self.total = done, total
        self.bar.update_absolute(done, total, None if pictures is None else thumbnail(pictures))
        now = time.monotonic()
        if text != self.text or now - self.updated >= self.SECONDS:
            self.text, self.updated = text, now
            show(self.node, text + left(now - self.began, done, total, self.SURE))

    def meanwhile(self, text: str) -> None:
        """Says what is being done, while the bar stays where it is."""
        self(text, self.done, self.total)


def left(seconds: float, done: int, total: int, sure: float) -> str:
    """About how long the rest takes, in words; nothing while that cannot be told."""
    if done <= 0 or done >= total or seconds < sure:
        return ""
    rest = seconds / done * (total - done)
    return f" About {rest:.0f} s left." if rest < 90 else f" About {rest / 60:.0f} min left."
