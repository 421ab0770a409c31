"""What nodes say, in other languages."""

import re

import pytest

from concept_erasure.erasure.texts.catalogue import PLACE, Catalogue
from scripts import sentences
from scripts.translations import languages

GERMAN = Catalogue(
    {
        "{0}: moved {1} of the way{2}.": "{0}: zu {1} verschoben{2}.",
        " at strength {0}": " bei Stärke {0}",
        "less than {0} %": "weniger als {0} %",
        "Others moved at most {0} ({1}).": "Andere höchstens zu {0} ({1}).",
        "{0} of {1} text weights changed, by {2} of their norm.": "Von {1} Gewichten haben sich {0} um {2} geändert.",
        "Preserved {0}.": "Bewahrt: {0}.",
        "{0d} texts: {1}": "{0} Texte, {1}",
        "Asked by its name": "Nach dem Namen gefragt",
        "stayed away in {0} pictures.": "blieb in {0} Bildern fort.",
        "✓ {0} erases.": "✓ {0} löscht.",
        "The others: {0}": "Die anderen: {0}",
        '"{0}" alone': "„{0}“ allein",
    }
)


@pytest.mark.parametrize(
    ("text", "translation"),
    [
        ("✓ circle → heart: moved 97 % of the way.", "✓ circle → heart: zu 97 % verschoben."),
        ("⚠ a: moved 9 % of the way at strength 0.5.", "⚠ a: zu 9 % verschoben bei Stärke 0.5."),
        (
            "✓ a: moved 9 % of the way. Others moved at most less than 1 % (b). 7 of 14 text weights changed, by 0.5 % "
            "of their norm.",
            "✓ a: zu 9 % verschoben. Andere höchstens zu weniger als 1 % (b). Von 14 Gewichten haben sich 7 um 0.5 % "
            "geändert.",
        ),
        ('Preserved 2 texts: "a", "b".', 'Bewahrt: 2 Texte, "a", "b".'),
        ("🟢 Asked by its name: stayed away in 8 pictures.", "🟢 Nach dem Namen gefragt: blieb in 8 Bildern fort."),
        ("✓ 0.5 erases.", "✓ 0.5 löscht."),
        ('The others: "a" alone, "b" alone', "Die anderen: „a“ allein, „b“ allein"),
        ("Preserved its texts: one.", "Bewahrt: its texts: one."),
        ("What nobody has translated. Preserved a.", "What nobody has translated. Bewahrt: a."),
        ("", ""),
    ],
)
def test_a_text_is_translated_sentence_by_sentence(text, translation):
    assert GERMAN.translate(text) == translation
    assert GERMAN.translate(f"{text}\n{text}") == f"{translation}\n{translation}"


def test_no_two_places_stand_side_by_side():
    """What fills the first could not be told from what fills the second."""
    assert not [text for text in sentences.sentences() if re.search(r"\}\{", text)]


def test_sentences_are_read_from_the_source():
    said = sentences.sentences()
    assert "There is one erasure to combine, and it takes two: connect another one." in said
    assert "Read {0}." in said and "The key for {0} is on, at strength {1}." in said
    assert "'{0}' is erased {1} times over, which can erase more." in said
    tooltips = ("What to erase", "Learning rate of")
    assert not [text for text in said if text.startswith(tooltips)], "these are translated elsewhere"


@pytest.mark.parametrize("language", languages())
def test_every_language_has_every_sentence(language):
    """``python3 -m scripts.sentences LANGUAGE`` prints what is missing."""
    known = sentences.translations(language)
    assert set(known) == set(sentences.sentences())
    assert {text: sorted(PLACE.findall(text)) for text in known} == {
        text: sorted(PLACE.findall(known[text])) for text in known
    }
    assert not [text for text, translation in known.items() if not re.search(r"\w", translation)]
