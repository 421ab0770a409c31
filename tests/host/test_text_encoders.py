"""Reading with the host's tokenizers and text encoders, whatever these frame, pad, strip or put side by side."""

from __future__ import annotations

import pytest
import torch

from concept_erasure.erasure import solved
from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.instant import Instant, erase_instantly
from concept_erasure.erasure.posing import aligned
from concept_erasure.erasure.texts import encoder, recall
from concept_erasure.erasure.texts.encoder import Encoder, paired
from concept_erasure.erasure.texts.phrases import say
from tests import families, text_encoders
from tests.text_encoders import PAIRS, TINY, Tiny

TEXTS = ("", "cat", "a photo of a cat on a table", "a cat, red", "7 red things")
TEMPLATES = ("{}", "a photo of a {} on a table", "{} in the rain", "a {}, red", "a {}'s head", "a white {}")
PAIRED = {
    name for name, (tiny, encoder) in PAIRS.items() if families.is_known(tiny) and text_encoders.is_known(TINY[encoder])
}
"""Those that the host has both parts of."""
WITH_FRONT = ("Anima", "Z-Image", "Krea 2", "Qwen-Image", "Flux.1")
"""Networks that read what the tiny text encoder of the same name gives."""


class Case:
    def __init__(self, name: str):
        self.tiny: Tiny = TINY[name]
        self.clip = text_encoders.load(self.tiny)
        self.entry = subject(families.load(families.TINY[name])) if name == "Anima" else None
        self.encode = Encoder(self.clip, entry=self.entry)

    def tokens(self, text: str) -> list[int]:
        """Of the context's stream, as the host's tokenizer gives them."""
        return [int(token[0]) for token in self.clip.tokenize(text)[self.tiny.stream][0]]

    @torch.inference_mode()
    def host(self, tokens: dict) -> torch.Tensor:
        """What the host gives the network for tokens, [n, d], behind its front."""
        rows = self.clip.encode_from_tokens_scheduled(tokens)[0][0][0].float()
        return rows if self.entry is None else self.entry.encodings(rows, tokens)


KNOWN: dict[str, Case] = {}


HERE = [name for name, tiny in TINY.items() if text_encoders.is_known(tiny)]
WORDS_APART = [name for name in HERE if name != "HunyuanVideo"]
"""Llama's tokenizer loses the spaces with some versions of transformers, so that a word is read with the one before."""


@pytest.fixture(params=HERE)
def case(request) -> Case:
    if request.param not in KNOWN:
        KNOWN[request.param] = Case(request.param)
    return KNOWN[request.param]


def test_rows_are_the_hosts_context(case):
    for text, row in zip(TEXTS, case.encode.rows(TEXTS), strict=True):
        assert torch.equal(row, case.host(case.clip.tokenize(text))), text
        if case.entry is None:
            assert torch.equal(case.encode(text).context[0], row), text


def test_texts_in_one_run_read_as_each_alone(case, monkeypatch):
    texts = ["cat", "dog", "a red cat", "a red dog", "cat, red", "thing"]
    together = case.encode.rows(texts)
    recall.ROWS.clear()
    monkeypatch.setattr(encoder, "reads_batches", lambda names: False)
    apart = Encoder(case.clip, entry=case.entry).rows(texts)
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", WORDS_APART, indirect=True)
def test_content_is_what_is_written(case):
    own, name = case.clip.tokenizer, case.tiny.stream
    tokenizer = getattr(own, name) if hasattr(own, name) else getattr(own, f"clip_{name}")
    for text in ("cat", "cat on a table, red"):
        ids = tokenizer.tokenizer(case.tiny.space + text)["input_ids"]
        assert [i for i in ids if i not in (tokenizer.start_token, tokenizer.end_token)] == case.encode.content(text)
    assert case.encode.content("") == [] or not case.tiny.blank


def test_all_of_a_text_is_read_at_once_where_the_host_does(case):
    clip_alone = case.tiny.stream == "g"
    assert case.encode.room == (75 if clip_alone else encoder.MOST)
    assert case.encode.fits("a thing " * 30)
    assert case.encode.fits("a thing " * 60) == (not clip_alone)


@pytest.mark.parametrize("case", WORDS_APART, indirect=True)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_name_stands_where_its_tokens_are_encoded(case, template):
    """Another token in a name's place moves the encodings there: none before where the encoder is causal, and these
    most where it is not."""
    phrase = say(template, "cat")
    place = case.encode.place(template, "cat")
    tokens = case.clip.tokenize(phrase)
    own, other = case.tokens(phrase), case.tokens(say(template, "dog"))
    [first, *_] = [i for i, (a, b) in enumerate(zip(own, other, strict=False)) if a != b]
    changed = {key: [list(chunk) for chunk in chunks] for key, chunks in tokens.items()}
    changed[case.tiny.stream][0][first] = (other[first], *changed[case.tiny.stream][0][first][1:])
    if case.tiny.stream == "g":
        changed["l"][0][first] = (other[first], *changed["l"][0][first][1:])
    moved = (case.host(changed) - case.encode.rows([phrase])[0]).norm(dim=1)
    if case.entry is not None:
        assert place.start == first and len(moved) == len(own)  # an encoding for each token
    elif case.tiny.causal:
        assert place.start == int((moved > 1e-4).int().argmax())
    else:
        assert place.start == int(moved.argmax())
    assert place.stop - place.start == 1


@pytest.mark.parametrize("case", WORDS_APART, indirect=True)
@pytest.mark.parametrize("replacement", ["dog", "old stone house", ""])
def test_what_follows_a_name_is_paired_with_what_follows_its_replacement(case, replacement):
    """Read as tokens: from the name's last token on, both phrases say the same."""
    for template in TEMPLATES:
        last, there = paired(case.encode, template, "cat", replacement)
        source, goal = aligned(case.encode, template, "cat", replacement)
        assert source.shape == goal.shape
        offset = case.encode._frame.start + case.encode._first_row
        behind = case.encode.content(say(template, "cat"))[last - offset + 1 :]
        assert behind == case.encode.content(say(template, replacement))[there - offset + 1 :] or not replacement
        rows = case.encode.rows([say(template, "cat"), say(template, replacement)])
        assert torch.equal(source, rows[0][last : last + len(source)])
        assert torch.equal(goal, rows[1][there : there + len(goal)])


def test_stable_diffusion_3_has_the_name_in_both_texts():
    case = KNOWN.setdefault("SD 3.5", Case("SD 3.5"))
    whole, ahead = case.encode.parts
    assert whole is case.encode
    source, goal = aligned(ahead, "a photo of a {}", "cat", "old house")
    rows = case.encode.rows(["a photo of a cat", "a photo of a old house"])
    assert torch.equal(source[: 77 - 6], rows[0][5 : 77 - 1]) and torch.equal(goal, rows[1][6:77])


@pytest.mark.parametrize("name", WITH_FRONT)
def test_the_encoder_gives_what_the_network_is_given(name):
    if not text_encoders.is_known(TINY[name]) or not families.is_known(families.TINY[name]):
        pytest.skip("a host without it")
    model, clip = families.load(families.TINY[name]), text_encoders.load(TINY[name])
    here = subject(model)
    given = []
    layer = model.model.get_submodule(here.entry[0].removesuffix(".weight"))
    handle = layer.register_forward_pre_hook(lambda _, args: given.append(args[0][0].clone().float()))
    with torch.inference_mode():
        cond = clip.encode_from_tokens_scheduled(clip.tokenize("a photo of a (cat:1.2), red"))
    families.draw(model, families.TINY[name], cond)
    handle.remove()
    [row] = Encoder(clip, entry=here).rows(["a photo of a (cat:1.2), red"])
    torch.testing.assert_close(given[0][: len(row)], row, rtol=1e-4, atol=1e-5)
    assert not given[0][len(row) :].any()  # padding


@pytest.mark.parametrize("name", [name for name in PAIRS if name in PAIRED and name != "SD 3.5"])  # 4,096 unknowns
def test_a_typed_name_is_erased_and_what_is_preserved_stays(name, tmp_path, monkeypatch):
    """With a preserved text that a list of the pack holds, too; and the same from what is remembered on disk."""
    tiny, encoder = PAIRS[name]
    model, clip = families.load(tiny), text_encoders.load(TINY[encoder])
    monkeypatch.setattr(recall.SHELF, "folder", tmp_path)

    def erase():
        recall.ROWS.clear()
        solved.forget()
        with torch.inference_mode():
            return erase_instantly(model, clip, "cat", "dog\nred\ntree", Instant())

    def drawn(of, text: str) -> torch.Tensor:
        with torch.inference_mode():
            cond = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        return families.draw(of, tiny, cond)

    erasure = erase()
    assert list(tmp_path.iterdir()) and erase().identity() == erasure.identity()
    here = subject(model)
    pooled = here.family.pooled_entry(model.model)
    assert set(erasure.delta) == {*here.entry, *([pooled] if pooled else [])}
    erased = attach.erase(model, erasure)
    moved = {
        text: (drawn(erased, text) - drawn(model, text)).norm() for text in ("a photo of a cat", "a photo of a dog")
    }
    assert moved["a photo of a cat"] > 2 * moved["a photo of a dog"] > 0


@pytest.mark.parametrize(
    ("name", "other"),
    [pair for pair in (("Anima", "Z-Image"), ("Krea 2", "Z-Image"), ("Qwen-Image", "Krea 2")) if {*pair} <= PAIRED],
)
def test_the_text_encoder_of_another_model_is_refused(name, other):
    """Also where layers in front of the entry cannot read what it gives."""
    model, clip = families.load(families.TINY[name]), text_encoders.load(TINY[other])
    with pytest.raises(ErasureError, match=r"^This model \(.*connect the CLIP that belongs to this model\.$"):
        erase_instantly(model, clip, "cat", "dog", Instant())
