"""Lists of concepts: both forms of a file say the same, and what is wrong is named with its place."""

import json
from pathlib import Path

import pytest

from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.texts.lists import read_list
from concept_erasure.erasure.texts.names import Name, read_field

LISTS = Path(__file__).resolve().parents[2] / "lists"
TEXT = """# a comment
Van Gogh, Vincent van Gogh -> painting : 0.8

watermark, signature ->
circle
keep: Monet, Rembrandt
keep: star
"""
CONCEPTS = [
    {"name": "Van Gogh", "other_names": ["Vincent van Gogh"], "target": "painting", "strength": 0.8},
    {"name": "watermark", "other_names": "signature", "target": ""},
    "circle",
]


def test_both_forms_give_every_name_of_a_concept_its_target():
    names = [
        Name("Van Gogh", "painting", 0.8),
        Name("Vincent van Gogh", "painting", 0.8),
        Name("watermark", ""),
        Name("signature", ""),
        Name("circle"),
    ]
    content = json.dumps({"title": "Mine", "concepts": CONCEPTS, "preserve": ["Monet", "Rembrandt", "star"]})
    for file, text, title in (("x.txt", TEXT, ""), ("x.json", content, "Mine")):
        read = read_list(file, text)
        assert (read.title, list(read.names)) == (title, names)
        assert read.preserve == ("Monet", "Rembrandt", "star")
        assert list(read_field(read.concept_text()).entries) == names
        assert read_field(read.preserve_text()).texts == list(read.preserve)


@pytest.mark.parametrize("path", sorted(LISTS.iterdir()), ids=lambda path: path.name)
def test_lists_that_come_along_are_read_and_contradict_nothing(path):
    read = read_list(path.name, path.read_text(encoding="utf-8"))
    assert len(read.names) >= 3 and read.preserve
    assert all(name.target is not None for name in read.names)
    assert not {name.text.casefold() for name in read.names} & {text.casefold() for text in read.preserve}
    assert read_field(read.concept_text()).entries == read.names


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("a.json", '{"concepts": [\n"circle"\n"star"]}', "Line 3 of 'a.json'"),
        ("a.json", "[]", '"concepts"'),
        ("a.json", '{"concepts": ["star", {"nam": "circle"}]}', "concept 2 of 'a.json'"),
        ("a.json", '{"concepts": [{"name": "circle", "traget": "heart"}]}', '"traget"'),
        ("a.json", '{"concepts": [{"name": "circle", "target": 3}]}', '"target"'),
        ("a.json", '{"concepts": ["circle"], "preserve": [1]}', '"preserve"'),
        ("a.txt", "star\n-> heart", "line 2 of 'a.txt'"),
        ("a.txt", "circle -> heart, star", "line 1 of 'a.txt'"),
        ("a.txt", "# nothing\nkeep: star", "no concept"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_with_its_place(file, text, words):
    with pytest.raises(ErasureError) as caught:
        read_list(file, text)
    assert words in str(caught.value) and str(caught.value).endswith(".")
