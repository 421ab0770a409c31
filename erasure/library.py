"""Files of erasures as a library: what a file is called, and the card by which a person tells one from another."""

from __future__ import annotations

import base64
import io
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open

from .artifact import Erasure, Metadata
from .families import FAMILIES
from .files import OWN_STRINGS, THUMBNAIL, contents
from .host.fingerprint import hash_of_shapes, parse_fingerprint
from .texts.names import plain, short
from .verdict import read_verdict

BASES = {
    "SD15": "SD 1.5", "SD20": "SD 2", "SD21UnclipL": "SD 2.1 unCLIP", "SD21UnclipH": "SD 2.1 unCLIP",
    "SDXL": "SDXL", "SDXLRefiner": "SDXL Refiner",
}  # fmt: skip
"""The host's classes of models as people call them."""
NOTHING = "nothing"
"""What the target is called when nothing takes the concept's place."""
MOVED = re.compile(r"(?::|predictions|concepts) moved (?:only |at least )?(?:(less than 1)|(-?\d+)) % of the way")
"""How the verdict says it of a concept; it says the same of single words in other words."""
LONGEST_TOKEN = 60
"""Bytes of a token in a file's name: systems allow 255 for the whole of it."""
NAMES_IN_TITLE = 3
SIDE = 256
"""Pixels of a thumbnail's longer side."""
LARGEST_PICTURE = 20_000
"""Bytes of a thumbnail."""
QUALITIES = (85, 70, 50, 30, 15)
ORDINARY = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""Precisions of .safetensors files whose shapes are those of the weights; others are packed."""
NETWORK_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")

# ---------------------------------------------------------------- names of files


def fill_in(prefix: str, erasure: Erasure) -> str:
    """A name for a file with what an erasure says of itself in the place of ``%concept%``, ``%target%``, ``%method%``
    and ``%family%``."""
    m = erasure.metadata
    targets = [text or NOTHING for text in erasure.targets] if m.target else []
    values = {
        "concept": _counted(erasure.names),
        "target": _counted(list(dict.fromkeys(targets))),
        "method": safe_name(m.method),
        "family": safe_name(m.family),
    }
    for name, value in values.items():
        prefix = prefix.replace(f"%{name}%", value or "unknown")
    return prefix


def _counted(names: Sequence[str]) -> str:
    """Names for a file's name: of more than three, two and the number of the others."""
    few = names if len(names) <= NAMES_IN_TITLE else names[:2]
    more = [f"and_{len(names) - len(few)}_more"] if len(few) < len(names) else []
    room = LONGEST_TOKEN // max(1, len(few))
    return "_".join([*filter(None, (safe_name(name, room) for name in few)), *more])


def safe_name(text: str, most: int = LONGEST_TOKEN) -> str:
    """Letters and digits of every script, with hyphens for the rest: no sign that a system or a token could read.

    ``most``: bytes that it may take in UTF-8.
    """
    marks = unicodedata.normalize("NFC", plain(text))
    name = "".join(c if unicodedata.category(c)[0] in "LMN" else "-" for c in marks)
    cut = re.sub("-+", "-", name).encode()[:most].decode(errors="ignore")
    return cut.strip("-")


# ---------------------------------------------------------------- pictures


def thumbnail(picture: torch.Tensor) -> str:
    """A small JPEG of a picture [height, width, 3] of numbers from 0 to 1, as a data URI."""
    pixels = (picture[..., :3].detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    image = Image.fromarray(pixels.numpy())
    image.thumbnail((SIDE, SIDE))
    for quality in QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= LARGEST_PICTURE:
            break
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


# ---------------------------------------------------------------- cards


@dataclass(frozen=True)
class Card:
    """What a file says of itself, without its tensors.

    ``title``: "circle → heart"; ``base``: the models it is for, as people call them; ``share``: how far the concept
    moved, empty where that was not computed; ``mark``: the verdict's; ``width`` and ``shapes``: of the text and the
    layers that it fits, empty where it does not say.
    """

    title: str = ""
    base: str = ""
    share: str = ""
    mark: str = ""
    method: str = ""
    has_key: bool = False
    has_picture: bool = False
    width: str = ""
    shapes: str = ""

    def line(self) -> str:
        """All of it in one line."""
        doubt = f"{self.mark} " if self.mark in ("⚠", "✗") else ""
        way = f"{self.share} of the way" if self.share else ""
        key = "with its key" if self.has_key else ""
        return doubt + " · ".join(filter(None, (self.title, self.base, way, key)))


def read_card(path: Path) -> Card | None:
    """The card of a file; None for one that holds no erasure or cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            strings = file.metadata() or {}
    except (SafetensorError, OSError, ValueError):
        return None
    return card(strings) if set(strings) >= OWN_STRINGS else None


def card(strings: Mapping[str, str]) -> Card:
    """The card of a file with these strings."""
    known = {field.name for field in fields(Metadata)}
    m = Metadata(**{name: text for name, text in strings.items() if name in known})
    verdict, made_on = read_verdict(m.verdict), parse_fingerprint(m.fingerprint)
    return Card(
        title(Erasure(m)),
        BASES.get(m.family, m.family),
        _share(verdict.text()),
        verdict.mark,
        m.method,
        _has_key(strings),
        THUMBNAIL in strings,
        m.context_dim,
        made_on.shapes if made_on else "",
    )


def _has_key(strings: Mapping[str, str]) -> bool:
    try:
        return any(part.get("role") == "key" for part in contents(strings, ()))
    except (KeyError, ValueError, TypeError):  # damaged, or of a newer version
        return False


def title(erasure: Erasure) -> str:
    """What becomes what, for a list: "circle → heart"."""
    names, targets = erasure.names, dict.fromkeys(erasure.targets)
    if not erasure.metadata.target:
        return _listed(names)
    if len(targets) == 1:
        return f"{_listed(names)} → {_listed(list(targets))}"
    return _listed([f"{a} → {b or NOTHING}" for a, b in zip(names, erasure.targets, strict=False)])


def _listed(texts: Sequence[str]) -> str:
    few = texts if len(texts) <= NAMES_IN_TITLE else texts[:2]
    more = f" and {len(texts) - len(few)} more" if len(few) < len(texts) else ""
    return ", ".join(short(plain(text)) or NOTHING for text in few) + more


def _share(verdict: str) -> str:
    """The least share of the way that a verdict names."""
    shares = [0 if few else int(number) for few, number in MOVED.findall(verdict)]
    return "" if not shares else f"{min(shares)} %" if min(shares) else "less than 1 %"


# ---------------------------------------------------------------- which models a file is for


@dataclass(frozen=True)
class Layers:
    """What the layers of a model that read text are like: width of the text, and the hash of their shapes, empty where
    the file does not say."""

    width: str
    shapes: str = ""

    def fit(self, card: Card) -> bool:
        """Whether the erasure on a card can go onto the model."""
        if self.shapes and card.shapes:
            return self.shapes == card.shapes
        return not card.width or self.width == card.width


def read_layers(path: Path) -> Layers | None:
    """The layers of a model in a .safetensors file; None where the file does not say.

    Only the header is read. Packed weights do not say, and other programs' names of layers say the width alone.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size <= 100_000_000 else {}
    except (OSError, ValueError):
        return None
    named = {name: fact for name, fact in header.items() if isinstance(fact, dict)}
    family = next((family for family in FAMILIES if any(map(family.reads_text, named))), None)
    facts = {name: fact for name, fact in named.items() if family and family.reads_text(name)}
    if family is None or any(fact.get("dtype") not in ORDINARY for fact in facts.values()):
        return None
    prefix = next(prefix for prefix in NETWORK_PREFIXES if all(name.startswith(prefix) for name in facts))
    shapes = {name.removeprefix(prefix): fact["shape"] for name, fact in facts.items()}
    width = str(next(iter(shapes.values()))[-1])
    if not all(map(family.is_own_name, shapes)):
        return Layers(width)
    return Layers(width, hash_of_shapes({f"diffusion_model.{name}": shape for name, shape in shapes.items()}))
