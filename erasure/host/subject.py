"""A MODEL with what an erasure has to know of it: family, text entry, text width, fingerprint; each worked out once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch

from ..artifact import ErasureError
from ..families import FAMILIES, family_of
from ..families.family import Family
from ..protocols import Clip, Model
from ..texts.encoder import Encoder
from .fingerprint import Fingerprint, fingerprint_of
from .weights import Weights, shape_of


class Subject:
    """``model``: the host's MODEL; ``family``: of its network."""

    def __init__(self, model: Model, family: Family):
        self.model, self.family = model, family

    @cached_property
    def entry(self) -> list[str]:
        """Names of the weights whose input is the text encoding."""
        return self.family.text_entry(self.model.model)

    @cached_property
    def width(self) -> int:
        """Of the text encodings that the network reads."""
        name = self.entry[0]
        return shape_of(self.model, name, self.model.model.get_parameter(name))[1]

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Which checkpoint it is; its patches (LoRA, other erasures) do not count."""
        return fingerprint_of(self.model, self.entry)

    @cached_property
    def front(self) -> str:
        """What the weights that text passes before the entry are like; empty where there are none."""
        weights, names = Weights(self.model), self.family.in_front(self.model.model)
        digest = hashlib.sha256()
        for name in names:
            digest.update(weights[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16] if names else ""

    def encodings(self, rows: torch.Tensor, tokens: Mapping[str, Sequence]) -> torch.Tensor:
        """What the text entry is given for a text whose encoder gives ``rows`` [n, d]; see ``Family``. Raises
        ErasureError for a text encoder of another model."""
        try:
            with torch.no_grad():
                return self.family.encodings(self.model.model, rows, tokens)
        except torch.OutOfMemoryError:
            raise
        except (KeyError, RuntimeError, ValueError) as error:  # other tokens, or another width
            raise ErasureError(
                f"This model ({self.family.name}) cannot read the CLIP's encodings, which are {rows.shape[-1]} wide: "
                "connect the CLIP that belongs to this model."
            ) from error

    @property
    def adapts(self) -> bool:
        """Whether texts pass what stands in front of the entry before a run; see ``Family``."""
        return self.family.adapts and bool(self.front)

    def reader(self, clip: Clip, on_read: Callable[[int, int], None] = lambda done, total: None) -> Encoder:
        """An encoder that gives texts as a run is given them."""
        return Encoder(clip, on_read, self if self.adapts else None)

    def adapted(self, cond: list) -> list:
        """The host's conditioning of one text, with that done that is done before a run."""
        with torch.no_grad():
            return self.family.adapted(self.model.model, cond)

    @property
    def kind(self) -> str:
        """The host's class of models."""
        return type(self.model.model.model_config).__name__

    def weights(self, choice: str) -> list[str]:
        """Names of the weights that a choice changes. Raises ErasureError for a choice that the family lacks."""
        return self.family.weights(self.model.model, choice)

    def stamp(self) -> dict[str, str]:
        """What an erasure's metadata says of the model that it was made for."""
        return {"family": self.kind, "context_dim": str(self.width), "fingerprint": str(self.fingerprint)}

    def require_blocks(self, blocks: str) -> None:
        """Raises ErasureError when a prompt for these blocks would join nowhere."""
        choices = self.family.blocks(self.model.model)
        if not choices:
            raise ErasureError(
                f"An erasure prompt cannot join {self.family.name} models in this ComfyUI: use an erasure without a "
                "key, or made by Erase Concept or Instant Erasure."
            )
        if blocks not in choices:
            raise ErasureError(
                f"The erasure prompt attaches to blocks '{blocks}', and the connected model ({self.kind}) has no "
                f"cross-attention on text there: train it with blocks set to "
                f"{' or '.join(map(repr, choices))}, which this model has."
            )


def subject(model: Model) -> Subject:
    """Raises ErasureError, naming the MODEL, when its network is of no family that is known."""
    family = family_of(model.model)
    if family is None:
        raise ErasureError(
            f"This model ({type(model.model).__name__}) is of no kind that this pack can erase from: use a checkpoint "
            f"of {', '.join(family.name for family in FAMILIES)}."
        )
    return Subject(model, family)
