"""Erasures that were solved before: another strength on the node asks for the same one again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from weakref import WeakKeyDictionary

from torch import nn

from .artifact import Erasure
from .host.attach import applied
from .host.subject import subject
from .protocols import Model
from .texts.encoder import Encoder
from .texts.recall import hashed

MOST = 8
"""Erasures that are remembered of a model."""
LARGEST = 64 << 20
"""Bytes of an erasure that is remembered."""

_solved: WeakKeyDictionary[nn.Module, OrderedDict[str, Erasure]] = WeakKeyDictionary()


def solved(
    model: Model, encode: Encoder, request: object, texts: Sequence[str], settings, solve: Callable[[], Erasure]
) -> Erasure:
    """The erasure of a request, solved at most once for the same MODEL, CLIP and settings; all that ``solve`` reads
    is in them. ``texts``: those of the request, which an embedding can stand in."""
    if encode.recall.identity is None:
        return solve()
    key = hashed([repr(request), repr(asdict(settings)), encode.recall.named(texts), _on(model)])
    of_model = _solved.setdefault(model.model, OrderedDict())
    if key not in of_model:
        erasure = solve()
        if sum(part.bytes() for part in erasure.parts) > LARGEST:
            return erasure
        of_model[key] = erasure
    of_model.move_to_end(key)
    while len(of_model) > MOST:
        of_model.popitem(last=False)
    return of_model[key]


def forget() -> None:
    """Forgets all erasures."""
    _solved.clear()


def _on(model: Model) -> str:
    """What a MODEL is, with the patches and the erasures that are on it."""
    before = [(one.erasure.identity(), one.erasure.metadata, one.strength, one.window) for one in applied(model)]
    return repr((model.patches_uuid, str(subject(model).fingerprint), before))
