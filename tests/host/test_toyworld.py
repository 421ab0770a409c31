"""The trained toy checkpoint and its judge."""

import random

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from concept_erasure.erasure.evaluation.attacks.behind_tags import TAGS, behind_tags
from concept_erasure.erasure.texts.encoder import Encoder
from concept_erasure.erasure.training.gate import build_gate
from tests import worlds
from tests.host.tools import decisions, sample
from toyworld.judge import load_judge
from toyworld.node import family
from toyworld.scoring import plan
from toyworld.train import CHECKPOINT
from toyworld.world import COLOURS, FULL_CAPTIONS, KINDS, SHAPES, STYLES, Scene, caption, random_scene, render

MEGABYTES = 24
HELD_OUT = 600
TEXTS = ["", "a red circle on a plain background", "checked azure donut", "a picture", "circle"]


@pytest.fixture(scope="module")
def toy():
    return worlds.load(CHECKPOINT)


@pytest.fixture(scope="module")
def held_out():
    """Pictures [n, 3, 64, 64] that were not trained on, and their labels [n, 3]."""
    rng = random.Random(977)
    scenes = [random_scene(rng) for _ in range(HELD_OUT)]
    pictures = torch.stack([torch.from_numpy(render(s, rng)) for s in scenes]).permute(0, 3, 1, 2).float() / 255
    return pictures, torch.tensor([s.labels for s in scenes])


def accuracy(pictures, labels) -> dict[str, float]:
    with torch.no_grad():
        logits = load_judge()(pictures)
    return {k: float((v.argmax(1) == labels[:, i]).float().mean()) for i, (k, v) in enumerate(logits.items())}


def test_the_judge_knows_pictures_it_has_not_seen(held_out):
    scores = accuracy(*held_out)
    assert scores["shape"] >= 0.98 and scores["colour"] >= 0.98 and scores["style"] >= 0.95, scores


def test_captions_name_what_is_drawn():
    scene = Scene("circle", "orange", "dotted")
    assert caption(scene, FULL_CAPTIONS[0]) == "an orange circle on a dotted background"
    assert caption(scene, FULL_CAPTIONS[3], (True, True, True)) == "spotted tangerine disc"
    assert len({*SHAPES, *SHAPES.values()}) == 2 * len(SHAPES)


def test_the_same_seed_renders_the_same_picture():
    scene = Scene("moon", "red", "striped")
    first, second, other = (render(scene, random.Random(s)) for s in (1, 1, 2))
    assert (first == second).all() and (first != other).any()


def test_every_word_for_a_concept_is_tokenised_by_itself():
    """A word that shares its tokens with another could not be told apart by a gate."""
    tokenizer = family.ToyTokenizer()
    words = [w for names in KINDS.values() for pair in names.items() for w in pair]
    numbers = {
        w: tuple(t for t, _ in tokenizer.tokenize_with_weights(w)["l"][0] if t not in (49406, 49407)) for w in words
    }
    assert all(numbers.values()) and len(set(numbers.values())) == len(words)


def test_the_checkpoint_is_small():
    assert CHECKPOINT.stat().st_size <= MEGABYTES * 1e6


def test_the_stock_loader_knows_the_family(toy):
    model, clip, vae = toy
    assert type(model.model.model_config).__name__ == "ToyWorld"
    assert clip is not None and vae is not None
    prefix = "model.diffusion_model."
    in_file = {k.removeprefix(prefix) for k in load_file(CHECKPOINT) if k.startswith(prefix)}
    assert in_file == set(model.model.diffusion_model.state_dict())


def test_cross_attention_is_in_every_part(toy):
    names = [n for n, _ in toy[0].model.named_parameters() if n.endswith("attn2.to_k.weight")]
    assert {n.split(".")[1] for n in names} == {"input_blocks", "middle_block", "output_blocks"}


def test_the_hosts_text_encoding_is_that_of_transformers(toy):
    """Training went through transformers; the host must read the same weights to the same numbers."""
    prefix = "cond_stage_model.transformer."
    state = {k.removeprefix(prefix): v.float() for k, v in load_file(CHECKPOINT).items() if k.startswith(prefix)}
    model = CLIPTextModel(CLIPTextConfig(**family.TEXT_CONFIG)).eval()
    own = model.state_dict()
    model.load_state_dict({k if k in own else k.removeprefix("text_model."): v for k, v in state.items()}, strict=False)
    assert len(state) >= len([k for k in own if "position_ids" not in k])
    tokenizer = family.ToyTokenizer()
    for text in TEXTS:
        ids = [t for t, _ in tokenizer.tokenize_with_weights(text)["l"][0]]
        with torch.inference_mode():
            expected = model(input_ids=torch.tensor([ids])).last_hidden_state
            found = toy[1].encode_from_tokens_scheduled(toy[1].tokenize(text))[0][0]
        assert torch.allclose(found, expected, atol=2e-3 * float(expected.abs().max())), text


def test_the_vae_keeps_what_the_judge_sees(toy, held_out):
    pictures, labels = held_out[0][:200], held_out[1][:200]
    with torch.inference_mode():
        back = toy[2].decode(toy[2].encode(pictures.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    assert all(score >= 0.9 for score in accuracy(back.clone(), labels).values())


def test_the_model_draws_what_it_is_told(toy):
    model, clip, vae = toy
    rng = random.Random(5)
    scenes = [Scene(s, rng.choice(list(COLOURS)), rng.choice(list(STYLES))) for s in SHAPES for _ in range(3)]
    with torch.inference_mode():
        encode = [clip.encode_from_tokens_scheduled(clip.tokenize(caption(s, FULL_CAPTIONS[0])))[0][0] for s in scenes]
        negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    latents = sample(model, [[torch.cat(encode), {}]], negative, batch=len(scenes), steps=20)
    with torch.inference_mode():
        pictures = vae.decode(latents).permute(0, 3, 1, 2)
    scores = accuracy(pictures.clone(), torch.tensor([s.labels for s in scenes]))
    assert all(score >= 0.75 for score in scores.values()), scores


def test_prompt_weights_do_not_mislead_a_gate(toy):
    """They push encodings away from the empty prompt's, where a gate that is fitted on plain texts saw nothing."""
    kept = [text for text in plan("circle")["preserve"] if text != "circle"]
    gate, _ = build_gate(Encoder(toy[1]), ["circle"], kept)
    for concept, is_open in (("circle", True), *((text, False) for text in kept)):
        texts = [f"(a photo of a {concept}:{weight})" for weight in (0.5, 1.3, 1.5, 2.0)]
        assert decisions(toy[1], gate, texts) == dict.fromkeys(texts, is_open)


KEPT_BEHIND_TAGS = ("a green star, plain", "a blue heart on a checked background", "a purple moon, plain background")
"""They say what colour and style they have: where a text does not, tags alone make the unedited model draw dots."""
BEHIND_TAGS = {"yellow": "a yellow star", "dotted": "a star on a dotted background", "striped": "a striped star"}


@pytest.mark.parametrize("concept", BEHIND_TAGS)
def test_a_gate_opens_for_names_behind_quality_tags_and_for_nothing_else(toy, concept):
    """Tags that no gate is fitted behind; a text encoder reads a name otherwise the more stands before it."""
    kept = [text for text in plan(concept)["preserve"] if text != concept]
    gate, _ = build_gate(Encoder(toy[1]), [concept], kept)
    for text, is_open in ((BEHIND_TAGS[concept], True), *((text, False) for text in KEPT_BEHIND_TAGS)):
        texts = [behind_tags(text, count=count) for count in (0, 2, 4, 6, 8, 12)]
        opened = list(decisions(toy[1], gate, texts).values())
        assert opened[0] == is_open and opened.count(is_open) >= 5, (text, opened)


@pytest.mark.parametrize("repeats", [3, 5])
def test_a_gate_opens_for_names_in_a_prompt_of_several_chunks(toy, repeats):
    """The text encoder reads 75 tokens at once; what a prompt has beyond them it reads as texts of their own. Behind so
    many tags it draws no name, and a gate may stay closed."""
    encode = Encoder(toy[1])
    gate, _ = build_gate(encode, ["circle"], [text for text in plan("circle")["preserve"] if text != "circle"])
    for concept, is_open in (("circle", True), ("star", False)):
        text = f"a red {concept}, striped background, {', '.join(TAGS * repeats)}"
        assert encode(text).context.shape[1] > 77
        assert decisions(toy[1], gate, [text]) == {text: is_open}


def test_the_checkpoint_is_half_precision_and_nothing_else():
    state = load_file(CHECKPOINT)
    assert {t.dtype for t in state.values()} == {torch.float16}
    assert all(torch.isfinite(t).all() for t in state.values())
