"""The toy world in other architectures: the stock loader reads it, and it draws what it is told."""

import random

import comfy.sample
import comfy.samplers
import pytest
import torch

from concept_erasure.erasure import learning, solved
from concept_erasure.erasure.host.network import Network, rows_as_conditioning
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.host.weights import effective_weights
from concept_erasure.erasure.instant import Instant, erase_instantly
from concept_erasure.erasure.parts.prompt import PromptTensors
from concept_erasure.erasure.texts import recall
from concept_erasure.erasure.texts.encoder import Encoder
from concept_erasure.erasure.texts.neighbours import unknown
from concept_erasure.erasure.texts.vocabulary import COMPARED
from concept_erasure.erasure.training.pictures import with_pictures, with_sampling
from tests import worlds as loading
from tests.host import tools
from tests.host.test_toyworld import accuracy
from toyworld.world import COLOURS, KINDS, SHAPES, STYLES, Scene, caption
from toyworld.worlds import WORLDS
from toyworld.worlds.gradients import OPTIONS, differentiable
from toyworld.worlds.training import base_model, initialise, text_encoder
from toyworld.worlds.words import WORDS

MEGABYTES, ALL = 24, 100
TRAINED = [name for name, world in WORLDS.items() if world.checkpoint.exists() and name != "unet"]
TEXTS = ["a red circle on a plain background", "dog, checked azure donut", "a picture", "circle"]


@pytest.fixture(scope="module", params=TRAINED)
def trained(request):
    """(world, MODEL, CLIP, VAE) of each architecture."""
    world = WORLDS[request.param]
    return world, *loading.load(world.checkpoint)


def encoded(clip, text: str) -> list:
    with torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))[0]


def test_the_checkpoints_are_small():
    sizes = [world.checkpoint.stat().st_size for world in WORLDS.values() if world.checkpoint.exists()]
    assert max(sizes) <= MEGABYTES * 1e6 and sum(sizes) <= ALL * 1e6


def test_the_stock_loader_knows_the_family(trained):
    world, model, clip, vae = trained
    assert type(model.model.model_config).__name__ == world.family.__name__
    assert clip is not None and vae is not None
    found = model.model.model_config.unet_config
    assert {key: found[key] for key in world.network} == dict(world.network)


def test_it_draws_what_it_is_told(trained):
    """A picture of each shape, in other colours and styles, from the host's sampler and an empty latent."""
    world, model, clip, vae = trained
    rng = random.Random(5)
    scenes = [Scene(shape, rng.choice(list(COLOURS)), rng.choice(list(STYLES))) for shape in SHAPES]
    negative, pictures = encoded(clip, ""), []
    empty = comfy.sample.fix_empty_latent_channels(model, torch.zeros(1, 4, 8, 8))
    for seed, scene in enumerate(scenes):
        positive = encoded(clip, caption(scene, "a {colour} {shape} on a {style} background"))
        noise = comfy.sample.prepare_noise(empty, seed)
        with torch.inference_mode():
            latent = comfy.sample.sample(
                model, noise, 12, world.cfg, "euler", world.scheduler, [positive], [negative], empty, seed=seed
            )
            pictures.append(vae.decode(latent).permute(0, 3, 1, 2).clone())
    scores = accuracy(torch.cat(pictures), torch.tensor([scene.labels for scene in scenes]))
    assert all(score >= 0.75 for score in scores.values()), scores


def test_training_reads_texts_as_the_host_does(trained):
    """Training encodes many texts at once; each must be encoded as the host does it alone."""
    world, model, clip, _ = trained
    base = base_model(world)
    base.diffusion_model.load_state_dict(model.model.diffusion_model.state_dict())
    texts = text_encoder(world, base.diffusion_model)
    texts.dropping = False
    texts.model.load_state_dict(clip.cond_stage_model.state_dict())
    with torch.no_grad(), differentiable():
        rows = texts.read([texts.tokens(text) for text in TEXTS])
    for i, text in enumerate(TEXTS):
        context, beside = encoded(clip, text)
        with torch.inference_mode():
            given = model.model.extra_conds(
                cross_attn=context, device="cpu", noise=torch.zeros(1, *world.latent), **beside
            )["c_crossattn"].cond
        count = min(given.shape[1], context.shape[1] if "t5xxl_ids" not in beside else len(beside["t5xxl_ids"]))
        assert torch.allclose(rows.conds["c_crossattn"][i, :count], given[0, :count], atol=2e-5), text
        if "y" in rows.conds:
            pooled = beside["pooled_output"][0]
            assert torch.allclose(rows.conds["y"][i, : len(pooled)], pooled, atol=2e-5), text


def test_learning_gives_the_network_what_the_host_does(trained):
    """Texts of several lengths at once, outside of inference mode, and with what an adapter makes of them."""
    world, model, clip, _ = trained
    here = subject(model)
    encode = Encoder(clip, entry=here if here.adapts else None)
    network = Network(model, world.latent, checkpointing=False)
    with learning.gradients():
        texts = [encode(text) for text in TEXTS]
        given = [network.conditioning(text)["c_crossattn"] for text in texts]
        rows = rows_as_conditioning([texts[i] for i in network.together(texts)[0]])[0][0]
    assert torch.equal(rows[0].float(), given[0][0].float())
    for text, context in zip(TEXTS, given, strict=True):
        raw, beside = encoded(clip, text)
        with torch.inference_mode():
            conds = model.model.extra_conds(
                cross_attn=raw, device=network.device, noise=torch.zeros(1, *world.latent), **beside
            )
        torch.testing.assert_close(context, conds["c_crossattn"].cond, rtol=1e-5, atol=1e-5)


def test_common_words_are_told_apart(trained):
    """No two of them leave the same behind in a text; a few may be close."""
    _, _, clip, _ = trained
    rows = torch.cat([encoded(clip, f"a {word}")[0].mean(1) for word in WORDS])
    directions = torch.nn.functional.normalize(rows - rows.mean(0), dim=1)
    nearest = (directions @ directions.T - 2 * torch.eye(len(WORDS))).amax(1)
    assert float((nearest < 0.95).float().mean()) >= 0.95 and float(nearest.max()) < 0.999


def test_gradients_are_right(trained):
    """Along a random direction, against finite differences: blocks that write in place would spoil them in silence."""
    world, *_ = trained
    torch.manual_seed(1)
    base = base_model(world)
    initialise(base.diffusion_model)
    texts = text_encoder(world, base.diffusion_model)
    texts.dropping = False
    x, sigma = torch.randn(2, *world.latent), base.model_sampling.sigmas[[400, 700]]

    def output() -> torch.Tensor:
        torch.manual_seed(2)
        with differentiable():
            conds = texts.read([texts.tokens(text) for text in TEXTS[:2]]).conds
            return base.apply_model(x, sigma, transformer_options=dict(OPTIONS), **conds).sum()

    table = next(iter(texts.tables.values())).rows.weight
    output().backward()
    direction = torch.randn_like(table)
    step = 1e-3
    with torch.no_grad():
        table += step * direction
        above = output()
        table -= 2 * step * direction
        below = output()
    assert torch.isclose((above - below) / (2 * step), (table.grad * direction).sum(), rtol=0.05)


def test_no_name_of_the_world_is_called_unknown(trained):
    """Made-up words are one to the UNet's text encoder alone; elsewhere being like them says nothing."""
    _, model, clip, _ = trained
    names = [name for kind in KINDS.values() for pair in kind.items() for name in pair]
    assert unknown(Encoder(clip, entry=subject(model)), names, COMPARED) == []


def test_a_large_text_encoder_finds_what_is_like_a_name_and_reads_few_texts(trained, monkeypatch):
    """Another shape in the place of a shape, though one in five common words is looked at; pooled vectors are read in
    the same runs."""
    _, model, clip, _ = trained
    monkeypatch.setattr(recall, "ROWS", recall.Memory(1 << 28))
    monkeypatch.setattr(solved, "_solved", {})
    monkeypatch.setattr(Encoder, "is_large", True)
    read = []
    for name in ("_run", "_run_pooled"):
        real = getattr(Encoder, name)
        monkeypatch.setattr(Encoder, name, lambda self, texts, real=real: read.extend(texts) or real(self, texts))
    erasure = erase_instantly(model, clip, "circle", "", Instant())
    assert len(read) <= 300 and set(erasure.targets) <= set(SHAPES)
    assert {"square", "triangle", "ring"} <= set(erasure.metadata.preserve.split("\n"))


def test_a_key_turns_the_text_back(trained):
    """The changed weights read of what it turns about what the original ones read, and going on begins with that."""
    world, model, clip, _ = trained
    here = subject(model)

    def prepare(resume=None):
        settings = tools.short(weights_start="closed form", target="nearest neighbour", steps=1, batch=1)
        settings = with_sampling(with_pictures(model, settings, 64, 64), scheduler=world.scheduler, steps=2)
        with torch.inference_mode(), learning.gradients():
            return learning.prepare(model, clip, "circle", "square\nred", settings, resume)

    learned = prepare()
    key, delta = learned.run.beside.now(), learned.run.delta.changes()
    tokens = learned.run.encode("circle").context[0]
    adapted = here.adapts or not here.front
    before, turned = (rows if adapted else here.encodings(rows, {}) for rows in (tokens, key.turned(tokens)))
    lost = left = 0.0
    for name, weight in effective_weights(model, [name for name in here.entry if name in delta]).items():
        now, wanted = weight + delta[name].detach(), before @ weight.T
        lost += float((before @ now.T - wanted).square().sum())
        left += float((turned @ now.T - wanted).square().sum())
    assert left < 0.75 * lost  # a norm behind gives back directions alone, and a firm start loses less
    with torch.inference_mode(), learning.gradients():
        erasure = learning.learn(learned)
    last, again = erasure.of(PromptTensors)[0], prepare(erasure).run.beside.now()
    torch.testing.assert_close(again.turn.dense(), last.turn.dense(), rtol=1e-3, atol=1e-3)
    assert not torch.equal(last.turn.dense(), key.turn.dense())  # it has kept up with a step
