"""What blocks of a MODEL give out while the host's sampler draws with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import comfy.model_patcher
import torch

from ..artifact import ErasureError
from ..dictionary.store import Recording
from ..families.family import Hook
from ..families.rows import Rows
from ..texts.encoder import Encoder
from .network import rows_as_conditioning
from .subject import subject
from .trajectories import Sampling, sample_trajectory


@contextlib.contextmanager
def hooked(model, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """Hooks on blocks of a MODEL; on the MODEL itself, because a clone would have the host load it anew."""
    before = model.model_options
    model.model_options = comfy.model_patcher.create_model_options_clone(before)
    options = model.model_options.setdefault("transformer_options", {})
    subject(model).family.hook(options, hooks, lambda options: True)
    try:
        yield
    finally:
        model.model_options = before


def points_of(model, wanted: Sequence[str] = ()) -> list[str]:
    """The modules of the blocks that are wanted, or of the best. Raises ErasureError for what the model does not
    have."""
    here = subject(model)
    known = here.family.points(model.model)
    if not known:
        raise ErasureError(
            f"What blocks give out cannot be steered on {here.family.name} models: use Erase Concept or Instant "
            "Erasure."
        )
    strange = [name for name in wanted if name not in known]
    if strange:
        raise ErasureError(
            f"The connected model has no block '{strange[0]}': choose some of {', '.join(known)}, one a line."
        )
    return [known[name] for name in (wanted or here.family.best_points(model.model))]


def draw(
    model, encode: Encoder, texts: Sequence[str], how: Sampling, seed: int, hooks: Mapping[str, Hook],
) -> torch.Tensor:  # fmt: skip
    """Draws a picture for each text at once, with hooks on blocks: clean latents, one a text, in the model's own scale.
    The same seed gives the same noise."""
    generator = torch.Generator().manual_seed(seed)
    rows = rows_as_conditioning([encode(text) for text in texts])
    last: list[torch.Tensor] = []
    with hooked(model, hooks):
        sample_trajectory(
            model, rows, encode("").cond, how, len(texts), generator,
            lambda step, x0, x, total: last.append(x0) if step + 1 >= total else None,
        )  # fmt: skip
    return last[-1].detach().cpu()


class Keeping:
    """The hook that keeps some vectors of a block, ``each`` of every row."""

    def __init__(self, each: int, generator: torch.Generator):
        self.each, self.generator = each, generator
        self.vectors: list[torch.Tensor] = []

    def __call__(self, x: torch.Tensor, rows: Rows) -> None:
        flat = x.reshape(-1, x.shape[-1])
        count = min(len(flat), self.each * len(x))
        places = torch.randperm(len(flat), generator=self.generator)[:count]
        self.vectors.append(flat[places.to(x.device)].to("cpu", torch.float16))


def record(
    model, encode: Encoder, texts: Sequence[Sequence[str]], points: Sequence[str], how: Sampling, each: int,
    seed: int, recording: Recording, on_part: Callable[[int, int], None] = lambda done, total: None,
) -> None:  # fmt: skip
    """Draws texts, a part of them after the other, and keeps ``each`` vectors of every row. Parts that are there
    already are not drawn again."""
    for number, part in enumerate(texts):
        if not recording.has(number):
            generator = torch.Generator().manual_seed(seed + number)
            hooks = {point: Keeping(each, generator) for point in points}
            draw(model, encode, part, how, seed + number, hooks)
            recording.add(number, {point: torch.cat(hook.vectors) for point, hook in hooks.items()})
        on_part(number + 1, len(texts))
