"""What the editor shows of our nodes in other languages than English."""

import json
from pathlib import Path

import pytest

from scripts.notes import NOTE, NUMBER, translations
from scripts.template_words import PEOPLE
from scripts.templates import TEMPLATES
from tests.browser.editor import READY
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


NOTES = "kind => app.graph.nodes.filter(node => node.type == kind).map(node => [node.title, node.widgets[0].value])"
GROUPS = "() => app.graph.groups.map(group => group.title)"
EMPTY_BOX = "text => [...document.querySelectorAll('textarea')].some(box => box.placeholder == text)"
IS_MODIFIED = "() => app.extensionManager.workflow.activeWorkflow.isModified"


@pytest.mark.parametrize("language", ["ja"])
def test_a_template_is_read_in_the_users_language_and_a_note_of_ones_own_stays(editor, language):
    told = translations(language)

    def in_language(text):
        return "\n".join((NUMBER.match(line) or [""])[0] + told[NUMBER.sub("", line)] for line in text.split("\n"))

    workflow = json.loads((PEOPLE.folder / f"{TEMPLATES[0].title}.json").read_text(encoding="utf-8"))
    [note] = [node for node in workflow["nodes"] if node["type"] == NOTE]
    groups = [group["title"] for group in workflow["groups"]]
    [text] = note["widgets_values"]
    editor.load(workflow, "template")
    assert editor.ask(NOTES, NOTE) == [[in_language(note["title"]), in_language(text)]]
    assert editor.ask(GROUPS) == [in_language(title) for title in groups]
    titles = {node["title"] for node in workflow["nodes"] if node.get("title")}
    assert set(map(in_language, titles)) <= set(editor.ask("() => app.graph.nodes.map(node => node.title)"))
    editor.until(EMPTY_BOX, told["what must stay (empty: found for you)"])
    assert not editor.ask(IS_MODIFIED)
    editor.shot(f"note_{language}")

    note["widgets_values"] = [text + "\nMy own line."]
    editor.load(workflow, "mine")
    assert editor.ask(NOTES, NOTE) == [[note["title"], text + "\nMy own line."]]
    assert editor.ask(GROUPS) == groups

    note["widgets_values"] = [text]
    editor.page.route("**/notes/*.json", lambda route: route.abort())
    editor.page.reload()
    editor.until(READY)
    editor.load(workflow, "without")
    assert editor.ask(NOTES, NOTE) == [[note["title"], text]], "without the file it is English"
