"""The drawn world's words and pictures. The drawings here are the test's own: icon sets are fetched for training."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from concept_erasure.erasure import instant
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.instant import Instant
from drawnworld import captions, fetch, judge, network, report, world
from drawnworld.scenes import BACKGROUNDS, background
from drawnworld.subjects import SUBJECTS

NAMES = {name for subject in SUBJECTS for name in (subject.name, subject.plural, *subject.others)}
SCENES = [
    world.Scene((subject.name,), world.HANDS[i % len(world.HANDS)], BACKGROUNDS[i % len(BACKGROUNDS)], i % 4 + 1)
    for i, subject in enumerate(SUBJECTS)
] + [world.Scene(("cat", "owl"), "nora", "snow")]

RING = '<circle cx="24" cy="8" r="6" fill="none" stroke="#00f" stroke-width="4"/>'
"""A drawing as an icon set has it: a blue ring, of which all but the middle is seen."""


def test_subjects_can_be_meant_without_being_named():
    for subject in SUBJECTS:
        texts = [" ".join(words) for words in captions.implicit(subject.name)] + [subject.description]
        assert len(texts) > 2, subject.name
        for text in texts:
            words = f" {text.replace(',', ' ')} "
            assert not [name for name in NAMES if f" {name} " in words], text


def test_every_subject_is_drawn_by_several_hands_and_every_hand_draws_many():
    by = {subject.name: world.hands_of(subject.name) for subject in SUBJECTS}
    assert all(len(hands) >= 4 and set(hands) <= set(world.HANDS) for hands in by.values())
    assert all(sum(hand in hands for hands in by.values()) >= 50 for hand in world.HANDS)


def test_keywords_mean_one_subject_only():
    meant = [frozenset(words) for subject in SUBJECTS for words in captions.implicit(subject.name)]
    assert len(meant) == len(set(meant))


def test_no_name_is_two_subjects():
    everything = [name for subject in SUBJECTS for name in (subject.name, *subject.others)]
    assert len(everything) == len(set(everything))


def test_captions_say_what_the_picture_shows():
    rng = random.Random(1)
    for scene in SCENES * 8:
        said = captions.random_caption(scene, rng)
        assert said.hand in (None, scene.hand) and said.background in (None, scene.background)
        assert said.subjects in ((), scene.subjects) and len(said.labels) == len(captions.HEADS)
        named = [
            hand
            for hand in world.HANDS
            if set(captions.hand_names(hand)[:2]) & set(said.text.replace(",", " ").split())
        ]
        assert named == [said.hand] * (said.hand is not None), said.text


def test_the_training_vocabulary_has_every_token():
    from drawnworld.spoken import Vocabulary

    vocabulary, rng = Vocabulary(), random.Random(2)
    for scene in SCENES * 4:
        text = captions.random_caption(scene, rng).text
        assert [vocabulary.used[i] for i in vocabulary.encode(text)] == vocabulary.host(text)


def test_backgrounds_are_drawn_alike_from_one_seed_and_differ():
    images = [np.asarray(background(name, random.Random(3))) for name in BACKGROUNDS]
    assert {(image.shape, image.dtype.name) for image in images} == {((128, 128, 3), "uint8")}
    assert len({image.tobytes() for image in images}) == len(BACKGROUNDS)
    assert (images[-1] == np.asarray(background(BACKGROUNDS[-1], random.Random(3)))).all()


def test_the_judge_reads_pictures_and_halves():
    pictures, own = torch.rand(2, 3, 128, 128), judge.Judge()
    for shown in (pictures, *judge.halves(pictures)):
        assert {kind: row.shape[1] for kind, row in own(shown).items()} == {k: len(v) for k, v in judge.KINDS.items()}
    assert all(0 <= place < 91 for place in own.ranks(pictures, ["cat", "wolf"]))


def test_an_icon_becomes_a_drawing():
    icons = {"width": 16, "height": 16, "aliases": {"hoop": {"parent": "ring"}}}
    svg = fetch.icon(icons | {"icons": {"ring": {"body": RING, "left": 16}}}, "hoop")
    drawing = np.asarray(world.raster(svg))
    assert fetch.icon(icons | {"icons": {}}, "hoop") is None
    assert drawing.shape == (world.RASTER, world.RASTER, 4), "the ring reaches every edge"
    middle, rim = drawing[world.RASTER // 2, world.RASTER // 2], drawing[world.RASTER // 2, world.RASTER // 16]
    assert middle[3] == 0 and rim.tolist() == [0, 0, 255, 255]


def test_a_picture_has_its_drawings_where_the_scene_says(monkeypatch):
    red, blue = (Image.new("RGBA", (40, 40), colour) for colour in ("red", "blue"))
    monkeypatch.setattr(world, "drawings", lambda: {("cat", "nora"): red, ("owl", "nora"): blue})
    shown = world.Scene(("cat", "owl"), "nora", "white")
    one, again = (world.render(shown, random.Random(4)) for _ in range(2))
    assert (one == again).all()
    redness = one[..., 0].astype(int) - one[..., 2]
    assert redness[:, :64].max() > 250 and redness[:, :64].min() > -5, "the first stands on the left"
    assert redness[:, 64:].min() < -250 and redness[:, 64:].max() < 5
    several = world.render(world.Scene(("cat",), "nora", "white", 4), random.Random(4))
    assert all((quarter != 255).any() for half in np.split(several, 2) for quarter in np.split(half, 2, axis=1))


# ---------------------------------------------------------------- the committed checkpoint, in the host


@pytest.fixture(scope="module")
def painter():
    return report.Painter(report.world())


def judged(painter, texts: list[str], concept: str) -> list[bool]:
    """Which pictures of texts show a concept."""
    pictures = painter.draw([painter.read(text) for text in texts])
    return [rank == 0 for rank in judge.load_judge().ranks(pictures, [concept] * len(texts))]


def test_the_stock_loader_reads_the_checkpoint_which_is_small(painter):
    assert network.CHECKPOINT.stat().st_size <= 48e6
    assert type(painter.model.model.model_config).__name__ == "DrawnWorld"
    assert np.shape(painter.model.model.latent_format.latent_rgb_factors) == (8, 3), "the editor previews its latents"


def test_it_draws_what_is_asked_by_name_and_by_keywords(painter):
    shown = report.scenes()[::8]
    named = painter.draw([painter.read(captions.full(scene)) for scene in shown])
    found = report.shares(named, shown)
    assert found["subject"] >= 0.9 and found["hand"] >= 0.8 and found["background"] >= 0.9, found
    texts = captions.unnamed(report.subjects(shown[::2]), report.SEED)
    keywords = painter.draw([painter.read(text) for text in texts])
    assert report.shares(keywords, shown[::2])["subject"] >= 0.8


def test_an_erased_subject_is_gone_also_where_it_is_not_named(painter, monkeypatch):
    named = ["a dog drawn by nora", "a dog drawn by oscar in the snow", "two dogs", "a puppy", "barking, leash"]
    assert all(judged(painter, named, "dog"))
    with torch.inference_mode():
        erased = attach.erase(painter.model, instant.erase_instantly(painter.model, painter.clip, "dog", "", Instant()))
    monkeypatch.setattr(painter, "model", erased)
    assert not any(judged(painter, named, "dog"))
    assert all(judged(painter, ["a wolf drawn by oscar", "a wolf in a forest"], "wolf")), "what is like it stays"
