"""What becomes of a change on a MODEL: counted, measured after rounding, and said in plain words."""

from dataclasses import replace

import pytest
import torch

from concept_erasure.erasure.artifact import Erasure, ErasureError, Full, LowRank
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.host.taken import SAMPLE, Taken, called, percent, require_taken, sample, taken
from concept_erasure.erasure.host.weights import effective_weights
from concept_erasure.erasure.parts.delta import changing
from concept_erasure.erasure.parts.prompt import PromptTensors
from tests.host import loaders
from tests.host.test_fit import sentence
from tests.host.tools import make_erasure, only_delta
from tests.host.tools import sample as draw

FORMS = {
    "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn,
    "scaled fp8": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def models(checkpoint):
    state = loaders.unet_of(checkpoint)
    out = {name: loaders.load(state, dtype=dtype) for name, dtype in FORMS.items() if dtype is not None}
    out["scaled fp8"] = loaders.load(loaders.scaled(state))
    return out | {"packed": loaders.packed(state), "sealed": loaders.packed(state, loaders.SealedOps)}


@pytest.fixture(scope="module")
def delta(models):
    """A change by a fifth of the weights' norm or more, of rank 2."""
    return make_erasure(models["fp32"], prompt=False).delta


def host_result(model, name: str) -> torch.Tensor:
    """A weight as the host leaves it on the network once a MODEL has been loaded, dequantised."""
    weight = dict(model.model.named_parameters())[name]
    return (weight.dequantize() if "Quantized" in type(weight).__name__ else weight.detach()).float()


# ---------------------------------------------------------------- counts and shares


def test_a_change_arrives_whole_on_full_precision(models, delta):
    arrival = taken(models["fp32"], delta)
    assert (arrival.changed, arrival.total, arrival.form) == (len(delta), len(delta), "fp32")
    assert arrival.left == pytest.approx(1, abs=1e-5) and arrival.noise < 1e-3 and arrival.is_whole
    norms = [
        [float(t.norm()) ** 2 for t in ts]
        for ts in ([change.dense() for change in delta.values()], effective_weights(models["fp32"], delta).values())
    ]
    assert arrival.share == pytest.approx((sum(norms[0]) / sum(norms[1])) ** 0.5, rel=0.2)
    assert arrival.sentence() == f"14 of 14 text weights changed, by {percent(arrival.share)} of their norm."
    assert taken(models["fp32"], delta, 0.5).share == pytest.approx(arrival.share / 2)
    assert taken(models["fp32"], delta, -0.5).left == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", FORMS)
def test_what_is_measured_is_what_the_host_does_when_it_loads_the_model(models, delta, cond, name):
    """With ``Taken`` for one weight, beside what really stands in the network afterwards."""
    model, [key, *_] = models[name], delta
    size = 0.3 if "fp8" in name else 0.02  # a smaller one would be added beside eight bits
    one = {key: LowRank(delta[key].up * size, delta[key].down)}
    before = effective_weights(model, [key])[key]
    erased = attach.erase(model, Erasure(make_erasure(model, prompt=False).metadata, changing(one)))
    draw(erased, cond("x"), cond(""))
    real, wanted = (host_result(erased, key) - before).double(), one[key].dense().double()
    arrival = attach.arrival_on(erased)
    left = float((real * wanted).sum() / wanted.square().sum())
    assert arrival.left == pytest.approx(left, rel=1e-3)
    assert arrival.noise == pytest.approx(float((real - left * wanted).norm() / wanted.norm()), abs=1e-3)


@pytest.mark.parametrize("name", ["fp16", "bf16", "fp8", "scaled fp8"])
def test_a_large_change_survives_and_a_tiny_one_is_refused_or_added_beside(models, delta, name):
    small = 1e-5 if "fp8" in name else 1e-7
    large, tiny = taken(models[name], delta), taken(models[name], delta, small)
    assert large.is_whole and large.noise < 0.5
    assert tiny.is_lost and not tiny.is_whole
    erasure = Erasure(make_erasure(models[name], prompt=False).metadata, changing(delta))
    if "fp8" in name:
        arrival = attach.arrival_on(attach.erase(models[name], erasure, small))
        assert arrival.is_whole and "% of their norm (quantised: applied beside" in arrival.sentence()
        return
    with pytest.raises(ErasureError) as caught:
        attach.erase(models[name], erasure, small)
    assert f"{name} weights" in sentence(caught) and "higher precision" in sentence(caught)


@pytest.mark.parametrize(("name", "strength"), [("bf16", 1e-3), ("fp8", 1e-2), ("scaled fp8", 1e-2)])
def test_between_them_it_says_what_rounding_does(models, delta, name, strength):
    at = [taken(models[name], delta, strength * factor) for factor in (100, 1, 0.3, 0.1, 0.03)]
    assert not at[0].doubt() and any(one.doubt() for one in at)
    assert all(f"{name.split()[-1]} weights" in one.doubt() for one in at if one.doubt())
    assert min(one.left for one in at) < 0.9 or max(one.noise for one in at) > 3


def test_patches_that_are_there_already_are_no_part_of_the_change(models, delta):
    model = models["scaled fp8"]
    alone = taken(model, delta)
    behind = taken(attach.erase(model, Erasure(make_erasure(model, prompt=False).metadata, changing(delta))), delta)
    assert behind.left == pytest.approx(alone.left, abs=0.05) and behind.share < alone.share


# ---------------------------------------------------------------- what does not arrive


def test_zero_and_other_shapes_are_not_counted(models, delta):
    first, second, *_ = delta
    some = delta | {first: Full(torch.zeros(delta[first].dense().shape)), second: Full(torch.ones(3, 3))}
    arrival = taken(models["fp32"], some)
    assert arrival.changed == len(delta) - 2 and not arrival.is_whole
    assert arrival.sentence().startswith("12 of 14 text weights changed")
    nothing = {name: LowRank(torch.zeros_like(change.up), change.down) for name, change in delta.items()}
    assert taken(models["fp32"], nothing).sentence() == "None of 14 text weights changed."
    assert taken(models["fp32"], delta, 0.0).changed == 0


@pytest.mark.parametrize("window", [(0.0, 1.0), (0.0, 0.9)])
def test_a_change_of_nothing_is_no_erasure(models, delta, window):
    nothing = {name: LowRank(torch.zeros_like(change.up), change.down) for name, change in delta.items()}
    made = make_erasure(models["fp32"], gate=False)
    erasure = replace(made, parts=(*made.of(PromptTensors), *changing(nothing)))
    with pytest.raises(ErasureError) as caught:
        attach.erase(models["fp32"], only_delta(erasure), 1.0, *window)
    assert "changes none of the 14 weights" in sentence(caught)
    assert attach.erase(models["fp32"], erasure) is not models["fp32"], "its prompt erases"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(models, delta, bad):
    first = next(iter(delta))
    broken = delta | {first: Full(torch.full(delta[first].dense().shape, bad))}
    with pytest.raises(ErasureError) as caught:
        taken(models["fp32"], broken)
    assert first in sentence(caught) and "not finite" in sentence(caught)


def test_a_change_that_half_precision_cannot_hold_is_refused(models, delta):
    with pytest.raises(ErasureError) as caught:
        taken(models["fp16"], delta, 1e7)
    assert "lower the strength" in sentence(caught)


# ---------------------------------------------------------------- beside the weights


def test_packed_weights_are_asked_what_they_became(models, delta):
    arrival = taken(models["packed"], delta)
    assert arrival.is_whole and arrival.beside and arrival.left == pytest.approx(1, abs=1e-3)
    assert taken(models["packed"], delta, 1e-3).left == pytest.approx(1, abs=1e-2), "nothing is rounded"


class Ignoring(loaders.PackedPatcher):
    """A patcher that forgets patches of packed weights."""

    def patch_weight_to_device(self, key, *args, **kwargs):
        return None


def test_a_loader_that_drops_patches_is_found_out(checkpoint, delta):
    model = loaders.packed(loaders.unet_of(checkpoint))
    model.__class__ = Ignoring
    said = taken(model, delta).sentence()
    assert said == "None of 14 text weights changed. The loader of the model's weights (Packed) drops the change."
    with pytest.raises(ErasureError) as caught:
        attach.erase(model, Erasure(make_erasure(model, prompt=False).metadata, changing(delta)))
    assert "drops changes" in sentence(caught) and "Packed" in sentence(caught)


def test_a_loader_that_shows_nothing_is_named(models, delta):
    arrival = taken(models["sealed"], delta)
    assert arrival.unseen == arrival.changed == 14 and not arrival.is_lost and not arrival.is_whole
    assert "14 of 14 text weights have been given the change" in arrival.sentence() and "Packed" in arrival.sentence()
    require_taken(arrival)


@pytest.mark.parametrize("name", ["fp8", "packed"])
def test_in_a_window_nothing_is_rounded(models, delta, name):
    arrival = taken(models[name], delta, 1e-3, beside=True)
    assert arrival.beside and arrival.is_whole and arrival.noise < 1e-3


# ---------------------------------------------------------------- how it looks


def test_it_leaves_the_model_as_it_was_and_looks_at_few_weights(models, delta):
    for model in models.values():
        before = loaders.snapshot(model)
        taken(model, delta)
        assert loaders.snapshot(model) == before
        assert sum(len(group.names) for group in sample(model, list(delta))) <= SAMPLE


def test_every_kind_of_layer_is_looked_at(models, delta):
    model = models["scaled fp8"]
    biases = [name for name in subject(model).weights("cross-attention") if "bias" in name]
    others = [name for name, _ in model.model.named_parameters() if "emb_layers.1.weight" in name]
    names = [*delta, *biases, *others]
    groups = sample(model, names)
    assert sum(group.count for group in groups) == len(names) and len({group.form for group in groups}) > 1
    assert all(group.names for group in groups)


def test_words():
    whole = Taken(16, 16, 0.12)
    assert whole.sentence() == "16 of 16 text weights changed, by 12 % of their norm."
    beside = replace(whole, form="int8", beside=True).sentence()
    assert beside == "16 of 16 text weights changed, by 12 % of their norm (quantised: applied beside them)."
    assert replace(whole, of_text=False).sentence().startswith("16 of 16 weights")
    small = replace(whole, left=0.3, form="fp8").sentence()
    assert small.endswith(
        "This change is too small for the model's fp8 weights: only 30 % of it is left after rounding."
    )
    assert "adds 14 times as much" in replace(whole, noise=14.2, form="nvfp4").sentence()
    assert [percent(x) for x in (0, 0.5, 0.012, 0.0031, 1e-6)] == ["0 %", "50 %", "1.2 %", "0.31 %",
                                                                    "less than 0.01 %"]  # fmt: skip
    assert [called(x) for x in ("float8_e4m3fn", "TensorCoreNVFP4Layout", "TensorCoreMXFP8Layout", "bfloat16",
                                "TensorCoreFP8E4M3Layout", "TensorWiseINT8Layout", "GGMLTensor")] == [
        "fp8", "nvfp4", "mxfp8", "bf16", "fp8", "int8", "GGMLTensor"]  # fmt: skip
