"""Erasures and models that do not belong together: one clear sentence each."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from concept_erasure.erasure.artifact import Erasure, ErasureError, Full, LowRank
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.fingerprint import Fingerprint, fingerprint_of, of_one_checkpoint, parse_fingerprint
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.parts.delta import changing
from concept_erasure.nodes.use import ErasureApply, ErasureRecover
from tests import worlds
from tests.host.tools import make_erasure, only_delta, only_prompt, sample


def sentence(caught) -> str:
    """The message, which has to be one sentence that says what to do."""
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and ": " in text
    return text


@pytest.mark.parametrize("use", [attach.erase, attach.recover])
def test_another_width_is_refused_by_name(model, narrow_model, use):
    erasure = make_erasure(narrow_model, gate=False, role="key")
    with pytest.raises(ErasureError) as caught:
        use(model, erasure)
    text = sentence(caught)
    assert "NarrowWorld" in text and "64" in text and "ToyWorld" in text and "96" in text


def test_the_same_width_with_other_layers_is_refused(model, gated):
    here = subject(model).fingerprint
    other = replace(gated.metadata, family="SDXL", fingerprint=str(Fingerprint("SDXL", "0" * 12, here.values)))
    with pytest.raises(ErasureError) as caught:
        attach.erase(model, replace(gated, metadata=other))
    assert "SDXL" in sentence(caught)


def test_another_checkpoint_of_the_family_is_applied_and_the_node_says_so(other_checkpoint_model, model, gated):
    assert not attach.doubts(model, gated)
    out = ErasureApply.execute(other_checkpoint_model, gated, 1.0)
    assert out.args[0] is not other_checkpoint_model
    assert "⚠ This erasure was made on another ToyWorld checkpoint" in out.ui.as_dict()["text"][0]


def test_a_model_without_cross_attention_on_text_is_refused(gated):
    model = worlds.model_without_attn2()
    for refuse in (subject, lambda m: attach.erase(m, gated), lambda m: attach.recover(m, gated)):
        with pytest.raises(ErasureError) as caught:
            refuse(model)
        assert "SDXL" in sentence(caught) and "BaseModel" in sentence(caught)


def test_a_key_cannot_erase_and_an_eraser_cannot_recover(model, clip, gated):
    key = make_erasure(model, clip, role="key", delta=False)
    with pytest.raises(ErasureError) as caught:
        attach.erase(model, key)
    assert "Recover Concept" in sentence(caught)
    with pytest.raises(ErasureError) as caught:
        attach.recover(model, gated)
    assert "no key" in sentence(caught)


@pytest.mark.parametrize("window", [{}, {"start_percent": 0.2}])
def test_weights_that_the_model_lacks_are_noticed(model, gated, window):
    foreign = Erasure(gated.metadata, changing({"diffusion_model.nowhere.attn2.to_k.weight": Full(torch.ones(2, 2))}))
    with pytest.raises(ErasureError) as caught:
        attach.erase(model, foreign, **window)
    assert "nowhere" in sentence(caught)


def test_a_refused_erasure_leaves_nothing_on_the_model(model, gated):
    nowhere = {"nowhere.attn2.to_k.weight": LowRank(torch.ones(2, 1), torch.ones(1, 2))}
    foreign = Erasure(gated.metadata, changing(nowhere))
    with pytest.raises(ErasureError):
        attach.erase(model, foreign)
    assert not model.patches and not attach.attachments(model)


def test_recovering_what_was_not_erased_is_said_on_the_node(model, clip):
    both = make_erasure(model, clip, role="key")
    said = [
        ErasureRecover.execute(connected, erasure, 1.0).ui.as_dict()["text"][0]
        for connected in (attach.erase(model, both), model)
        for erasure in (both, both.key_only())
    ]
    assert ["⚠ The connected model does not carry this erasure" in text for text in said] == [False, False, True, True]


def test_a_fingerprint_survives_half_precision_and_patches(model, bf16_model, cond, gated):
    erased = attach.erase(model, only_delta(gated))
    sample(erased, cond("x"), cond(""))  # the host changes the weights in place while this model is loaded
    assert subject(erased).fingerprint == subject(model).fingerprint
    assert subject(bf16_model).fingerprint.shapes == subject(model).fingerprint.shapes
    assert of_one_checkpoint(subject(bf16_model).fingerprint, subject(model).fingerprint)
    assert parse_fingerprint(str(subject(model).fingerprint)) == subject(model).fingerprint
    assert parse_fingerprint("") is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_no_other_checkpoint_and_a_fine_tune_is_one(model, other_checkpoint_model, dtype):
    generator = torch.Generator().manual_seed(0)

    def of(change) -> Fingerprint:
        weights = {f"{i}.attn2.to_k.weight": change(torch.randn(320, 768, generator=generator)) for i in range(16)}
        network = SimpleNamespace(named_parameters=lambda: weights.items(), model_config=model.model.model_config)
        generator.manual_seed(0)
        return fingerprint_of(SimpleNamespace(model=network), list(weights))

    made = of(lambda w: w)
    assert made.shapes == of(lambda w: w.to(dtype)).shapes
    for scale in (0.01, 0.1, 3.0):
        assert of_one_checkpoint(of(lambda w, s=scale: s * w), of(lambda w, s=scale: (s * w).to(dtype)))
    tuned = of(lambda w: w + 0.05 * torch.randn(w.shape, generator=torch.Generator().manual_seed(1)))
    assert not of_one_checkpoint(made, tuned)
    assert not of_one_checkpoint(subject(model).fingerprint, subject(other_checkpoint_model).fingerprint)
    assert of_one_checkpoint(made, replace(made, values="0123456789ab")), "what early versions wrote cannot be compared"


def test_an_erasure_that_says_nothing_of_its_model_is_tried(model, gated):
    bare = replace(gated.metadata, family="", context_dim="", fingerprint="")
    assert attach.erase(model, replace(only_prompt(gated), metadata=bare)) is not model
