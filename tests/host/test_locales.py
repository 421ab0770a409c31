"""What the editor shows in other languages: ``locales/LANGUAGE/nodeDefs.json``, keyed by node id."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from concept_erasure.nodes import ConceptErasureExtension

REPO = Path(__file__).resolve().parents[2]
LOCALES = REPO / "locales"
TRANSLATIONS = ("zh", "zh-TW", "ja", "ko", "fr", "es", "pt-BR", "de", "ru", "tr")
LANGUAGES = ("en", *TRANSLATIONS)


def text_of(language: str) -> str:
    return (LOCALES / language / "nodeDefs.json").read_bytes().decode("utf-8")


def told(language: str) -> dict:
    return json.loads(text_of(language))


def schemas() -> dict:
    nodes = asyncio.run(ConceptErasureExtension().get_node_list())
    return {schema.node_id: schema for schema in (node.define_schema() for node in nodes)}


def sockets() -> dict:
    """Every node's input names, and output numbers as text."""
    return {
        node_id: {
            "inputs": {i.id for i in schema.inputs},
            "outputs": {str(number) for number in range(len(schema.outputs or []))},
        }
        for node_id, schema in schemas().items()
    }


def named(language: str) -> dict:
    """The inputs and outputs that a language names, as ``sockets`` has them."""
    return {
        node_id: {part: set(node.get(part, {})) for part in ("inputs", "outputs")}
        for node_id, node in told(language).items()
    }


def strings(value) -> list[str]:
    return [value] if isinstance(value, str) else [text for part in value.values() for text in strings(part)]


@pytest.fixture(autouse=True)
def folders(output):
    """Load Erasure's schema lists a folder."""


def test_no_language_came_or_went_unseen():
    assert {path.parent.name for path in LOCALES.glob("*/nodeDefs.json")} == set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_has_a_name_and_a_description(language):
    nodes = told(language)
    for node_id in schemas():
        for part in ("display_name", "description"):
            assert nodes.get(node_id, {}).get(part, "").strip(), f"{language}: {node_id} has no {part}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_is_said_of_what_does_not_exist(language):
    real = sockets()
    for node_id, parts in named(language).items():
        assert node_id in real, f"{language}: there is no node {node_id}"
        for part, names in parts.items():
            assert names <= real[node_id][part], f"{language}: {node_id} has no {part} {names - real[node_id][part]}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_other_words_are_used_than_the_editor_reads(language):
    for node_id, node in told(language).items():
        assert set(node) <= {"display_name", "description", "inputs", "outputs"}, f"{language}: {node_id}"
        for name, socket in (*node.get("inputs", {}).items(), *node.get("outputs", {}).items()):
            assert set(socket) == {"name"} and socket["name"].strip(), f"{language}: {node_id}: {name}"


def test_english_is_what_the_schema_says():
    said = {s.node_id: {"display_name": s.display_name, "description": s.description} for s in schemas().values()}
    assert told("en") == said


@pytest.mark.parametrize("language", TRANSLATIONS[1:])
def test_all_languages_name_the_same_inputs_and_outputs(language):
    assert named(language) == named(TRANSLATIONS[0])


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_two_nodes_never_have_the_same_name(language):
    names = [node["display_name"] for node in told(language).values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_an_input_has_the_same_name_on_every_node(language):
    seen = {}
    for node_id, node in told(language).items():
        for name, socket in node["inputs"].items():
            assert seen.setdefault(name, socket["name"]) == socket["name"], f"{language}: {node_id}: {name}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_holds_a_sign_that_the_editor_takes_for_its_own(language):
    # It reads texts as messages: {} is a placeholder, @ a link to another message, | divides singular and plural.
    assert [text for text in strings(told(language)) if set("{}@|") & set(text)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_files_are_written_alike(language):
    text = text_of(language)
    assert text == json.dumps(json.loads(text), ensure_ascii=False, indent=1) + "\n"


def test_what_the_pack_adds_to_the_editor_speaks_every_language():
    """The words of web/js, and the setting's."""
    source = (REPO / "web" / "js" / "words.js").read_text(encoding="utf-8")
    blocks = re.findall(r'^    "?([\w-]+)"?: \{\n(.*?)^    \},', source, re.M | re.S)
    words = {language: re.findall(r'^        (\w+): ".+",$', block, re.M) for language, block in blocks}
    assert set(words) == set(LANGUAGES) and all(keys == words["en"] for keys in words.values())
    for language in LANGUAGES:
        settings = json.loads((LOCALES / language / "settings.json").read_text(encoding="utf-8"))
        assert {key: set(texts) for key, texts in settings.items()} == {"ConceptErasure_Rows": {"name", "tooltip"}}
