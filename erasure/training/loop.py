"""The loop: one optimiser loop for every learned method.

A method is a list of *phases*, each a loss that trains one of what learns; one step runs every phase once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import comfy.model_management
import torch
from torch import nn

from ..artifact import ErasureError
from ..parts.branch import BranchLearner
from ..parts.delta import Delta, Mask
from ..parts.gate import GateTensors
from ..parts.part import Learner
from .choice import Choice
from .last_states import keep_the_best, marks, restore, state_of
from .run import Run
from .settings import Settings

if TYPE_CHECKING:
    from ..host.subject import Subject
    from .setting_up import Setting

log = logging.getLogger("concept_erasure")
NO_GRADIENT = ("modified by an inplace operation", "Inference tensors cannot be saved")
"""What torch says where a patch of the host has no backward pass."""


@dataclass(frozen=True)
class Phase:
    """One kind of update: ``loss(run)`` with gradients for ``trains``: ``delta``, or the name of what learns beside
    the weights or of a choice."""

    name: str
    trains: str
    loss: Callable[[Run], torch.Tensor]


class Method:
    """What a file in ``methods`` provides: an update of the weights alone, where it says nothing else.

    ``role``: of what learns beside the weights, an erasure prompt where a method says nothing else; empty without one.
    ``settings``: what the recommended preset does differently
    for this method.
    """

    role: str = ""
    settings: Mapping[str, Any] = {}

    def require(self, here: Subject, settings: Settings) -> None:
        """Raises ErasureError where the method has nothing to learn by on a MODEL."""
        if self.role:
            here.require_blocks(settings.blocks)

    def beside(self, setting: Setting, gate: GateTensors | None) -> Learner | None:
        """What learns beside the weights, where it starts; None without a role."""
        return setting.prompt(self.role, gate) if self.role else None

    def change(self, setting: Setting) -> Delta | Mask | None:
        """What learns to change the weights, where it starts; None where the weights stay."""
        return setting.delta()

    def choices(self, setting: Setting) -> dict[str, Choice]:
        """Choices of texts that phases train, by name."""
        return {}

    def phases(self, settings: Settings) -> Sequence[Phase]:
        """What one step does, in order."""
        raise NotImplementedError


@dataclass
class Progress:
    """How training went: one loss a step, why it stopped early, if it did, and which of its last states was kept, if
    several were compared."""

    losses: list[float] = field(default_factory=list)
    stopped: str = ""
    best: str = ""


def begun(phases: Sequence[Phase], step: int, settings: Settings) -> Sequence[Phase]:
    """The phases that a step does: those of the prompt alone at first, where the settings ask for it."""
    if step >= settings.prompt_first * settings.steps:
        return phases
    return [phase for phase in phases if phase.trains == "prompt"] or phases


class Preview(Protocol):
    """Who wants to see what is drawn: the host's sampler callbacks (step, x0, x, total) of runs that draw the concept
    before and after learning, and of those that draw what is learned on."""

    def drawing(self, step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None: ...

    def before(self, step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None: ...

    def after(self, step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None: ...


def train(
    run: Run,
    phases: Sequence[Phase],
    progress: Progress,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    preview: Preview | None = None,
) -> None:
    """Trains what learns in the run, in place, for ``run.settings.steps`` steps, one of every phase a step.

    A loss that is not finite ends it with the last good state restored and ``progress.stopped`` saying so; before
    any good state there is ErasureError. Interrupts of the host pass through, with everything learned so far in place.
    """
    s = run.settings
    optimisers = {name: torch.optim.Adam(_groups(module, name, s)) for name, module in run.learned.items()}
    full = {name: [group["lr"] for group in o.param_groups] for name, o in optimisers.items()}
    scaler, good, compared = scaler_for(run), state_of(run), {}
    if preview is not None:
        run.show(preview.before, edited=False)
    for step in range(s.steps):
        comfy.model_management.throw_exception_if_processing_interrupted()
        if step % s.refresh == 0:
            _draw(run, preview)
        for name, optimiser in optimisers.items():
            for group, rate in zip(optimiser.param_groups, full[name], strict=True):
                group["lr"] = rate * share_of_rate(step, s.steps, s.lr_decay)
        now = state_of(run) if step % 20 == 0 else None
        losses = _one_step(run, begun(phases, step, s), optimisers, scaler)
        if losses is None:
            return _stop(run, progress, good, step)
        progress.losses.append(sum(losses))
        good = now or good  # only now is it known that losses can be computed from it
        if step + 1 in marks(s.steps, s.best_of):
            compared[step + 1] = state_of(run)
        on_step(step + 1, progress.losses[-1])
    if len(compared) > 1:
        progress.best = keep_the_best(run, phases, compared)
    if preview is not None:
        run.show(preview.after, edited=True)


def _draw(run: Run, preview: Preview | None) -> None:
    """New latents to learn on, and a look at what the concept has become."""
    run.sample(None if preview is None else preview.drawing)
    if preview is not None:
        run.show(preview.after, edited=True)


def _one_step(
    run: Run, phases: Sequence[Phase], optimisers: Mapping[str, torch.optim.Optimizer], scaler: torch.amp.GradScaler
) -> list[float] | None:
    """One update of every phase; the losses, or None once one of them is not finite."""
    losses: list[float] = []
    for phase in phases:
        optimisers[phase.trains].zero_grad()
        losses.append(backward(run, phase, scaler))
        if not _finite(losses[-1]):
            return None
        take_step(optimisers[phase.trains], scaler)
    run.follow()
    return losses


def scaler_for(run: Run) -> torch.amp.GradScaler:
    """Scales losses where the network computes in half precision, which would round small gradients to nothing."""
    device = run.network.device.type  # "mps" has no scaler
    return torch.amp.GradScaler(device, enabled=run.network.dtype == torch.float16 and device != "mps")


def backward(run: Run, phase: Phase, scaler: torch.amp.GradScaler) -> float:
    """One loss of one phase, which is returned, and its gradients times the scaler's scale."""

    def forward_and_backward() -> float:
        loss = phase.loss(run)
        if torch.isfinite(loss) and loss.requires_grad:  # it does not while the gate is closed for every row
            scaler.scale(loss).backward()  # inside the scope, because checkpointed layers are run once more here
        return float(loss.detach())

    with torch.set_grad_enabled(phase.trains == "delta"):
        weights = run.network.changed(run.delta)
    try:
        return run.network.computing_with(weights, forward_and_backward)
    except RuntimeError as error:
        if not any(words in str(error) for words in NO_GRADIENT):
            raise
        raise ErasureError(
            "A node in front of this one patches the model in a way that cannot be learned through (FreeU V2, Load "
            "Hypernetwork, …): connect the model that comes before it."
        ) from error


def take_step(optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Takes the step, unless there are no gradients, or half precision made some of them infinite."""
    if any(p.grad is not None for group in optimiser.param_groups for p in group["params"]):
        scaler.step(optimiser)
        scaler.update()


def _groups(module: nn.Module, name: str, settings: Settings) -> list[dict]:
    if isinstance(module, Delta | Mask):
        return module.groups(settings.weight_lr, settings.width)
    if isinstance(module, BranchLearner):
        return module.groups(settings.weight_lr, settings.width, settings.choice_lr)
    rate = settings.prompt_lr if name == "prompt" else settings.choice_lr
    return [{"params": list(module.parameters()), "lr": rate}]


def share_of_rate(step: int, steps: int, decay: float) -> float:
    """What is left of the learning rate at a step: 1, and over the last ``decay`` share of the steps a line to 0."""
    return min(1.0, (1 - step / steps) / decay) if decay > 0 else 1.0


def _finite(loss: float) -> bool:
    return loss == loss and abs(loss) != float("inf")


def _stop(run: Run, progress: Progress, good: dict[str, torch.Tensor], step: int) -> None:
    advice = "lower the learning rates, or load the checkpoint in fp32 or bf16"
    if not progress.losses:
        raise ErasureError(f"The loss is not a number from the first step on, so nothing was learned: {advice}.")
    restore(run, good)
    progress.stopped = f"The loss stopped being a number at step {step + 1}; the last good state was kept: {advice}."
    log.warning(progress.stopped)
