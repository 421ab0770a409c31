"""What the editor asks the server for, beside nodes: the files of Load Erasure, and which of them fit a model."""

import asyncio
import os
from datetime import date
from functools import lru_cache
from pathlib import Path

import folder_paths
from aiohttp import web
from server import PromptServer

from ..erasure.library import Card, Layers, read_card, read_layers
from .files import KIND
from .folders import newest_first

ROUTE = "/concept_erasure/erasures"
MODEL_FOLDERS = ("checkpoints", "diffusion_models")
MANY = 4096
"""Files of which is remembered what they say."""


def register_routes() -> None:
    """Adds the route to the host's server, where there is one."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.get(ROUTE)(answer)


async def answer(request: web.Request) -> web.Response:
    """All erasures, as ``cards`` has them. ``?folder=checkpoints&model=NAME`` asks which of them fit a model."""
    folder, model = (request.rel_url.query.get(name, "") for name in ("folder", "model"))
    return web.json_response(await asyncio.to_thread(cards, folder, model))


def cards(folder: str = "", model: str = "") -> list[dict]:
    """What each file of Load Erasure's list says of itself, in the list's order.

    ``fits``: whether it can go onto a model in one of the host's folders; None where one of the two does not say.
    """
    layers = layers_of(folder, model)
    facts = []
    for name in newest_first(KIND):
        path = folder_paths.get_full_path(KIND, name)
        card = _remembered(read_card, path) if path else None
        facts.append({"name": name, **(_shown(card, path, layers) if path and card else {})})
    return facts


def _shown(card: Card, path: str, layers: Layers | None) -> dict:
    return {
        "line": card.line(),
        "base": card.base,
        "method": card.method,
        "date": date.fromtimestamp(os.path.getmtime(path)).isoformat(),
        "has_picture": card.has_picture,
        "fits": None if layers is None else layers.fit(card),
    }


def layers_of(folder: str, model: str) -> Layers | None:
    """What a model's file says of its layers; None for one that is in none of the host's folders, or does not say."""
    path = folder_paths.get_full_path(folder, model) if folder in MODEL_FOLDERS and model else None
    return _remembered(read_layers, path) if path and path.endswith(".safetensors") else None


def _remembered(read, path: str):
    """What a file says, read anew when it has changed."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return _read(read, path, facts.st_mtime_ns, facts.st_size)


@lru_cache(MANY)
def _read(read, path: str, changed: int, size: int):
    return read(Path(path))
