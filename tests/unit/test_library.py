"""What a file is called, the card by which it is known, and which models it is for."""

import base64
import io
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from concept_erasure.erasure import library
from concept_erasure.erasure.artifact import Erasure, Metadata
from concept_erasure.erasure.files import load_erasure, save_erasure
from concept_erasure.erasure.verdict import Finding, Movement, Verdict, judge, predictions

VERDICT = Verdict((Finding("✓", "circle → heart: moved 97 % of the way."), Finding("✓", "Others moved at most 2 %.")))


def erasure(concept="circle", target="heart", **more) -> Erasure:
    return Erasure(Metadata(concept=concept, target=target, method="uce", family="SD15", context_dim="768", **more))


def test_a_card_is_read_without_tensors_and_stays_the_same_when_the_erasure_is_saved_again(tmp_path):
    path = tmp_path / "a.safetensors"
    picture = library.thumbnail(torch.rand(64, 64, 3))
    save_erasure(erasure(verdict=VERDICT.as_json(), thumbnail=picture), path, {"workflow": "{}"})
    card = library.read_card(path)
    assert card.line() == "circle → heart · SD 1.5 · 97 % of the way" and card.has_picture
    again = tmp_path / "b.safetensors"
    save_erasure(load_erasure(path), again)
    assert library.read_card(again) == card and load_erasure(again).metadata.thumbnail == picture
    save_file({"a": torch.zeros(1)}, path)
    assert library.read_card(path) is None


@pytest.mark.parametrize(
    ("concept", "target", "title", "name"),
    [
        ("circle", "", "circle", "circle"),
        ("circle", "empty prompt", "circle → nothing", "circle"),
        ("circle\nstar", "heart\nheart", "circle, star → heart", "circle_star"),
        ("circle\nstar", "heart\ncross", "circle → heart, star → cross", "circle_star"),
        ("a\nb\nc\nd\ne", "f\nf\nf\nf\nf", "a, b and 3 more → f", "a_b_and_3_more"),
        ("../con: <x>|%date:yy%", "", "../con: <x>|%date:yy%", "con-x-date-yy"),
        ("saber \\(fate\\)", "", "saber (fate)", "saber-fate"),
        ("サークル", "", "サークル", "サークル"),
        ("é" * 100, "", "é" * 59 + "…", "é" * 30),
    ],
)
def test_titles_and_names_of_files(concept, target, title, name):
    assert library.title(erasure(concept, target)) == title
    assert library.fill_in("x/%concept%", erasure(concept, target)) == f"x/{name}"


def test_every_token_is_filled_in():
    several = erasure("circle\nstar", "heart\nempty prompt")
    filled = library.fill_in("%concept%_%target%_%method%_%family%_%year%", several)
    assert filled == "circle_star_heart_nothing_uce_SD15_%year%"
    assert library.fill_in("%target%", erasure(target="")) == "unknown"


def test_a_thumbnail_is_small_whatever_the_picture():
    kind, _, data = library.thumbnail(torch.rand(256, 256, 3)).partition(",")
    content = base64.b64decode(data)
    assert kind == "data:image/jpeg;base64" and len(content) <= 20_000
    assert Image.open(io.BytesIO(content)).size == (256, 256)
    _, _, data = library.thumbnail(torch.rand(1000, 500, 3)).partition(",")
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (128, 256)


@pytest.mark.parametrize(
    ("shares", "line"),
    [
        ({"circle": 0.97}, "circle → heart · 97 % of the way"),
        ({"circle": 0.4}, "⚠ circle → heart · 40 % of the way"),
        ({"circle": 0.0}, "✗ circle → heart · less than 1 % of the way"),
        ({f"c{i}": 0.9 + i / 100 for i in range(9)}, "c0, c1 and 7 more → heart · 90 % of the way"),
    ],
)
def test_a_card_says_the_least_share_that_the_verdict_names(shares, line):
    verdict = judge(Movement(shares, {"star": 0.02}), dict.fromkeys(shares, "heart"))
    verdict = verdict.plus(Finding("✓", '"word" alone moved 3 % of the way.'))
    assert card(dict.fromkeys(shares, "heart"), verdict) == line


def test_a_card_says_how_far_predictions_moved_and_that_there_is_a_key():
    verdict = Verdict(tuple(predictions(0.95, 0.1, ["circle"], ["heart"], sure=True)))
    assert card({"circle": "heart"}, verdict, "key") == "circle → heart · 95 % of the way · with its key"


def card(targets: dict, verdict: Verdict, role="eraser") -> str:
    texts = {"concept": "\n".join(targets), "target": "\n".join(targets.values())}
    parts = {"format_version": "1", "prompts": json.dumps([{"role": role}])}
    return library.card({**texts, **parts, "verdict": verdict.as_json()}).line()


def test_models_in_another_form_say_the_width_or_nothing(tmp_path):
    path = tmp_path / "model.safetensors"
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    save_file({name: torch.zeros(4, 768)}, path)
    layers = library.read_layers(path)
    assert layers == library.Layers("768")
    assert layers.fit(library.Card(width="768", shapes="abc")) and not layers.fit(library.Card(width="1024"))
    save_file({name: torch.zeros(4, 384, dtype=torch.uint8)}, path)
    assert library.read_layers(path) is None
    path.write_bytes(b"no header")
    assert library.read_layers(path) is None
