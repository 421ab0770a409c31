"""CFG 1 and four steps, as people draw with distilled flow models: erased, closed texts and strength 0 to the bit."""

import comfy.sample
import pytest
import torch

from concept_erasure.erasure.artifact import Erasure, Metadata
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.instant import Instant, erase_instantly
from concept_erasure.erasure.parts.prompt import PromptTensors
from concept_erasure.erasure.steps import Steps
from concept_erasure.erasure.texts.encoder import Encoder
from concept_erasure.erasure.training.gate import build_gate
from concept_erasure.erasure.verdict import ARRIVED
from concept_erasure.nodes.instant import ErasureText
from concept_erasure.nodes.use import ErasureApply
from tests import worlds as loading
from toyworld.judge import load_judge
from toyworld.worlds import WORLDS

PICTURES, STEPS, KEPT = 6, 4, "square\nstar\ntriangle"
WORLD = WORLDS["flux"]


@pytest.fixture(scope="module")
def loaded():
    """(MODEL, CLIP, VAE)."""
    return loading.load(WORLD.checkpoint)


@pytest.fixture(scope="module")
def draw(loaded):
    """(MODEL, text) -> pictures [n, 3, 64, 64] of the stock sampler, without a negative's part in them."""
    _, clip, vae = loaded
    noise = torch.randn(PICTURES, *WORLD.latent, generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def drawn(model, text: str) -> torch.Tensor:
        positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(t)) for t in (text, ""))
        latents = comfy.sample.sample(
            model, noise, STEPS, 1.0, "euler", WORLD.scheduler, positive, negative, torch.zeros_like(noise), seed=0,
            disable_pbar=True,
        )  # fmt: skip
        return vae.decode(latents).permute(0, 3, 1, 2).clone()

    return drawn


def share(pictures: torch.Tensor, label: str) -> float:
    """In how many of the pictures the judge sees it first."""
    return load_judge().ranks(pictures, [label] * len(pictures)).count(0) / len(pictures)


@pytest.fixture(scope="module")
def prompted(loaded) -> Erasure:
    """An eraser prompt of random tokens whose gate opens for circles."""
    model, clip, _ = loaded
    here = subject(model)
    encode = Encoder(clip, Steps(), here)
    with torch.inference_mode(False), torch.no_grad():
        gate = build_gate(encode, ["circle"], KEPT.split())[0]
    tokens = 3 * torch.randn(4, here.width, generator=torch.Generator().manual_seed(1))
    prompt = PromptTensors(tokens, tokens.clone(), "all", "eraser", 77, gate)
    return Erasure(Metadata(method="kpop", role="eraser", concept="circle", **here.stamp()), (prompt,))


def test_erase_concept_erases(loaded, draw):
    model, clip, _ = loaded
    erased = ErasureText.execute(model, clip, "circle", 1.0, "nearest neighbour", "", KEPT).result[0]
    before, after = (draw(m, "a red circle on a plain background") for m in (model, erased))
    assert share(before, "circle") > 0.8 and share(after, "circle") < 0.2
    assert share(draw(erased, "a red star on a plain background"), "star") > 0.8


def test_a_prompt_acts_where_its_gate_is_open(loaded, draw, prompted):
    model = loaded[0]
    applied = ErasureApply.execute(model, prompted, 1.0).result[0]
    assert not torch.equal(draw(applied, "a red circle"), draw(model, "a red circle"))
    assert torch.equal(draw(applied, "a red star"), draw(model, "a red star"))


def test_at_strength_0_pictures_are_the_unedited_models(loaded, draw, prompted):
    model, clip, _ = loaded
    before = draw(model, "a red circle")
    for off in (
        ErasureText.execute(model, clip, "circle", 0.0, "nearest neighbour", "", KEPT),
        ErasureApply.execute(model, prompted, 0.0),
    ):
        assert off.result[0] is model
    draw(ErasureApply.execute(model, prompted, 1.0).result[0], "a red circle")
    assert torch.equal(draw(model, "a red circle"), before)


@pytest.mark.parametrize(("name", "targets"), [("star", "triangle cross"), ("dotted", "striped checked plain")])
def test_a_target_is_a_word_that_the_network_reads_as_much_of(loaded, name, targets):
    """Nearest to "star" are "factory" and to "dotted" "ambulance" by chance, of which the network reads less."""
    model, clip, _ = loaded
    assert erase_instantly(model, clip, name, "", Instant()).targets[0] in targets.split()


def test_the_pooled_text_moves_beside_words_of_all_kinds(loaded):
    """Beside one that is not among those that it is said beside, too."""
    model, clip, _ = loaded
    erasure = erase_instantly(model, clip, "blue", "", Instant())
    here = subject(model)
    entry = here.family.pooled_entry(model.model)
    with torch.inference_mode(False), torch.no_grad():
        rows = Encoder(clip, Steps(), here).pooled(["a blue cross", f"a {erasure.targets[0]} cross"])
        wanted = (rows[1] - rows[0]) @ model.model.get_parameter(entry).float().T
        done = rows[0] @ erasure.delta[entry].dense().T
    assert float((done * wanted).sum() / wanted.square().sum()) > ARRIVED
