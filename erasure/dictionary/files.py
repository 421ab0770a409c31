"""A concept dictionary and its file. torch and safetensors only.

A file holds the tensors of each block's autoencoder under the block's number, ``0.decoder``, in half precision but for
what is small; and as strings what it is of and how well it explains that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch

from ..artifact import ErasureError
from ..files import read_tensors, write_tensors
from .autoencoder import Autoencoder

KIND = "concept_dictionary"
VERSION = "1"
HALF = ("decoder", "encoder")
MOST_LINES = 3
"""So many blocks have a line each in what a dictionary says of itself."""


@dataclass(frozen=True)
class Quality:
    """Of one block's autoencoder: the share of the variance that it explains, features that are active on average, and
    how many are never active."""

    explained: float
    active: float
    dead: int


@dataclass(frozen=True)
class About:
    """What a dictionary says of itself; strings, as safetensors wants them."""

    family: str = ""
    context_dim: str = ""
    fingerprint: str = ""
    pictures: str = ""
    texts: str = ""
    sampling: str = ""
    seconds: str = ""
    pack_version: str = ""


@dataclass(frozen=True)
class ConceptDictionary:
    """Autoencoders by the names of the blocks that they are of, and their ``quality``."""

    about: About
    nets: Mapping[str, Autoencoder]
    quality: Mapping[str, Quality] = field(default_factory=dict)

    def tensors(self) -> dict[str, torch.Tensor]:
        """As a file has them."""
        out = {}
        for i, net in enumerate(self.nets.values()):
            for name, tensor in net.state_dict().items():
                if name != "idle":
                    out[f"{i}.{name}"] = tensor.detach().cpu().to(torch.float16 if name in HALF else torch.float32)
        return out

    def identity(self) -> str:
        """A short hash of its tensors: the same whatever file it came from."""
        digest = hashlib.sha256(json.dumps(list(self.nets)).encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def lines(self) -> list[str]:
        """What it is worth, a line a block; of many blocks one line for all."""
        if len(self.quality) > MOST_LINES:
            each = list(self.quality.values())
            shares = sorted(100 * one.explained for one in each)
            features = sum(self.nets[point].features for point in self.quality)
            active, dead = sum(one.active for one in each) / len(each), sum(one.dead for one in each)
            return [
                f"{len(each)} blocks: {features} features explain {shares[0]:.0f} to {shares[-1]:.0f} % of the "
                f"variance, {active:.1f} at a time; {dead} are dead."
            ]
        return [
            f"{point}: {self.nets[point].features} features explain {100 * one.explained:.0f} % of the variance, "
            f"{one.active:.1f} at a time; {one.dead} are dead."
            for point, one in self.quality.items()
        ]


def save_dictionary(dictionary: ConceptDictionary, path: str | Path) -> None:
    """Writes the file in one move. Raises ErasureError when the disk is full or the place cannot be written."""
    strings = {name: text for name, text in asdict(dictionary.about).items() if text}
    quality = {point: asdict(one) for point, one in dictionary.quality.items()}
    strings |= {"kind": KIND, "format_version": VERSION, "blocks": json.dumps(list(dictionary.nets))}
    write_tensors(dictionary.tensors(), {**strings, "quality": json.dumps(quality)}, Path(path))


def load_dictionary(path: str | Path) -> ConceptDictionary:
    """Reads what ``save_dictionary`` wrote. Raises ErasureError, with what to do, for any other file."""
    path = Path(path)
    tensors, strings = read_tensors(path)
    if strings.get("kind") != KIND:
        raise ErasureError(
            f"'{path.name}' holds no concept dictionary: choose a file that Train Concept Dictionary made."
        )
    if strings["format_version"] != VERSION:
        raise ErasureError(f"'{path.name}' was written by a newer version of this pack: update the pack to open it.")
    try:
        nets = {point: _net(tensors, i) for i, point in enumerate(json.loads(strings["blocks"]))}
        quality = {point: Quality(**facts) for point, facts in json.loads(strings["quality"]).items()}
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ErasureError(f"'{path.name}' lacks a part of its dictionary: download or make it again.") from error
    known = {one.name for one in fields(About)}
    return ConceptDictionary(About(**{k: v for k, v in strings.items() if k in known}), nets, quality)


def _net(tensors: Mapping[str, torch.Tensor], number: int) -> Autoencoder:
    own = {name.partition(".")[2]: t.float() for name, t in tensors.items() if name.startswith(f"{number}.")}
    features, width = own["decoder"].shape
    net = Autoencoder(width, features)
    net.load_state_dict({**own, "idle": torch.zeros(features, dtype=torch.long)})
    return net.requires_grad_(False)
