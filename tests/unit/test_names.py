"""What people type into a field of names, and which names they mean by it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.texts.names import (
    Name,
    is_form_of,
    is_said,
    letters,
    listing,
    others,
    plain,
    quoted,
    read_field,
    spelled,
)


def names(text: str) -> list[str]:
    return read_field(text).texts


@pytest.mark.parametrize("name", ["No Doubt", "forget me not", "block party", "no smoking sign", "ban", "Eraserhead"])
def test_a_name_that_sounds_like_a_request_stays(name):
    assert names(name) == [name]


@pytest.mark.parametrize(
    "text",
    [
        "circle, square",
        "circle,square",
        "circle; square",
        "circle\tsquare",
        "circle、square",
        "circle，square",
        "circle\nsquare",
        "circle\r\nsquare",
        "circle\u2028square",
        "- circle\n- square",
        "* circle\n* square",
        "• circle\n• square",
        "1. circle\n2. square",
        "1) circle\n2) square",
        "(1) circle\n(2) square",
        "1. circle 2. square",
        "(1) circle (2) square",
        "[ ] circle\n[x] square",
        "(circle:1.4), [square]",
        "((circle, square:1.2))",
        "(circle, (square:0.8):1.1)",
        '"circle", “square”',
        "«circle», „square“",
        "「circle」、『square』",
        "circle BREAK square",
        "{circle|square}",
        "circle | square",
        "a circle, the square",
        "a photo of a circle, a painting in the style of square",
        "by circle, style of square",
        "remove the circle, please erase every square",
        "no more circle, without a square",
        "forget the circle, delete square",
        "unlearn circle\nban all of the square",
        "circle's, square’s",
        "\ufeffcircle\u200b, square\u00ad",
        "circle.\nsquare!",
        "# star\ncircle\nsquare  # both",
        "<lora:add_detail:0.8> circle, square",
        "circle,, square,",
        "[circle:square:0.5]",
        "circle\ncircle\nSquare\nsquare",
    ],
)
def test_two_names_are_read_from_all_that_people_type(text):
    assert [name.casefold() for name in names(text)] == ["circle", "square"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("3 musketeers", "3 musketeers"),
        ("2B", "2B"),
        ("C++", "C++"),
        ("C#", "C#"),
        ("Crayola®", "Crayola®"),
        ("🍆", "🍆"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("O'Keeffe", "O'Keeffe"),
        ("1,000 cranes", "1,000 cranes"),
        ("saber \\(fate\\)", "saber \\(fate\\)"),
        ("(saber \\(fate\\):1.2)", "saber \\(fate\\)"),
        ("saber (fate)", "saber fate"),
        ("Blade Runner: 2049", "Blade Runner: 2049"),
        ("a", "a"),
        ("the the", "the"),
        ("Simon and Garfunkel", "Simon and Garfunkel"),
        ("embedding:villain", "embedding:villain"),
        ("(embedding:bad-hands_2:1.2)", "embedding:bad-hands_2"),
        ("丸", "丸"),
        ("Art Deco", "Art Deco"),
        ("cafe\u0301", "café"),
        ("by Greg Rutkowski", "Greg Rutkowski"),
        ("oil painting by Claude Monet", "Claude Monet"),
    ],
)
def test_what_belongs_to_a_name_stays_with_it(text, name):
    assert names(text) == [name]


def test_a_line_says_what_takes_the_name_s_place_and_how_strongly():
    field = read_field("Van Gogh -> painting\ncircle : 0.8, star → moon : 0.5\nheart =>\nred")
    assert field.entries == (
        Name("Van Gogh", "painting"),
        Name("circle", None, 0.8),
        Name("star", "moon", 0.5),
        Name("heart", ""),
        Name("red"),
    )


def test_what_was_read_in_another_way_than_typed_is_said():
    notes = " ".join(read_field("# star\ncircle BREAK square\n<lora:x:1>\n{red|blue}\nmoon : 0").notes)
    for part in ('"star"', "BREAK", '"<lora:x:1>" loads a LoRA', "choice in braces", 'strength is 0: "moon"'):
        assert part in notes


def test_prompt_weights_that_are_not_used_are_said():
    field = read_field("(circle:1.4), ((star, moon:0.8):1.4)\n(heart:1), (saber \\(fate\\):1.10)")
    assert field.weights == ("1.4", "0.8", "1.10") and field.texts[-2:] == ["heart", "saber \\(fate\\)"]
    assert "Prompt weights are not used here: 1.4, 0.8, 1.10." in field.notes
    assert not read_field("(circle), (heart:1)").notes


def test_a_file_of_names_is_read_in_the_place_of_its_line():
    field = read_field("red\nfile: shapes.txt\nblue", {"shapes.txt": "circle, star\n# moon"}.__getitem__)
    assert field.texts == ["red", "circle", "star", "blue"]
    assert "2 names come from the file 'shapes.txt'." in field.notes


def test_a_file_cannot_be_read_where_nothing_opens_it():
    with pytest.raises(ErasureError, match="'shapes.txt' here: type them"):
        read_field("file: shapes.txt")


def test_a_file_cannot_ask_for_another_file():
    with pytest.raises(ErasureError, match=r"more.txt"):
        read_field("file: a.txt", {"a.txt": "file: more.txt"}.__getitem__)


def test_a_line_with_an_arrow_and_no_name_is_refused():
    with pytest.raises(ErasureError, match="No name can be read in '-> painting'"):
        read_field("-> painting")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("circle: 5", "The strength of 'circle' is 5: type a number from 0 to 2"),
        ("circle :-1", "The strength of 'circle' is -1"),
        ("circle: 300%", "The strength of 'circle' is 300%"),
        ("circle -> heart -> star", "a name has one arrow"),
        ("circle <-> star", "an arrow leads from a name"),
        ("circle ← star", "an arrow leads from a name"),
        ("circle AND NOT square", "type what must stay into 'preserve'"),
        ("https://example.org/circle", "an address is no name"),
        ('{"concept": "circle"}', "that is JSON"),
        ("[" * 9000 + "circle" + "]" * 9000, "too long"),
    ],
)
def test_what_cannot_be_meant_as_a_name_is_refused_with_advice(text, advice):
    with pytest.raises(ErasureError, match=re.escape(advice)):
        read_field(text)


def test_a_number_behind_a_colon_is_a_strength_unless_it_is_a_year():
    assert read_field("circle: 80%").entries == (Name("circle", None, 0.8),)
    assert read_field("circle : 0,8").entries == (Name("circle", None, 0.8),)
    assert read_field("circle —> star").entries == (Name("circle", "star"),)
    assert names("Blade Runner: 2049") == ["Blade Runner: 2049"]


@pytest.mark.parametrize("text", ["", " \n ", ",;、", "# only a comment", "\u200b", "()", '""', "..."])
def test_a_field_can_hold_no_name_at_all(text):
    assert names(text) == []


WORD = st.text("abcdefghijklmnopqrstuvwxyzäéø", min_size=3, max_size=9).filter(
    lambda w: not w.endswith("s") and w not in ("the", "one", "some", "and", "break")
)
AROUND = [
    ("(", ")"),
    ("((", "))"),
    ("(", ":1.4)"),
    ("(", ": 0.7 )"),
    ("[", "]"),
    ("{", "}"),
    ('"', '"'),
    ("“", "”"),
    ("'", "'"),
    ("«", "»"),
    ("„", "“"),
    ("「", "」"),
    ("- ", ""),
    ("* ", ""),
    ("• ", ""),
    ("3. ", ""),
    ("2) ", ""),
    ("  ", " "),
    ("", "."),
    ("", "!"),
    ("a ", ""),
    ("the ", ""),
    ("A ", ""),
    ("a photo of a ", ""),
    ("an oil painting of ", ""),
    ("in the style of ", ""),
    ("by ", ""),
    ("", "'s"),
    ("", "’s"),
    ("\ufeff", ""),
    ("\u200b", "\u200b"),
    ("\u00a0", "\u00a0"),
    ("-", ""),
    ("–", ""),
]


@given(
    st.lists(WORD, min_size=1, max_size=3),
    st.lists(st.sampled_from(AROUND), max_size=3),
    st.sampled_from(["", ",", ";", "、"]),
)
def test_no_decoration_changes_a_name(parts, decorations, separator):
    name = text = " ".join(parts)
    for left, right in decorations:
        text = f"{left}{text}{right}"
    assert [spelled(read) for read in names(text + separator)] == [spelled(name)]


@given(
    st.lists(WORD, min_size=1, max_size=12, unique_by=spelled),
    st.sampled_from([", ", ";", "\n", "、", "，", "\t", " BREAK "]),
)
def test_any_separator_separates(words, separator):
    assert names(separator.join(words)) == words


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_a_sentence(text):
    try:
        read = names(text)
    except ErasureError as error:
        assert str(error).endswith(".")
    else:
        assert all(name.strip() == name and name for name in read)
        assert all(name in names(name) or len(names(name)) != 1 for name in read)


def test_spellings_of_one_name_are_forms_of_each_other():
    for a, b in [
        ("cat", "cats"),
        ("Café", "cafe"),
        ("ice cream", "ice-cream"),
        ("Straße", "strasse"),
        ("woman", "women"),
        ("city", "cities"),
        ("a Circle", "circle"),
        ("knife", "knives"),
    ]:
        assert is_form_of(a, b), (a, b)
    for a, b in [("cat", "car"), ("丸", "四"), ("🍆", "🍅"), ("", "circle")]:
        assert not is_form_of(a, b), (a, b)


def test_a_text_says_a_name_only_as_words_of_their_own():
    assert is_said("circle", "two red circles in a line") and is_said("Van Gogh", "a Van-Gogh painting")
    assert not is_said("cat", "concatenate") and not is_said("red circle", "a red star and a circle")


def test_no_word_of_a_name_is_left_among_the_others():
    candidates = ["circle", "circles", "red circle", "Café", "ice cream", "Monet", "dog", "person with hat"]
    taken = ["circle", "cafe", "ice-cream", "Claude Monet", "man with gun"]
    assert others(candidates, taken) == ["dog", "person with hat"]


def test_names_are_quoted_as_people_write_them_and_counted_beyond_eight():
    assert plain("saber \\(fate\\)") == "saber (fate)" and quoted(["a", "b"]) == '"a", "b"'
    assert listing(["a"]) == '1 name: "a"' and listing(["a", "b"]) == '2 names: "a", "b"'
    assert listing([str(i) for i in range(300)]) == '300 names: "0", "1", "2", …'
    assert letters("Yu-Gi-Oh") == "yugioh"


def test_numbers_of_a_list_in_one_line_leave_arrows_and_weights_to_what_they_belong_to():
    [entry] = read_field("1. Bonn -> 2. Bundesliga").entries
    assert entry.text == "Bonn" and "Bundesliga" in (entry.target or "")
    assert all(entry.strength == 1 for entry in read_field("(1. circle 2. square:1.4)").entries)
