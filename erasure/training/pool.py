"""Where a training's latents come from: the host's sampler's own runs, a few of which are pooled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..host import attach
from ..host.network import Network, rows_as_conditioning
from ..host.trajectories import Trajectory, joined, sample_trajectory
from ..parts.delta import Delta, Mask
from ..parts.part import Part
from ..texts.encoder import Text
from .memory import Memory
from .settings import Settings

TRAJECTORIES = 4
"""How many recent trajectories losses draw from."""


@dataclass(frozen=True)
class Phrase:
    """A text with the concept's ``name`` in it, the same without (``neutral``), and with the anchor in its place.

    ``template``: the phrase that the name is said in.
    """

    text: Text
    neutral: Text
    anchor: Text | None = None
    name: str = ""
    template: str = "{}"

    @property
    def replacement(self) -> Text:
        """The same text with what is to take the concept's place: the anchor, or nothing."""
        return self.anchor or self.neutral


@dataclass(frozen=True)
class Batch:
    """Latents z [b, c, h, w] at noise levels sigma [b], and the phrase that each row was drawn for."""

    z: torch.Tensor
    sigma: torch.Tensor
    phrases: list

    @property
    def texts(self) -> list[Text]:
        return [p.text if isinstance(p, Phrase) else p for p in self.phrases]


class Pool:
    """Recent trajectories for ``phrases`` of the concept and ``kept`` texts, and the random numbers that all draws of
    a training come from. ``nothing``: the empty prompt."""

    def __init__(
        self, network: Network, phrases: Sequence[Phrase], kept: Sequence[Text], nothing: Text, settings: Settings,
        generator: torch.Generator, memory: Memory,
    ):  # fmt: skip
        self.network, self.settings, self.generator, self.memory = network, settings, generator, memory
        self.phrases, self.kept, self.nothing = list(phrases), list(kept), nothing
        self.trajectories: list[tuple[Trajectory, list]] = []

    def apart(self, seed: int) -> Pool:
        """An empty one for the same texts, with random numbers of its own, which remembers nothing."""
        generator = torch.Generator().manual_seed(seed)
        return Pool(self.network, self.phrases, self.kept, self.nothing, self.settings, generator, Memory())

    def pick(self, things: Sequence):
        """One of them at random."""
        return things[int(torch.randint(len(things), (1,), generator=self.generator))]

    def draw(self, wanted: Callable) -> Batch:
        """Rows of the pooled trajectories that were sampled for wanted texts."""
        places = [(t, r) for t, (_, rows) in enumerate(self.trajectories) for r, row in enumerate(rows) if wanted(row)]
        z, sigma, phrases = [], [], []
        for i in torch.randint(len(places), (self.settings.batch,), generator=self.generator).tolist():
            trajectory, rows = self.trajectories[places[i][0]]
            step = int(torch.randint(len(trajectory.sigmas), (1,), generator=self.generator))
            z.append(trajectory.latents[step, places[i][1]])
            sigma.append(trajectory.sigmas[step])
            phrases.append(rows[places[i][1]])
        return Batch(torch.stack(z), torch.stack(sigma).to(z[0].device), phrases)

    def sample(self, edit: Delta | Mask | None, part: Part | None = None, preview: Callable | None = None) -> None:
        """Adds one trajectory to the pool; the oldest one leaves.

        ``edit``, ``part``: on the weights of the model that draws, and beside them; neither for the original, whose
        first trajectory is remembered. ``preview``: the host's sampler callback.
        """
        runs = max(4, self.settings.batch)
        rows: list = [self.pick(self.phrases) for _ in range(runs)]
        if self.settings.preserve_weight > 0:
            rows += [self.pick(self.kept) for _ in range(runs)]
        texts = [self._drawn_for(row) for row in rows]
        if self.trajectories or edit is not None or part is not None:
            trajectory = self._draw_for(texts, edit, part, preview)
        else:
            key = ([text.text for text in texts], self.settings.sampling, self.generator.get_state().tolist())
            drawn = self.memory.part("latents", key, lambda: self._drawn_with_state(texts, preview))
            trajectory = Trajectory(*(part.to(self.network.device) for part in drawn[:2]))
            self.generator.set_state(drawn[2])
        self.trajectories = [*self.trajectories, (trajectory, rows)][-TRAJECTORIES:]

    def _drawn_for(self, row: Phrase | Text) -> Text:
        if not isinstance(row, Phrase):
            return row
        return row.text if self.settings.drawn_for == "concept" else row.replacement

    def _draw_for(
        self, texts: Sequence[Text], edit: Delta | Mask | None, part: Part | None, preview: Callable | None
    ) -> Trajectory:
        """A trajectory for each of the texts."""
        groups = self.network.together(texts)
        model = self.network.model if part is None else attach.with_part(self.network.model, part)

        def draw() -> list[Trajectory]:
            return [
                sample_trajectory(
                    model, rows_as_conditioning([texts[i] for i in group]), self.nothing.cond,
                    self.settings.sampling, len(group), self.generator, preview,
                )
                for group in groups
            ]  # fmt: skip

        with torch.no_grad():
            return joined(self.network.computing_with(self.network.changed(edit), draw), groups)

    def _drawn_with_state(self, texts: Sequence[Text], preview: Callable | None) -> tuple[torch.Tensor, ...]:
        """Latents and sigmas of a trajectory, on the CPU, and the state that the random numbers are left in."""
        trajectory = self._draw_for(texts, None, None, preview)
        return trajectory.latents.cpu(), trajectory.sigmas.cpu(), self.generator.get_state()
