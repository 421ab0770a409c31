"""Nodes speak the editor's language: it tells the server which, and what a node says is translated on its way there."""

import json
import re
from functools import lru_cache
from pathlib import Path

from aiohttp import web
from server import PromptServer

from ..erasure.texts.catalogue import Catalogue

ROUTE = "/concept_erasure/language"
LOCALES = Path(__file__).resolve().parents[1] / "locales"
CUT = re.compile("…[.。।]")
"""Three dots and a full stop behind them."""
MOST = 64
"""Editors that are remembered; who comes back says its language again."""
languages: dict[str, str] = {}
"""The language of each editor, by the number under which the server knows it."""


def register_routes() -> None:
    """Has the server take languages, where there is a server."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.post(ROUTE)(hear)


async def hear(request: web.Request) -> web.Response:
    """An editor says which language it has: ``{"client": "…", "language": "ja"}``."""
    try:
        message = await request.json()
        client, language = message["client"], message["language"]
    except (ValueError, KeyError, TypeError):
        return web.Response(status=400)
    if not isinstance(client, str) or not isinstance(language, str):
        return web.Response(status=400)
    languages.pop(client, None)
    languages[client] = language
    while len(languages) > MOST:
        del languages[next(iter(languages))]
    return web.Response()


def in_language(text: str) -> str:
    """The text in the language of the editor that the current prompt came from; English for everybody else.

    Three dots end a sentence: behind a list that is cut no full stop follows them.
    """
    server = getattr(PromptServer, "instance", None)
    catalogue = _catalogue(languages.get(getattr(server, "client_id", None) or "", ""))
    return CUT.sub("…", text if catalogue is None else catalogue.translate(text))


@lru_cache
def _catalogue(language: str) -> Catalogue | None:
    """The sentences of a language; None for one that is not there."""
    paths = {path.parent.name: path for path in LOCALES.glob("*/sentences.json")}
    if language not in paths:
        return None
    return Catalogue(json.loads(paths[language].read_text(encoding="utf-8")))
