"""Which of a training's last states is kept: the one with the least loss on latents that nothing was learned on.

The loss of a step says little of how good a state is, for every step has other latents and other noise levels. Here a
few states, and their mean, are compared on the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from .run import Run

if TYPE_CHECKING:
    from .loop import Phase

LAST = 0.25
"""The states are taken over the last share of the steps."""
FEWEST = 20
"""Trainings of fewer steps keep their last state; comparing would take as long as they do."""
ROUNDS = 4
"""Batches of each loss that states are compared on."""
MARGIN = 0.02
"""Share by which the loss must be lower for another state to take the last one's place."""
HELD = 7919
"""Added to the seed for the latents that states, or two starts, are compared on."""

State = dict[str, torch.Tensor]


def marks(steps: int, count: int) -> list[int]:
    """After which steps a state is taken, the last step always among them."""
    if count < 2 or steps < FEWEST:
        return [steps]
    return sorted({round(steps * (1 - LAST * k / (count - 1))) for k in range(count)})


def state_of(run: Run) -> State:
    """Everything that learns, and the average of the delta, as it stands now."""
    modules = run.learned | ({} if run.average is None else {"average": run.average})
    return {f"{m}.{k}": v.detach().clone() for m, module in modules.items() for k, v in module.state_dict().items()}


def restore(run: Run, state: Mapping[str, torch.Tensor]) -> None:
    """Puts everything back to a state."""
    for name, module in {**run.learned, "average": run.average}.items():
        if module is not None:
            own = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
            module.load_state_dict(own)
    run.keep_up()


def keep_the_best(run: Run, phases: Sequence[Phase], states: Mapping[int, State]) -> str:
    """Leaves the run in the best of its states, by step; returns which one that is, in words."""
    last = max(states)
    named = {f"after {step} steps": state for step, state in states.items() if step != last}
    named = {"the last one": states[last], **named, "the mean of them": _mean(list(states.values()))}
    losses = dict(zip(named, _losses(run, phases, named.values()), strict=True))
    best = min(losses, key=lambda name: losses[name])
    if losses[best] >= losses["the last one"] * (1 - MARGIN):
        best = "the last one"
    restore(run, named[best])
    return best


def _mean(states: Sequence[State]) -> State:
    return {name: sum(state[name] for state in states) / len(states) for name in states[0]}  # type: ignore[misc]


def _losses(run: Run, phases: Sequence[Phase], states: Iterable[State]) -> Iterator[float]:
    """The mean loss of each state, all on the same held latents."""
    own = [phase for phase in phases if phase.trains not in run.choices]
    with run.apart(run.settings.seed + HELD), torch.no_grad():
        run.sample()
        start = run.generator.get_state()
        for state in states:
            restore(run, state)
            run.generator.set_state(start)
            weights = run.network.changed(run.delta)
            found = [run.network.computing_with(weights, partial(phase.loss, run)) for phase in own * ROUNDS]
            yield float(sum(map(float, found))) / ROUNDS
