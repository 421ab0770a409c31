"""Text entries as quantised files have them: the change survives, or is added beside them, or is refused by name."""

import json
from functools import cache

import pytest
import torch
from comfy.quant_ops import QuantizedTensor

from concept_erasure.erasure.artifact import Erasure, ErasureError, LowRank, Metadata
from concept_erasure.erasure.host import attach, trainable
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.host.taken import percent
from concept_erasure.erasure.parts.delta import changing
from concept_erasure.nodes.messages import put_on
from tests import families
from tests.families import ROWS, TINY
from tests.host import loaders
from tests.host.test_fit import sentence

FORMS = {
    "int8": ("int8_tensorwise", "TensorWiseINT8Layout", {"per_channel": True}),
    "mxfp8": ("mxfp8", "TensorCoreMXFP8Layout", {}),
    "nvfp4": ("nvfp4", "TensorCoreNVFP4Layout", {}),
    "4-bit": ("convrot_w4a4", "TensorCoreConvRotW4A4Layout", {"convrot_groupsize": 64}),
}
"""What a user calls it -> the host's name in files, its class, and how it is made."""
OPS = {"gguf": loaders.PackedOps, "sealed": loaders.SealedOps}
FAMILIES = ("Flux.1", "Qwen-Image", "Lumina 2")
QUANTISED = [(name, form) for name in FAMILIES for form in FORMS if name == "Qwen-Image" or form in ("int8", "mxfp8")]
"""The host tells the text's width of Flux and Lumina by the entry, which files keep in eight bits at least, then."""


def as_in_files(name: str, weight: torch.Tensor, form: str) -> dict[str, torch.Tensor]:
    """A weight in a form of the host's."""
    kind, layout, how = FORMS[form]
    packed = QuantizedTensor.from_float(weight, layout, **how)
    about = torch.tensor(list(json.dumps({"format": kind, **how}).encode()), dtype=torch.uint8)
    return {**packed.state_dict(name), f"{name.removesuffix('weight')}comfy_quant": about}


class Case:
    """A tiny network of a family, and an erasure of rank 2 for its text entry."""

    def __init__(self, name: str):
        self.tiny = TINY[name]
        self.plain = families.load(self.tiny)
        self.entry = subject(self.plain).entry
        generator = torch.Generator().manual_seed(1)
        rows = torch.randn(ROWS, self.tiny.text, generator=generator)
        pooled = torch.randn(1, self.tiny.pooled, generator=generator) if self.tiny.pooled else None
        self.cond = families.conditioning(self.tiny, rows, pooled)

    def load(self, form: str):
        """The same weights from a file with the entry in that form, or all of it packed by a loader of its own."""
        state = families.random_state(self.tiny)
        if form in OPS:
            model = families.load_state(self.tiny, state, dtype=torch.float32, custom_operations=OPS[form])
            model.__class__ = loaders.PackedPatcher
            return model
        for name in self.entry:
            short = name.removeprefix("diffusion_model.")
            state |= as_in_files(short, state[short], form)
        return families.load_state(self.tiny, state, dtype=torch.float32)

    def erasure(self, size: float) -> Erasure:
        """A change by ``size`` of the weights' norm."""
        generator, delta = torch.Generator().manual_seed(2), {}
        for name in self.entry:
            weight = self.plain.model.get_parameter(name)
            up, down = (torch.randn(2, width, generator=generator) for width in weight.shape)
            delta[name] = LowRank(up.T * float(size * weight.norm() / (up.T @ down).norm()), down)
        return Erasure(Metadata(method="uce", concept="thing", **subject(self.plain).stamp()), changing(delta))

    def draw(self, model) -> torch.Tensor:
        return families.draw(model, self.tiny, self.cond)

    def likeness(self, model, erased, size: float) -> float:
        """How far what an erasure changes in a drawing points where it does at full precision; 1 is all the way."""
        there = self.draw(attach.erase(self.plain, self.erasure(size))) - self.draw(self.plain)
        here = self.draw(erased) - self.draw(model)
        return float((here * there).sum() / there.square().sum())


@cache
def case(name: str) -> Case:
    return Case(name)


@cache
def loaded(name: str, form: str):
    return case(name).load(form)


@pytest.mark.parametrize("size", [0.3, 0.005])
@pytest.mark.parametrize(("name", "form"), QUANTISED)
def test_a_change_is_in_the_weights_or_beside_them(name, form, size):
    """A large one survives rounding; of a small one in few bits rounding would leave more than the change itself."""
    one, model = case(name), loaded(name, form)
    before, drawn = loaders.snapshot(model), one.draw(model)
    erased = attach.erase(model, one.erasure(size))
    assert loaders.snapshot(model) == before
    arrival = attach.arrival_on(erased)
    assert arrival.form == form and arrival.is_whole and arrival.left > 0.9
    assert arrival.beside == attach.is_beside(erased)
    # beside them, a layer computes with what its weights are: what is looked at is the change alone
    off = attach.erase(model, one.erasure(size), 1e-6) if arrival.beside else model
    if arrival.beside or size > 0.1:
        assert one.likeness(off, erased, size) > 0.9
    said = put_on(model, erased, one.erasure(size), 1.0).text()
    note = " (quantised: applied beside them)" if arrival.beside else ""
    count = len(one.entry)
    assert f"{count} of {count} text weights changed, by {percent(size)} of their norm{note}." in said
    assert ("comes without it" in said) == arrival.beside
    assert torch.equal(one.draw(model), drawn) and loaders.snapshot(model) == before


def test_a_small_change_of_few_bits_is_added_beside_them():
    one = case("Qwen-Image")
    for form in FORMS:
        model = loaded("Qwen-Image", form)
        beside = [attach.is_beside(attach.erase(model, one.erasure(size))) for size in (0.3, 0.005)]
        assert beside == [False, form in ("nvfp4", "4-bit")], form


def test_what_is_beside_is_not_learned_on():
    model = attach.erase(loaded("Qwen-Image", "nvfp4"), case("Qwen-Image").erasure(0.005))
    with pytest.raises(ErasureError) as caught:
        trainable.require_trainable(model)
    assert "beside its quantised weights" in sentence(caught)


@pytest.mark.parametrize("form", OPS)
@pytest.mark.parametrize("name", FAMILIES)
def test_packed_weights_take_it_beside_them(name, form, monkeypatch):
    """As GGUF's loader keeps them; one whose layers compute nothing by themselves does not show what becomes of it."""
    one, model = case(name), loaded(name, form)
    erased = attach.erase(model, one.erasure(0.1))
    arrival = attach.arrival_on(erased)
    count = len(one.entry)
    said = f"{count} of {count} text weights changed, by 10 % of their norm (quantised: applied beside them)."
    assert arrival.sentence() == said if form == "gguf" else arrival.unseen == count
    monkeypatch.setattr(loaders.SealedOps, "running", True)
    before, drawn = loaders.snapshot(model), one.draw(model)
    assert one.likeness(model, erased, 0.1) == pytest.approx(1, abs=0.1)
    assert torch.equal(one.draw(model), drawn) and loaders.snapshot(model) == before


class Kernel(torch.nn.Module):
    """A layer of a foreign engine: numbers of its own, no weight, no operations of the host's."""

    def __init__(self, layer):
        super().__init__()
        self.register_buffer("qweight", layer.weight.detach().to(torch.bfloat16).view(torch.int16))
        self.bias = layer.bias

    def forward(self, x):
        return torch.nn.functional.linear(x, self.qweight.view(torch.bfloat16).to(x.dtype), self.bias)


class Wrapped(torch.nn.Module):
    """A foreign network in the place of the host's."""

    def __init__(self, network):
        super().__init__()
        self.model, self.dtype = network, network.dtype

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)


def test_an_engine_with_the_hosts_network_and_blocks_of_its_own_takes_it():
    """As Nunchaku's Qwen-Image: its blocks are in four bits, its text entry is the host's."""
    one = case("Qwen-Image")
    model = families.load(one.tiny)
    block = model.model.diffusion_model.transformer_blocks[0]
    for path, layer in list(block.named_modules()):
        if isinstance(layer, torch.nn.Linear):
            parent, _, part = path.rpartition(".")
            setattr(block.get_submodule(parent), part, Kernel(layer))
    before = one.draw(model)
    erased = attach.erase(model, one.erasure(0.1))
    assert attach.arrival_on(erased).sentence() == "1 of 1 text weights changed, by 10 % of their norm."
    assert one.likeness(model, erased, 0.1) == pytest.approx(1, abs=0.1)
    assert torch.equal(one.draw(model), before)


def test_an_engine_with_a_network_of_its_own_is_refused():
    """As Nunchaku's Flux."""
    model = families.load(TINY["Flux.1"])
    model.model.diffusion_model = Wrapped(model.model.diffusion_model)
    with pytest.raises(ErasureError, match=r"^This model \(Flux\) .*[^.]\.$"):
        attach.erase(model, case("Flux.1").erasure(0.1))
