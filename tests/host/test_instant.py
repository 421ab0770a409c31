"""Closed-form erasing: from texts to a change that sends the concept where it should go and leaves the rest."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from concept_erasure.erasure import choosing, instant, phrased, posing, solved
from concept_erasure.erasure.artifact import ErasureError, Full
from concept_erasure.erasure.closed_form import CLOSED_FORM, balance
from concept_erasure.erasure.files import load_erasure, save_erasure
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.attach import weights_now
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.host.weights import Weights
from concept_erasure.erasure.instant import Instant, erase_instantly
from concept_erasure.erasure.posing import aligned
from concept_erasure.erasure.request import read_request
from concept_erasure.erasure.texts import encoder, recall
from concept_erasure.erasure.texts import neighbours as words
from concept_erasure.erasure.texts.neighbours import neighbours
from tests import worlds
from tests.host.test_fit import sentence
from tests.host.tools import PRESERVE, difference, sample
from toyworld.world import COLOURS, SHAPES

KEPT = "\n".join(PRESERVE)
TO_SQUARE = Instant(target="anchor", anchor="square")
NOTHING = Instant(target="empty prompt")


def moved(erasure, model, tokens: torch.Tensor, before: torch.Tensor) -> float:
    """Mean distance, over the changed projections, between edited tokens and what the originals give for others."""
    weights = Weights(model)
    total = 0.0
    for name, change in erasure.delta.items():
        weight = weights[name].float()
        total += float((tokens @ (weight + change.dense()).T - before @ weight.T).norm())
    return total / len(erasure.delta)


def test_what_chooses_a_target_reads_a_model_on_a_gpu(model, monkeypatch):
    """The host leaves a MODEL that has drawn on the GPU; encodings are on the CPU."""
    real = Weights(model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_gpu = {
            name: torch.empty(real[name].shape, dtype=torch.float16, device="cuda") for name in subject(model).entry
        }
    monkeypatch.setattr(choosing, "Weights", lambda model: on_gpu)
    read = choosing.reading(model)
    assert read and {(weight.device.type, weight.dtype) for weight in read} == {("cpu", torch.float32)}


def test_the_concept_goes_to_the_target_and_kept_texts_stay(model, clip, encode):
    erasure = erase_instantly(model, clip, "circle", KEPT, TO_SQUARE)
    circle, square, red = (encode(text).context[0] for text in ("a circle", "a square", "a red"))
    far = moved(erasure, model, square, circle)  # how different the two are in these layers
    assert moved(erasure, model, circle, square) < 0.3 * far
    assert moved(erasure, model, red, red) < 0.2 * far


def test_without_a_target_the_rest_of_the_phrase_remains(model, clip, encode):
    erasure = erase_instantly(model, clip, "circle", KEPT, NOTHING)
    source, target = aligned(encode, "a {}", "circle", "")
    assert moved(erasure, model, source, target) < 0.5 * moved(erasure, model, target, source)


def test_several_concepts_in_one_solve(model, clip, encode):
    erasure = erase_instantly(model, clip, "circle\nstar", KEPT, TO_SQUARE)
    for name in ("circle", "star"):
        here, there = (encode(f"a {word}").context[0] for word in (name, "square"))
        assert moved(erasure, model, here, there) < 0.5 * moved(erasure, model, there, here)
    assert erasure.metadata.concept == "circle\nstar"


@pytest.mark.parametrize("replacement", ["", "square", "a big square"])
def test_encodings_are_aligned_behind_the_name(encode, replacement):
    source, target = aligned(encode, "a {} on red", "circle", replacement)
    assert source.shape == target.shape and len(source) > 60
    other = encode(" ".join(f"a {replacement} on red".split()))
    red = encode.tokens(other.text).index(encode.name_tokens("red")[0])
    assert torch.equal(target[2], other.context[0, red])  # name, "on", "red"


def test_a_file_can_hold_it_and_a_picture_shows_it(model, clip, cond, tmp_path):
    erasure = erase_instantly(model, clip, "circle", KEPT, TO_SQUARE)
    save_erasure(erasure, tmp_path / "x.safetensors")
    loaded = load_erasure(tmp_path / "x.safetensors")
    models = (model, attach.erase(model, erasure), attach.erase(model, loaded))
    pictures = [sample(m, cond("circle"), cond("")) for m in models]
    assert difference(pictures[0], pictures[1]) > 0.05
    assert torch.equal(pictures[1], pictures[2])


def test_values_alone_can_be_changed(model, clip):
    delta = erase_instantly(model, clip, "circle", KEPT, Instant(weights="values")).delta
    assert delta and all(".to_v." in name for name in delta)


def test_what_another_clone_has_done_to_the_shared_network_does_not_count(model, clip, cond):
    before = erase_instantly(model, clip, "circle", KEPT, TO_SQUARE)
    sample(attach.erase(model, before), cond("circle"), cond(""))  # leaves its patches in the network
    assert erase_instantly(model, clip, "circle", KEPT, TO_SQUARE).identity() == before.identity()


def test_what_is_on_the_model_already_counts(model, clip):
    """Erasing on an erased model changes the weights that this has."""
    first = erase_instantly(model, clip, "star", KEPT, TO_SQUARE)
    alone, second = (erase_instantly(m, clip, "circle", KEPT, TO_SQUARE) for m in (model, attach.erase(model, first)))
    assert alone.identity() != second.identity()


@pytest.mark.parametrize("concept", [" \n", ",;", "# circle", "circle : 0"])
def test_an_empty_concept_is_refused(model, clip, concept):
    with pytest.raises(ErasureError) as caught:
        erase_instantly(model, clip, concept, KEPT, Instant())
    assert "The concept is empty" in sentence(caught)


def test_models_that_cannot_be_used_are_refused(narrow_model, clip):
    with pytest.raises(ErasureError) as caught:
        erase_instantly(narrow_model, clip, "circle", KEPT, Instant())
    assert "CLIP" in sentence(caught)
    with pytest.raises(ErasureError):
        erase_instantly(worlds.model_without_attn2(), clip, "circle", KEPT, Instant())


def test_it_is_the_same_in_inference_mode(model, clip):
    with torch.inference_mode():
        inside = erase_instantly(model, clip, "circle", KEPT, Instant())
    assert inside.identity() == erase_instantly(model, clip, "circle", KEPT, Instant()).identity()


# ---------------------------------------------------------------- what the user left open


def test_neighbours_come_in_order_and_leave_themselves_out(encode):
    [row] = neighbours(encode, ["circle"], ["square", "a big red house", "ring"])
    assert sorted(row) == ["a big red house", "ring", "square"]
    again = neighbours(encode, ["star", "circle"], ["square", "a big red house", "ring"])
    assert set(again[1]) == set(row) and len(again) == 2


def test_without_a_preserve_set_one_is_found_and_said(model, clip):
    found = erase_instantly(model, clip, "circle\nred", "", Instant()).metadata
    kept = found.preserve.splitlines()
    assert len(kept) >= 16 and {"blue", "striped"} <= set(kept)
    assert not {"circle", "red"} & {*kept, *found.target.splitlines()}
    assert all(target in kept for target in found.target.splitlines())


def test_when_all_common_words_are_concepts_a_target_is_asked_for(model, clip, monkeypatch):
    for module in (choosing, posing, phrased):
        monkeypatch.setattr(module, "everyday_texts", module.everyday_texts.__wrapped__)  # not remembered for others
    monkeypatch.setattr(words, "WORDS", ("circle", "cat"))
    for module in (choosing, posing, phrased, words):
        monkeypatch.setattr(module, "EVERYDAY", ("cat",))
    with pytest.raises(ErasureError, match='left to take the place of 2 concepts: "circle", "cat": erase fewer'):
        erase_instantly(model, clip, "circle, cat", "", Instant())
    for lines, settings in (("circle -> dog, cat ->", Instant()), ("circle, cat", Instant(target="empty prompt"))):
        assert erase_instantly(model, clip, lines, "", settings).names == ["circle", "cat"]


@pytest.mark.parametrize("spelling", ["Circle", "a circle", "CIRCLE.", '"circle"'])
def test_a_concept_in_another_spelling_is_no_neighbour_of_its_own(model, clip, spelling):
    erasure = erase_instantly(model, clip, spelling, "", Instant())
    assert not {erasure.metadata.target, *erasure.metadata.preserve.splitlines()} & {"circle", spelling}
    assert any(change.dense().norm() > 0.1 for change in erasure.delta.values())


@pytest.mark.parametrize("name, word", [("cats", "cat"), ("men", "man"), ("churches", "church"), ("house", "houses")])
def test_a_word_in_another_number_is_no_neighbour(model, clip, name, word):
    erasure = erase_instantly(model, clip, name, "", Instant())
    assert not {erasure.metadata.target, *erasure.metadata.preserve.splitlines()} & {name, word}
    also = erase_instantly(model, clip, name, f"{word}\nsquare", Instant())
    assert also.metadata.target == "square" and word in also.metadata.preserve, "what the user preserves stays so"


def test_a_concept_in_another_spelling_is_not_to_be_preserved_nor_its_own_target(model, clip):
    with pytest.raises(ErasureError, match="'circle' is both to be erased and to be preserved"):
        erase_instantly(model, clip, "Circle", "square\ncircle", Instant())
    with pytest.raises(ErasureError, match="'circle' is the concept itself"):
        erase_instantly(model, clip, "circle", KEPT, Instant(target="anchor", anchor="The circle"))


def test_the_neighbour_is_one_of_the_preserved(model, clip):
    found = erase_instantly(model, clip, "circle", "square\nring", Instant()).metadata
    assert found.target in ("square", "ring") and found.preserve == "square\nring"


def test_targets(model, clip):
    nothing = erase_instantly(model, clip, "circle", KEPT, Instant(target="empty prompt"))
    anchor = erase_instantly(model, clip, "circle", KEPT, Instant(target="anchor", anchor=" square "))
    assert (nothing.metadata.target, anchor.metadata.target) == ("empty prompt", "square")
    with pytest.raises(ErasureError) as caught:
        erase_instantly(model, clip, "circle", KEPT, Instant(target="anchor", anchor=" "))
    assert "anchor is empty" in sentence(caught)


@pytest.mark.parametrize("method", CLOSED_FORM)
def test_every_method_and_form_of_it(model, clip, method):
    """The last token of the bare name gives the exact rank; all tokens are cut to the wanted one."""
    exact = erase_instantly(model, clip, "circle\nstar", KEPT, Instant(method=method, tokens=posing.TOKENS[1]))
    cut = erase_instantly(model, clip, "circle\nstar", KEPT, Instant(method=method, rank=3))
    full = erase_instantly(model, clip, "circle\nstar", KEPT, Instant(method=method, rank=0))
    if method == "oce":
        assert all(isinstance(change, Full) for change in exact.delta.values())
    else:
        assert {len(change.down) for change in exact.delta.values()} == ({2} if method != "rece" else {4})
    assert {len(change.down) for change in cut.delta.values()} == {6}
    assert all(isinstance(change, Full) for change in full.delta.values())
    assert exact.metadata.method == method


def test_more_concepts_get_fewer_phrases():
    kept = [f"kept{i}" for i in range(40)]
    one, ten, many = (
        len(phrased.phrases(phrased.Texts([f"name{i}" for i in range(n)], [], kept, []))) for n in (1, 10, 1000)
    )
    assert one > ten > many == 1 and ten * 10 <= phrased.MOVED


@torch.no_grad()
def test_of_many_names_those_that_lag_behind_are_weighed_more(toys, toy_reader, monkeypatch):
    def lag() -> float:
        """What is left of the way of the name that goes least of it."""
        request = read_request(toys.model, toy_reader, "\n".join(SHAPES), "\n".join(COLOURS))
        texts = choosing.choose_texts(toy_reader, request, Instant())
        weights = weights_now(toys.model, subject(toys.model).entry)
        problem = posing.pose(toy_reader, texts, weights, Instant())
        return float(problem.moves.left(instant.edit_for(problem, Instant()).change(), problem.gram()).max())

    weighed = lag()
    monkeypatch.setattr(balance, "MANY", len(SHAPES) + 1)
    assert weighed < lag() - 0.05


def test_the_texts_to_preserve_stay_few():
    few, many = (phrased.plain_texts(phrased.Texts(["x"], [], [f"kept{i}" for i in range(n)], [])) for n in (5, 2000))
    assert {"", "kept0", "a kept0", "kept0 kept1"} <= set(few) and len(few) < 600
    assert {f"kept{i}" for i in range(2000)} <= set(many) and len(many) < 2100


def test_many_texts_at_once_are_encoded_as_one_by_one(clip):
    encode = encoder.Encoder(clip)
    texts = [f"a {word} number {i}" for i in range(40) for word in ("red", "blue")]
    rows = encode.chunks([*texts, texts[0]])
    for i in (0, 1, 63, 64, 79, 80):
        assert torch.allclose(rows[i], encode((texts * 2)[i]).context[0], atol=1e-5)


@pytest.mark.parametrize("concept", ["circle", "striped"])
def test_a_large_text_encoder_reads_few_texts(toys, concept, monkeypatch):
    """At the first use, and at the next with what is remembered."""
    monkeypatch.setattr(recall, "ROWS", recall.Memory(1 << 28))
    monkeypatch.setattr(solved, "_solved", {})
    monkeypatch.setattr(encoder.Encoder, "is_large", True)
    read, real = [], encoder.Encoder._run
    monkeypatch.setattr(encoder.Encoder, "_run", lambda self, texts: read.extend(texts) or real(self, texts))
    for most, name in ((300, concept), (100, "moon")):
        read.clear()
        erasure = erase_instantly(toys.model, toys.clip, name, "", Instant())
        assert 0 < len(read) <= most and erasure.delta
