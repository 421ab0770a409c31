"""Control branches: beside the network, behind the text gate, and off where they are off."""

from dataclasses import replace

import pytest
import torch

from concept_erasure.erasure import learning
from concept_erasure.erasure.artifact import Erasure, ErasureError
from concept_erasure.erasure.combine import combine
from concept_erasure.erasure.families.branch import MIDDLE, OUTPUT, together
from concept_erasure.erasure.files import load_erasure, save_erasure
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.beside import copy_of_encoder
from concept_erasure.erasure.host.network import Network
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.host.trainable import plain_patcher
from concept_erasure.erasure.methods import LEARNED
from concept_erasure.erasure.parts.branch import Branch, BranchLearner
from concept_erasure.erasure.texts.encoder import Encoder
from concept_erasure.erasure.training.choice import Soft
from concept_erasure.erasure.training.settings import Settings
from tests import families, worlds
from tests.host.tools import difference, gate_of, make_erasure, sample
from toyworld.worlds import WORLDS


def branch_of(model, clip, concept="circle", seed=0) -> Branch:
    """A branch whose answers are random numbers, large enough to be seen."""
    network = copy_of_encoder(model)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.startswith(("zero_convs.", "middle_block_out.")):
                weight.copy_(torch.randn(weight.shape, generator=g) / 20)
    return BranchLearner(network, gate_of(clip, concept)).at_rest()


def erasure_of(model, clip, concept="circle", seed=0) -> Erasure:
    made = make_erasure(model, concept=concept, prompt=False, delta=False)
    return replace(made, parts=(branch_of(model, clip, concept, seed),))


@pytest.fixture(scope="module")
def erasure(model, clip):
    return erasure_of(model, clip)


def drawn(model, cond, *texts, **how) -> torch.Tensor:
    """Latents of texts in one batch."""
    positive = [[torch.cat([cond(text)[0][0] for text in texts]), {}]]
    return sample(model, positive, cond(""), batch=len(texts), **how)


def test_it_acts_on_rows_that_speak_of_the_concept_and_leaves_the_others_to_the_bit(model, cond, erasure):
    erased = attach.erase(model, erasure)
    texts = ["a red circle", "a blue square", "circle", "a star"]
    base, now = drawn(model, cond, *texts), drawn(erased, cond, *texts)
    for text, before, after in zip(texts, base, now, strict=True):
        assert torch.equal(before, after) == ("circle" not in text), text
    assert torch.equal(drawn(erased, cond, "a star"), drawn(model, cond, "a star"))
    assert torch.equal(drawn(model, cond, *texts), base)


def test_strength_is_how_much_of_its_answer_is_added(model, cond, erasure):
    base, whole = (drawn(m, cond, "circle", steps=1) for m in (model, attach.erase(model, erasure)))
    half = drawn(attach.erase(model, erasure, 0.5), cond, "circle", steps=1)
    assert attach.erase(model, erasure, 0.0) is model
    assert 0 < difference(base, half) < difference(base, whole)


def test_the_table_says_when_each_answer_counts(model, cond, erasure):
    [branch] = erasure.parts
    silent = replace(branch, table=torch.zeros_like(branch.table))
    late = torch.cat([branch.table[:1], torch.zeros_like(branch.table[1:])])
    never, end = (
        attach.erase(model, replace(erasure, parts=(part,))) for part in (silent, replace(branch, table=late))
    )
    assert torch.equal(drawn(never, cond, "circle"), drawn(model, cond, "circle"))
    sampling = model.get_model_object("model_sampling")
    high, low = (sampling.sigma(torch.tensor(t)).reshape(1) for t in ([500.0], [20.0]))
    for sigma, same in ((high, True), (low, False)):
        sigmas = torch.cat([sigma, torch.zeros(1)])
        pair = [drawn(m, cond, "circle", sigmas=sigmas) for m in (model, end)]
        assert torch.equal(*pair) == same


def test_a_file_draws_the_same(model, cond, erasure, tmp_path):
    save_erasure(erasure, tmp_path / "x.safetensors")
    again = load_erasure(tmp_path / "x.safetensors")
    assert again.identity() == erasure.identity()
    assert torch.equal(*(drawn(attach.erase(model, one), cond, "circle") for one in (erasure, again)))


def test_the_host_holds_its_network_beside_the_models_own(model, erasure):
    erased = attach.erase(model, erasure)
    [held] = erased.get_nested_additional_models()
    assert held.model is attach.attachments(erased)[0].part.network and not model.get_nested_additional_models()
    assert erased.clone().get_nested_additional_models()[0].model is held.model


def test_two_branches_act_each_on_its_own_concept(model, clip, cond, erasure):
    both = attach.erase(model, combine([erasure, erasure_of(model, clip, "square", 1)]))
    first = attach.erase(model, erasure)
    assert torch.equal(drawn(both, cond, "circle"), drawn(first, cond, "circle"))
    assert not torch.equal(drawn(both, cond, "square"), drawn(model, cond, "square"))
    assert torch.equal(drawn(both, cond, "star"), drawn(model, cond, "star"))


def test_texts_can_be_learned_on_a_model_that_has_one(model, clip, cond, erasure):
    """As attacks do: gradients pass the encoder whose skips the host adds to in place."""
    encode = Encoder(clip)
    network = Network(plain_patcher(attach.erase(model, erasure)), (4, 8, 8), False)
    with learning.gradients():
        word = Soft(encode("circle"), 2)
        z, sigma = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([2.0])
        network.computing_with(network.base, lambda: network.predict(z, sigma, [word]).square().mean().backward())
    assert float(word.tokens.grad.abs().max()) > 0


def test_its_answers_are_added_to_those_of_controlnets():
    """The host takes lists from their ends, and where a ControlNet gives fewer, the first skips get none of it."""
    one, two, three = (torch.full((1,), float(i)) for i in (1, 2, 3))
    out = together({OUTPUT: [one, None], "input": [two]}, [one, two, three, one])
    assert [float(part) for part in out[OUTPUT]] == [1, 3, 3] and float(out[MIDDLE][0]) == 1
    assert out["input"] == [two]
    assert [float(part) for part in together(None, [one, two])[OUTPUT]] == [1]


def test_a_branch_of_another_size_is_refused(model, erasure):
    [branch] = erasure.parts
    wide = {name: torch.cat([weight, weight]) for name, weight in branch.weights.items()}
    with pytest.raises(ErasureError, match="control branch was made for a model of another size"):
        attach.erase(model, replace(erasure, parts=(replace(branch, weights=wide),)))


def test_networks_without_skips_are_refused():
    here = subject(families.load(families.TINY["Flux.1"]))
    with pytest.raises(ErasureError, match="skips of a UNet, which Flux.1 and Flux.2 models do not have"):
        LEARNED["dumo"].require(here, Settings())


def test_it_reads_the_pooled_text_where_the_network_does():
    model, clip, _ = worlds.load(WORLDS["sdxl"].checkpoint)
    erased = attach.erase(model, erasure_of(model, clip))
    circle, star, nothing = (clip.encode_from_tokens_scheduled(clip.tokenize(t)) for t in ("circle", "star", ""))
    assert not torch.equal(*(sample(m, circle, nothing) for m in (model, erased)))
    assert torch.equal(*(sample(m, star, nothing) for m in (model, erased)))
