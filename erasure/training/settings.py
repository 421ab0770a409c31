"""Training settings, and the presets that name whole sets of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..artifact import ErasureError
from ..host.trajectories import Sampling

TARGETS = ("empty prompt", "anchor", "nearest neighbour")
WEIGHTS_START = ("unchanged", "closed form")
PRESERVE_BY = ("all", "adversarial")
FROM_PRESET = "from preset"
"""What an input says that is left as the preset has it."""


@dataclass(frozen=True)
class Settings:
    """All settings of a learned method. Learning rates are Adam's, and fall linearly to zero over the last
    ``lr_decay`` share of the steps; weights multiply loss terms.

    ``width``: the fan-in for which ``weight_lr`` was tuned. The rates of other layers are scaled by width / fan-in, so
    that the setting means the same in every network (muP, arXiv 2203.03466); 0: no scaling.

    ``target``: ``empty prompt`` (negative guidance, strength ``eta``), ``anchor`` (the text in ``anchor``) or
    ``nearest neighbour`` (the text of the preserve set that the text encoder takes for the nearest).
    ``weights_start``: ``unchanged``, or the ``closed form`` of Instant Erasure for the same target.
    ``down_start``: what the rows of a low-rank change's down matrix start from: the directions of the ``concept``, or
    ``random`` ones as in LoRA.
    ``in_context``: train on phrases that put the concept beside the preserve set, and aim at the same phrase without
    it, instead of on the bare concept alone. ``refresh``: steps between two trajectories, which are ``drawn_by`` the
    ``edited`` model as it stands (paper), its ``average`` or the ``original``, ``drawn_for`` the ``concept`` or its
    ``replacement``. ``preserve_by``: the loss looks at ``all`` of the preserve set, or (``adversarial``) at what a
    learned choice finds hurt most. ``average``: share of the past in the moving average of the delta that is then the
    result; 0 for none. ``best_of``: so many of the last states are compared on latents that were not learned on, and
    the best one is the result (see ``last_states.py``); 1: the last one, whatever it is like. ``options``: what only
    the method knows, see its ``Options``.
    """

    method: str = "kpop"
    steps: int = 150
    prompt_lr: float = 1e-2
    weight_lr: float = 4e-3
    width: int = 96
    lr_decay: float = 0.5
    tokens: int = 11
    blocks: str = "all"
    start: str = "concept"
    gate: bool = True
    weights: str = "keys+values"
    rank: int = 8
    down_start: str = "concept"
    weights_start: str = "unchanged"
    batch: int = 4
    target: str = "empty prompt"
    anchor: str = ""
    eta: float = 2.0
    space: str = "x0"
    preserve_weight: float = 2.0
    in_context: bool = True
    refresh: int = 20
    drawn_by: str = "original"
    drawn_for: str = "concept"
    preserve_by: str = "all"
    choice_lr: float = 1e-2
    average: float = 0.0
    prompt_first: float = 0.0
    best_of: int = 1
    checkpointing: bool = False
    seed: int = 0
    sampling: Sampling = Sampling()
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raises ErasureError for values that cannot be trained with."""
        if self.steps < 1 or self.tokens < 1 or self.batch < 1:
            raise ErasureError("Steps, tokens and batch must each be at least 1.")
        if self.preserve_by == "adversarial" and self.preserve_weight <= 0:
            raise ErasureError("Adversarial preservation needs a preserve_weight above 0: set it, for example to 1.")

    def lines(self, preset: Settings | None = None) -> list[str]:
        """The values that a training uses, in words; ``preset``: to say where its number of steps is another."""
        whole = f" (the preset has {preset.steps})" if preset is not None and preset.steps != self.steps else ""
        rank = f"rank {self.rank}" if self.rank else "full matrices"
        weights = f"Weights: {self.weights}, {rank}, rate {self.weight_lr:g}, start: {self.weights_start}."
        if self.width:
            weights = (
                f"Weights: {self.weights}, {rank}, rate {self.weight_lr:g}, less in layers wider than {self.width}, "
                f"start: {self.weights_start}."
            )
        target = f"'{self.anchor}'" if self.target == "anchor" else self.target
        away = [f"Pushed away by {self.eta:g}."] if self.target == "empty prompt" else []
        losses = f"Losses compare {'clean latents' if self.space == 'x0' else 'noise'}."
        gate = "acts on prompts for the concept only" if self.gate else "acts on every prompt"
        how, (*_, height, width) = self.sampling, self.sampling.shape
        return [
            f"Method {self.method}: {self.steps} steps{whole} of {self.batch} latents, seed {self.seed}.",
            " ".join([f"Target: {target}.", *away, losses]),
            weights,
            f"Prompt, where the method has one: {self.tokens} tokens, blocks {self.blocks}, rate {self.prompt_lr:g}, "
            f"start: {self.start}; it {gate}.",
            f"Preserving: weight {self.preserve_weight:g}, {self.preserve_by}.",
            f"Latents: {how.sampler}, {how.scheduler}, {how.steps} steps, cfg {how.cfg:g}, {width} x {height} each.",
            "The last state is kept." if self.best_of == 1 else f"The best of the last {self.best_of} states is kept.",
        ]

    def as_strings(self) -> dict:
        """The settings as plain values, for a file's metadata."""
        return asdict(self)


PAPER = replace(
    Settings(),
    method="kpop",
    steps=1000,
    prompt_lr=1e-5,
    weight_lr=1e-5,
    width=0,
    lr_decay=0.0,
    tokens=10,
    blocks="middle",
    start="concept",
    gate=False,
    weights="cross-attention",
    rank=0,
    down_start="random",
    batch=1,
    target="empty prompt",
    eta=1.0,
    space="noise",
    preserve_weight=0.0,
    in_context=False,
    refresh=5,
    drawn_by="edited",
)
"""Published defaults (authors' run names and scripts), whose preservation is known to be weak."""

PRESETS = {
    "recommended": Settings(),
    "paper v2": replace(PAPER, options={"with_prompt_weight": 0.1, "keep_with_prompt": "target"}),
    "paper v3": replace(PAPER, options={"with_prompt_weight": 0.1, "keep_with_prompt": "original"}),
}


@dataclass(frozen=True)
class Own:
    """What a person set otherwise than a preset: ``learning``: fields of Settings, ``sampling``: fields of Sampling.

    ``width`` and ``height``: of the pictures to learn on, in pixels; None for those that the model was made for.
    ``only_in``: texts beside which alone the concept is erased. ``place``: the node that said so.
    """

    learning: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    width: int | None = None
    height: int | None = None
    only_in: str = ""
    place: str | None = None

    @property
    def method(self) -> str | None:
        """The method, where it is not the preset's."""
        return self.learning.get("method")

    def on(self, preset: Settings) -> Settings:
        """The preset with these in their places; a rate that was typed holds for layers of every width."""
        settings = replace(preset, **self.learning, sampling=replace(preset.sampling, **self.sampling))
        return replace(settings, width=0) if "weight_lr" in self.learning else settings


def number(name: str, text: str, kind: type, least: float, most: float) -> Any:
    """What a field for a number says; None for "from preset" or nothing. Raises ErasureError for anything else."""
    said = text.strip()
    if said.lower() in ("", FROM_PRESET):
        return None
    try:
        value = kind(said)
    except ValueError:
        value = None
    if value is None or not least <= value <= most:
        what = "a whole number" if kind is int else "a number"
        raise ErasureError(
            f"'{said}' is no value for '{name}': type {what} from {least:g} to {most:g}, or '{FROM_PRESET}'."
        )
    return value
