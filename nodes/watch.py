"""How a training is seen while it runs: what it does now and for how long yet, one bar, and a strip of pictures."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import comfy.model_management
import comfy.utils
import latent_preview
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image

from ..erasure.evaluation.grid import grid, lay_out
from ..erasure.host.latents import to_pictures
from ..erasure.training.settings import Settings
from .types import show

SECONDS = 1.0
"""Between two texts that say how far training is."""
WHOLE = 1000
"""The bar's length."""
SET_UP, STAGE = 250, 35
"""How much of the bar the set-up has, and each stage of it."""
LEARNED = 970
"""Where the bar stands once the last step is done; the rest is for the verdict."""
PICTURES = 6
"""In a strip, at most."""
SIDE = 128
"""Pixels that a picture's longer side is enlarged to, where it is smaller."""


@dataclass
class Clock:
    """The seconds that one kind of work takes, from the last few times."""

    seconds: float = 0.0
    count: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += (seconds - self.seconds) / min(self.count, 5)


class Watch:
    """Shows how a training goes on a node: each thing that it does by name, with its count and the time left."""

    def __init__(self, node: type[io.ComfyNode], model, settings: Settings):
        self.node, self.settings = node, settings
        self.bar, self.place = comfy.utils.ProgressBar(WHOLE), 0.0
        self.text, self.updated = "", 0.0
        self.stage_name, self.stages, self.began = "", 0, time.monotonic()
        self.draws, self.alone, self.together = Clock(), Clock(), Clock()
        self.done, self.stepped = 0, time.monotonic()
        self.strip = Strip(model)

    # -- setting up -------------------------------------------------------------------------------------------------

    def stage(self, name: str) -> None:
        """Something begins that cannot be counted, or not yet."""
        self.stage_name, self.stages, self.began = name, self.stages + 1, time.monotonic()
        self._move(min(SET_UP, STAGE * (self.stages - 1)))
        self._say(f"{name} …", at_once=True)

    def reading(self, done: int, total: int) -> None:
        """So many of the texts that something needs have been read."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        if done >= total:
            self._say(f"{self.stage_name} …", at_once=True)
            self.began = time.monotonic()
            return
        left = (time.monotonic() - self.began) / done * (total - done)
        self._move(min(SET_UP, STAGE * (self.stages - 1 + 0.9 * done / total)))
        self._say(f"{self.stage_name}: {done} of {total} texts read, about {left:.0f} s left.")

    # -- learning ---------------------------------------------------------------------------------------------------

    def drawing(self, step, x0, x, total) -> None:
        """The host's sampler callback while latents are drawn to learn on."""
        if step == 0:
            self.began = time.monotonic()
        left = (time.monotonic() - self.began) / (step + 1) * (total - step - 1)
        self._say(f"Drawing latents to learn on: {step + 1} of {total} sampling steps, about {left:.0f} s left.",
                  at_once=step == 0)  # fmt: skip
        if step + 1 == total:
            self.draws.add(time.monotonic() - self.began)

    def before(self, step, x0, x, total) -> None:
        """The host's sampler callback while the unedited model draws the concept."""
        self._look("before", step, x0, total)

    def after(self, step, x0, x, total) -> None:
        """The host's sampler callback while the edited model draws it."""
        self._look("start" if self.done == 0 else f"{self.done} steps", step, x0, total)

    def _look(self, label: str, step: int, x0: torch.Tensor, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if step == 0:
            self._say("Drawing the concept to see what has become of it …", at_once=True)
        if step + 1 == total:
            self.strip.add(label, x0)
            self._move(self.place, self.strip.preview())
        self.stepped = time.monotonic()

    def step(self, done: int, loss: float) -> None:
        """A step is done."""
        now = time.monotonic()
        (self.alone if self._is_alone(done - 1) else self.together).add(now - self.stepped)
        self.done, self.stepped = done, now
        self._move(SET_UP + (LEARNED - SET_UP) * done / self.settings.steps)
        if done < self.settings.steps:
            self._say(f"Training: step {done} of {self.settings.steps}, about {self._left():.0f} s left.")
        elif self.settings.best_of > 1:
            self._say("Comparing the last states …", at_once=True)

    def end(self) -> None:
        """All is done."""
        self._move(WHOLE)

    def _is_alone(self, step: int) -> bool:
        """Whether the prompt learns alone at a step, which is then a short one."""
        return step < self.settings.prompt_first * self.settings.steps

    def _left(self) -> float:
        """Seconds until the last step, by what each kind of work took so far."""
        s = self.settings
        alone = sum(self._is_alone(step) for step in range(self.done, s.steps))
        draws = sum(step % s.refresh == 0 for step in range(self.done, s.steps))
        together = self.together.seconds or 4 * self.alone.seconds
        both = (s.steps - self.done - alone) * together
        return alone * self.alone.seconds + both + draws * 1.3 * self.draws.seconds

    def _move(self, place: float, preview: tuple | None = None) -> None:
        """Moves the bar, forwards only."""
        self.place = max(self.place, place)
        self.bar.update_absolute(int(self.place), WHOLE, preview)

    def _say(self, text: str, at_once: bool = False) -> None:
        now = time.monotonic()
        if text != self.text and (at_once or now - self.updated >= SECONDS):
            self.text, self.updated = text, now
            show(self.node, text)


class Strip:
    """What the concept looked like before and on the way, as small pictures in a row."""

    def __init__(self, model):
        self.format = model.model.latent_format
        self.drawn: list[tuple[str, torch.Tensor]] = []
        self.previewer = latent_preview.get_previewer(model.load_device, self.format)
        if self.previewer is None and self.format.latent_rgb_factors is not None:
            self.previewer = latent_preview.Latent2RGBPreviewer(
                self.format.latent_rgb_factors,
                self.format.latent_rgb_factors_bias,
                self.format.latent_rgb_factors_reshape,
            )

    def add(self, label: str, latent: torch.Tensor) -> None:
        """One more picture, as a clean latent [1, c, h, w]."""
        if not self.drawn or self.drawn[-1][0] != label:
            self.drawn.append((label, latent.detach().cpu()))

    def chosen(self) -> list[tuple[str, torch.Tensor]]:
        """At most ``PICTURES`` of them, the first two and the last among them, where there are so many."""
        rest = self.drawn[1:]
        room = PICTURES - 1
        if len(rest) > room:
            rest = [rest[round(i * (len(rest) - 1) / (room - 1))] for i in range(room)]
        return [*self.drawn[:1], *rest]

    def preview(self) -> tuple | None:
        """The strip in the host's form for previews; None where it has no way to show latents of this model."""
        if self.previewer is None:
            return None
        pictures = [self._quick(latent) for _, latent in self.chosen()]
        return "JPEG", side_by_side(pictures), latent_preview.MAX_PREVIEW_RESOLUTION

    def _quick(self, latent: torch.Tensor) -> Image.Image:
        preview = self.previewer.decode_latent_to_preview_image("JPEG", latent)[1]
        return enlarged(preview)

    def sheet(self, vae=None) -> torch.Tensor | None:
        """The strip with its labels, [1, h, w, 3] in [0, 1]; decoded by a VAE, or else as the host shows previews."""
        rows = self.chosen()
        if not rows or (vae is None and self.previewer is None):
            return None
        if vae is None:
            pictures = [self._quick(latent) for _, latent in rows]
        else:
            decoded = to_pictures(vae, self.format.process_out(torch.cat([latent for _, latent in rows])))
            pictures = [enlarged(Image.fromarray(np.uint8(255 * one.clamp(0, 1).numpy()))) for one in decoded]
        cells = [torch.from_numpy(np.asarray(one, dtype=np.float32) / 255)[None] for one in pictures]
        sheet = grid([""], [label for label, _ in rows], cells)
        return sheet[:, :, lay_out(1, len(rows), 1, *pictures[0].size).left :]


def enlarged(picture: Image.Image) -> Image.Image:
    """A picture that is smaller than ``SIDE``, enlarged to it."""
    scale = SIDE / max(picture.size)
    if scale <= 1:
        return picture
    size = tuple(round(scale * side) for side in picture.size)
    return picture.resize((size[0], size[1]), Image.Resampling.BICUBIC)


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size in a row, with a line between."""
    width, height = pictures[0].size
    row = Image.new("RGB", (len(pictures) * (width + 1) - 1, height), "white")
    for i, picture in enumerate(pictures):
        row.paste(picture, (i * (width + 1), 0))
    return row
