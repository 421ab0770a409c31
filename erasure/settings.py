"""Training settings, and the presets that name whole sets of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from .artifact import ErasureError
from .trajectories import Sampling

TARGETS = ("empty prompt", "anchor", "nearest neighbour")
WEIGHTS_START = ("unchanged", "closed form")
PRESERVE_BY = ("all", "adversarial")


@dataclass(frozen=True)
class Settings:
    """Everything that a learned method can be told. Learning rates are Adam's, and fall linearly to zero over the last
    ``lr_decay`` share of the steps; weights multiply loss terms.

    ``width``: the weights' rate is meant for layers of so many inputs, and others get it in inverse proportion to
    theirs, so that it means the same in every network (arXiv 2203.03466); 0: the same rate for all.

    ``target``: ``empty prompt`` (negative guidance, strength ``eta``), ``anchor`` (the text in ``anchor``) or
    ``nearest neighbour`` (the text of the preserve set that the text encoder takes for the nearest).
    ``weights_start``: ``unchanged``, or the ``closed form`` of Instant Erasure for the same target.
    ``down_start``: what the rows of a low-rank change's down matrix start from: the directions of the ``concept``, or
    ``random`` ones as in LoRA.
    ``keep_with_prompt``: what the edited model should predict *with* the prompt: ``target`` (paper v2) or
    ``original`` (paper v3). ``in_context``: train on phrases that put the concept beside the preserve set, and aim at
    the same phrase without it, instead of on the bare concept alone. ``refresh``: steps between two trajectories, which
    are ``drawn_by`` the ``edited`` model as it stands (paper), its ``average`` or the ``original``, ``drawn_for`` the
    ``concept`` or its ``replacement``. ``preserve_by``: the loss looks at ``all`` of the preserve set, or
    (``adversarial``) at what a learned choice finds hurt most. ``average``: share of the past in the moving average of
    the delta that is then the result; 0 for none.
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
    erase_weight: float = 1.0
    with_prompt_weight: float = 2.0
    keep_with_prompt: str = "original"
    preserve_weight: float = 2.0
    in_context: bool = True
    refresh: int = 20
    drawn_by: str = "original"
    drawn_for: str = "concept"
    preserve_by: str = "all"
    choice_lr: float = 1e-2
    average: float = 0.0
    prompt_first: float = 0.0
    checkpointing: bool = False
    seed: int = 0
    sampling: Sampling = Sampling()

    def check(self) -> None:
        """Raises ErasureError for values that cannot be trained with."""
        if self.steps < 1 or self.tokens < 1 or self.batch < 1:
            raise ErasureError("Steps, tokens and batch must each be at least 1.")
        if self.preserve_by == "adversarial" and self.preserve_weight <= 0:
            raise ErasureError("Adversarial preservation needs a preserve_weight above 0: set it, for example to 1.")

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
    with_prompt_weight=0.1,
    preserve_weight=0.0,
    in_context=False,
    refresh=5,
    drawn_by="edited",
)
"""Published defaults (authors' run names and scripts), whose preservation is known to be weak."""

PRESETS = {
    "recommended": Settings(),
    "paper v2": replace(PAPER, keep_with_prompt="target"),
    "paper v3": replace(PAPER, keep_with_prompt="original"),
}
