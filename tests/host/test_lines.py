"""What people type by reflex, on the toy world: each line is erased, or its node says in a sentence why not."""

import re

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from benchmarks import lines
from benchmarks.lines import Meaning, seen
from concept_erasure.erasure import combine
from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.host import attach
from concept_erasure.nodes.combine import HOW, ErasureCombine
from concept_erasure.nodes.instant import ErasureInstant, ErasureText
from concept_erasure.nodes.messages import target_rows
from toyworld.world import kind_of

PICTURES, STEPS = 20, 8
ERASED = 0.05
"""Largest share of pictures in which an erased concept is still seen."""
PROMPT = "a photo of a red circle on a striped background, masterpiece, best quality, highly detailed"


def means(word: str) -> Meaning:
    return Meaning({kind_of(word): word}, {kind_of(word): word})


RED_CIRCLE = Meaning({"colour": "red", "shape": "circle"}, {"colour": "red", "shape": "circle"})
ERASING = {
    "circle, square": ["circle", "square"],
    "circle, star, heart": ["circle", "star", "heart"],
    "circle BREAK star": ["circle", "star"],
    "# circle\nstar": ["star"],
    "red circle": [RED_CIRCLE],
    "striped background": ["striped"],
}
"""What is typed, and the concepts that are then not drawn any more."""
AS_CIRCLE = [
    "(circle:1.4)", "(circle)", "-circle", "a circle", "CIRCLE", '"circle"', "- circle", "\ufeffcircle", "((circle))",
    "a photo of a circle", "circle's", "(circle:1.2)", "[circle]",
]  # fmt: skip
"""What is typed in place of "circle" alone."""
WARNED = {
    "red circle": 'Only "red circle" as a whole is erased',
    "circle shape": "and may still be drawn. Words on lines of their own are erased one by one.",
    "striped background": 'Only "striped background" as a whole is erased',
    PROMPT: "reads like a whole prompt",
    "cirkle": '"cirkle" is not a word this text encoder knows. Did you mean "circle"?',
    "circles": '"circles" is not a word this text encoder knows. Did you mean "circle"?',
    "Kreis": '"Kreis" is not a word this text encoder knows',
    "丸": '"丸" is not a word this text encoder knows',
    "xqzwv": '"xqzwv" is not a word this text encoder knows',
    "nudity, nsfw, naked": 'names: "nudity", "nsfw", "naked" are not words this text encoder knows',
    "saber \\(fate\\)": '"saber (fate)" is not a word this text encoder knows',
    "🍆": '"🍆" is not a word this text encoder knows',
    "Crayola®": '"Crayola®" is not a word this text encoder knows',
    "C++": '"C++" is not a word this text encoder knows',
    "word " * 70: "reads like a whole prompt",
}
"""What is typed, and what a doubt on the node says."""


@torch.inference_mode()
def type_in(toys, concept, **inputs):
    """(MODEL, what the node says) of Erase Concept."""
    out = ErasureText.execute(toys.model, toys.clip, concept, **inputs)
    return out.args[0], out.ui.as_dict()["text"][0]


@torch.inference_mode()
def solve(toys, concepts, **inputs):
    """(ERASURE, what the node says) of Instant Erasure."""
    out = ErasureInstant.execute(toys.model, toys.clip, concepts, **inputs)
    return out.args[0], out.ui.as_dict()["text"][0]


def doubts(text: str) -> list[str]:
    """The lines of a node's text that are a warning."""
    return [line for line in text.splitlines() if line[:1] in ("⚠", "✗")]


def still_seen(toys, model, meaning: Meaning | str) -> float:
    return seen(toys, model, means(meaning) if isinstance(meaning, str) else meaning, PICTURES, STEPS)


def assert_erased(toys, model, *meanings: Meaning | str):
    shares = {str(meaning): still_seen(toys, model, meaning) for meaning in meanings}
    assert all(share <= ERASED for share in shares.values()), shares


@pytest.fixture(scope="module")
def circle(toys, toy_reader):
    """The MODEL without circles, and what the node says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("concept_erasure.erasure.instant.Encoder", lambda *_: toy_reader)
        return type_in(toys, "circle")


def test_the_unedited_model_draws_what_is_erased_here(toys):
    for word in ("striped", RED_CIRCLE):
        assert still_seen(toys, toys.model, word) > 0.8


def test_one_clean_word_is_erased_and_the_node_says_so(toys, circle):
    model, text = circle
    assert_erased(toys, model, "circle")
    assert not doubts(text) and re.search(r"✓ circle → \w+: moved \d+ % of the way", text)


@pytest.mark.parametrize("typed", AS_CIRCLE)
def test_signs_and_phrases_around_a_word_change_nothing(read_once, circle, typed):
    model, text = type_in(read_once, typed)
    assert not doubts(text)
    assert changes(model).keys() == changes(circle[0]).keys()
    for name, change in changes(model).items():
        torch.testing.assert_close(change.dense(), changes(circle[0])[name].dense())


def changes(model):
    return attach.applied(model)[-1].erasure.delta


@pytest.mark.parametrize("typed", ERASING)
def test_what_a_line_names_is_not_drawn_any_more(read_once, typed):
    model, _ = type_in(read_once, typed)
    assert_erased(read_once, model, *ERASING[typed])


@pytest.mark.parametrize("typed", WARNED, ids=lambda typed: typed[:20])
def test_what_may_not_do_what_is_meant_is_said_with_its_cause(read_once, typed):
    _, text = type_in(read_once, typed)
    assert WARNED[typed] in " ".join(doubts(text)), text


def test_a_comment_is_said_to_be_left_out(read_once):
    assert 'Left out as a comment: "circle".' in type_in(read_once, "# circle\nstar")[1]


@torch.inference_mode()
def test_the_editors_rows_are_told_of_each_line_that_is_one_name_what_it_became_and_could_become(toys):
    typed = "a circle\n#off heart\n# a note\nstar -> square : 0.5\nred, blue\nVan Gogh"
    out = ErasureInstant.execute(toys.model, toys.clip, typed)
    rows = out.ui.as_dict()["erasure_targets"]
    assert [row["line"] for row in rows] == ["a circle", "star -> square : 0.5", "Van Gogh"]
    assert [row["unknown"] for row in rows] == [False, False, True]
    assert rows[0]["target"] == rows[0]["nearest"][0] and rows[1]["target"] == "square"
    assert all(len(set(row["nearest"])) == 5 and "circle" not in row["nearest"] for row in rows)
    assert 'Switched off: "heart".' in out.ui.as_dict()["text"][0]
    assert target_rows("file: names.txt\na circle", out.args[0]) == rows[:1]


def test_what_is_no_name_at_all_is_refused_in_a_sentence(toys):
    for typed in ("", "# circle", ", ,", "(:1.2)"):
        with pytest.raises(ErasureError, match=r"The concept is empty|No name can be read in"):
            type_in(toys, typed)


# ---------------------------------------------------------------- many lines


def test_three_hundred_lines_are_erased_or_it_is_said_which_are_not(read_once):
    typed = "\n".join([*(f"word{i}" for i in range(299)), "circle"])
    model, text = type_in(read_once, typed)
    assert "300 names" in text and "299 names" in " ".join(doubts(text))
    said = " ".join(doubts(text))
    assert still_seen(read_once, model, "circle") <= ERASED or re.search(r"circle|not looked at", said), text


# ---------------------------------------------------------------- the other kinds of cases


def test_no_word_of_a_full_name_becomes_its_target(read_once):
    model, text = type_in(read_once, "Claude circle")
    assert "circle" not in " ".join(attach.applied(model)[-1].erasure.targets)
    assert doubts(text) or still_seen(read_once, model, "circle") <= ERASED


def test_a_list_with_commas_is_preserved_as_one_with_lines_is(read_once):
    kept = ["square", "triangle", "moon", "star", "heart"]
    texts = {between: type_in(read_once, "circle", preserve=between.join(kept)) for between in (", ", "\n")}
    (commas, said), (rows, also) = texts.values()
    assert said == also and 'Preserved 5 texts: "square", "triangle", "moon", "star", "heart".' in said
    for name, change in changes(commas).items():
        torch.testing.assert_close(change.dense(), changes(rows)[name].dense())


def test_a_preserved_text_that_says_the_name_is_named(read_once):
    shapes = "square\nstar\nheart\nring\nmoon\ntriangle\ncross\ngreen\nyellow\npurple\norange"
    kept = f"{shapes}\nred circle line\ncircle of blue"
    _, text = type_in(read_once, "circle", target="anchor", anchor="square", preserve=kept)
    assert '"red circle line", "circle of blue", with "circle" in it' in " ".join(doubts(text))


@pytest.fixture
def embeddings(toys, tmp_path, monkeypatch):
    """Embeddings of one and of two tokens, and one that is too wide, where the host looks for them."""
    generator = torch.Generator().manual_seed(0)
    for name, shape in (("one", (1, 96)), ("villain", (2, 96)), ("wide", (2, 768))):
        save_file({"emb_params": torch.randn(shape, generator=generator) / 8}, tmp_path / f"{name}.safetensors")
    folders = {**folder_paths.folder_names_and_paths, "embeddings": ([str(tmp_path)], {".safetensors"})}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", folders)
    monkeypatch.setattr(toys.clip.tokenizer.clip_l, "embedding_directory", str(tmp_path))


@pytest.mark.parametrize("name", ["embedding:one", "embedding:villain", "(embedding:villain:1.2)"])
def test_an_embedding_is_erased_like_a_word(toys, embeddings, name):
    model, text = type_in(toys, name)
    assert re.search(r"embedding:\w+ → \w+: moved (only )?\d\d+ % of the way", text) and attach.applied(model)
    assert f'"{name}" is not a word' not in text


def test_an_embedding_can_be_preserved(toys, embeddings):
    _, text = type_in(toys, "circle", preserve="square\nembedding:villain")
    assert 'Preserved 2 texts: "square", "embedding:villain".' in text and "✓ circle → " in text


@pytest.mark.parametrize("name", ["embedding:nothere", "embedding:wide"])
@pytest.mark.parametrize("where", ["concept", "preserve"])
def test_an_embedding_that_cannot_be_loaded_is_refused_by_name(toys, embeddings, name, where):
    with pytest.raises(ErasureError, match=f"embedding '{name.removeprefix('embedding:')}'"):
        type_in(toys, **{"concept": "circle", where: name})


def test_anchors_that_do_not_match_the_concepts_are_refused_with_both_numbers(toys):
    with pytest.raises(ErasureError, match='There are 2 anchors for 1 concept: "circle"'):
        solve(toys, "circle", target="anchor", anchor="square\nstar")


def test_as_many_anchors_as_concepts_take_their_places_in_order(read_once):
    erasure, text = solve(read_once, "circle\nheart", target="anchor", anchor="square\nstar")
    assert erasure.targets == ["square", "star"] and "circle → square" in text and "heart → star" in text


def test_a_long_preserved_text_stands_in_no_way_of_a_joint_solve(read_once):
    long = "a very long description of a picture " * 12
    first, _ = solve(read_once, "circle", preserve=f"square\n{long}")
    second, _ = solve(read_once, "star", preserve="square\nred")
    with torch.inference_mode():
        out = ErasureCombine.execute(
            {"a": first, "b": second}, HOW[1], model=read_once.model, clip=read_once.clip, prompt=""
        ).args[0]
    assert combine.can_be_solved_again([out]) or out.names == ["circle", "star"]
    assert_erased(read_once, attach.erase(read_once.model, out), "circle", "star")


# ---------------------------------------------------------------- no false ✓


def test_what_nodes_say_of_random_lines_is_what_is_drawn(read_once):
    """The first of the lines that ``benchmarks.lines`` measures; there all of them."""
    rows = [lines.run(read_once, lines.case(number), pictures=6) for number in range(20)]
    assert not [(row["concept"], row["text"], row["outcomes"]) for row in rows if row["faults"]]
