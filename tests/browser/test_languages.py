"""What the editor shows of our nodes in other languages than English."""

import json
from pathlib import Path

import pytest

from tests.browser.graphs import drawing

LOCALES = Path(__file__).resolve().parents[2] / "locales"
LANGUAGES = ("zh", "zh-TW", "ja", "ko", "fr", "es", "pt-BR", "ru", "tr")
"""Ours that this version of the editor can be set to."""


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_node_is_found_and_labelled_in_the_users_language(editor, info, language):
    told = json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))
    editor.load(drawing(info), language)
    apply = told["ErasureApply"]
    name = apply["display_name"]
    erase = editor.place(editor.search(name, at=(600, 200)), name, at=(600, 240))
    titles = "() => Object.fromEntries(Object.entries(LiteGraph.registered_node_types).map(([k, n]) => [k, n.title]))"
    assert {k: v for k, v in editor.ask(titles).items() if k in told} == {k: v["display_name"] for k, v in told.items()}
    assert editor.ask("id => app.graph.getNodeById(id).title", erase) == name
    labels = "id => app.graph.getNodeById(id).inputs.map(input => [input.name, input.localized_name])"
    assert dict(editor.ask(labels, erase)) == {key: entry["name"] for key, entry in apply["inputs"].items()}
    editor.shot(f"language_{language}")
