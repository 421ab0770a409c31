"""What a world in another architecture says of itself; how it is trained and judged is the same for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.ops
import comfy.supported_models_base
import torch
from torch import nn

FOLDER = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Reading:
    """Texts as the network is given them.

    ``conds``: what ``BaseModel.apply_model`` takes beside latents, ``c_crossattn`` [b, n, d] first of all.
    ``summaries``: rows [b, d] in which a text encoder has everything that a text says.
    """

    conds: Mapping[str, torch.Tensor]
    summaries: Sequence[torch.Tensor]


class Texts(nn.Module):
    """A world's text encoder, as it is trained: the host's own classes, with many texts at once."""

    prefix = "text_encoders."
    tokenizer_class: Callable[[], Any]
    model_class: Callable[..., nn.Module]
    streams: Mapping[str, str]
    """Each stream of tokens, and the part of the model that reads it."""
    tables: Mapping[str, nn.Module]
    """The small table of each stream of tokens."""
    dropping = True
    """Whether a network that reads two things of a text is sometimes given one of them alone."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = self.tokenizer_class()
        self.model = self.model_class(model_options={"custom_operations": comfy.ops.disable_weight_init})
        self.tables = {stream: self.encoder(stream).transformer.get_input_embeddings() for stream in self.streams}

    def encoder(self, stream: str) -> nn.Module:
        """What reads a stream."""
        return getattr(self.model, self.streams[stream])

    def watch(self, network: nn.Module) -> None:
        """Is told the network, where reading or padding is partly its own."""

    def tokens(self, text: str) -> dict[str, list[int]]:
        """Token numbers of each stream, as the host's tokenizer gives them, without weights."""
        tokens = self.tokenizer.tokenize_with_weights(text)
        return {stream: [token for token, *_ in chunks[0]] for stream, chunks in tokens.items()}

    def fits(self, tokens: Mapping[str, list[int]]) -> bool:
        """Whether a text is short enough to train on; a long one makes a whole batch slow."""
        return True

    def read(self, tokens: Sequence[Mapping[str, list[int]]]) -> Reading:
        """Encodes a batch with gradients."""
        raise NotImplementedError

    def given(self, rows: torch.Tensor, share: float) -> torch.Tensor:
        """All rows but the last, [b, ...]; a random share of them gives way to the last, which is the empty text's."""
        empty = torch.rand(len(rows) - 1) < (share if self.dropping else 0)
        return torch.where(empty.reshape(-1, *[1] * (rows.ndim - 1)), rows[-1:], rows[:-1])

    def state(self) -> dict[str, torch.Tensor]:
        """Its tensors under the names that the host's checkpoints have for them."""
        return {
            f"{self.prefix}{part}.transformer.{name}": value
            for stream, part in self.streams.items()
            for name, value in self.encoder(stream).transformer.state_dict().items()
        }


@dataclass(frozen=True)
class World:
    """One architecture of the toy world."""

    name: str
    family: type[comfy.supported_models_base.BASE]
    network: Mapping[str, object]
    texts: Callable[[], Texts]
    steps: int
    batch: int = 48
    rate: float = 1.2e-3
    silent: Sequence[str] = ()
    """Ends of the names of weights that are zero at first, so that a block does nothing before it has learned to."""
    colours_from: float = 0.5
    """Share of the steps after which an error along the line of colours counts more."""
    cfg: float = 4.5
    scheduler: str = "simple"
    latent: Sequence[int] = (4, 8, 8)
    vae_prefix: str = "vae."
    start: Callable[[nn.Module], None] = lambda network: None
    """Puts weights that are there already into the new network."""
    file: str = ""

    @property
    def checkpoint(self) -> Path:
        return FOLDER / (self.file or f"toyworld_{self.name}.safetensors")
