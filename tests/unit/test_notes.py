"""What the templates' notes say in other languages."""

import json
import re

import pytest

from scripts import notes
from scripts.translations import LOCALES, languages

MARKED = re.compile(r"`[^`]+`|->")
"""What is a path, or typed."""


def names(language: str) -> dict[str, str]:
    """What the nodes are called."""
    nodes = json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))
    return {key: node["display_name"] for key, node in nodes.items()}


def test_the_lines_are_those_of_the_templates():
    lines = notes.lines()
    assert "Read me" in lines and "Model and prompt" in lines
    assert "Change the prompt and run again: other things stay as they were." in lines


@pytest.mark.parametrize("language", languages())
def test_every_language_has_every_note_of_every_template(language):
    """``python3 -m scripts.notes LANGUAGE`` prints what is missing."""
    known = notes.translations(language)
    assert list(known) == notes.lines()
    for text, translation in known.items():
        assert re.search(r"\w", translation) and "\n" not in translation
        marked = [sorted(MARKED.findall(each)) for each in (text, translation)]
        assert marked[0] == marked[1], translation
        assert ("**" in text) == ("**" in translation) and translation.count("**") % 2 == 0, translation
        for key, name in names("en").items():
            assert name not in text or names(language)[key] in translation, f"{key}: {translation}"


def test_there_are_no_notes_in_other_languages():
    assert sorted(path.stem for path in notes.NOTES.iterdir()) == languages()
