"""Every family of networks against the host: where text enters, and that a change there is what it is said to be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import comfy.sd
import comfy.utils
import pytest
import torch

from concept_erasure.erasure import learning
from concept_erasure.erasure.artifact import (
    Erasure,
    ErasureError,
    LowRank,
    Metadata,
)
from concept_erasure.erasure.exchange import export_lora
from concept_erasure.erasure.families import FAMILIES, family_of
from concept_erasure.erasure.host import attach, trainable
from concept_erasure.erasure.host.network import Network
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.host.weights import is_ordinary, plain_numbers
from concept_erasure.erasure.parts.delta import changing
from concept_erasure.erasure.parts.gate import GateTensors
from concept_erasure.erasure.parts.prompt import PromptTensors
from concept_erasure.erasure.texts.encoder import Text
from scripts import families_table
from tests import families
from tests.families import REFUSED, ROWS, TINY

CROSSING = tuple(f"blocks.{i}.cross_attn.{part}_proj" for i in range(2) for part in "kv")
UNET = tuple(
    f"{block}.1.transformer_blocks.0.attn2.to_{part}"
    for block in ("input_blocks.3", "middle_block", "output_blocks.0", "output_blocks.1")
    for part in "kv"
)
EXPECTED = {
    "SD 1.x": ("SD 1.x, SD 2.x, SDXL", UNET, ""),
    "SDXL": ("SD 1.x, SD 2.x, SDXL", UNET, "label_emb.0.0"),
    "Cosmos-Predict2": ("Anima", CROSSING, ""),
    "Anima": ("Anima", CROSSING, ""),
    "Lumina 2": ("Z-Image and Lumina 2", ("cap_embedder.1",), ""),
    "Z-Image": ("Z-Image and Lumina 2", ("cap_embedder.1",), ""),
    "Flux.1": ("Flux.1 and Flux.2", ("txt_in",), "vector_in.in_layer"),
    "Flux.1 schnell": ("Flux.1 and Flux.2", ("txt_in",), "vector_in.in_layer"),
    "Flux.2": ("Flux.1 and Flux.2", ("txt_in",), ""),
    "LongCat-Image": ("Flux.1 and Flux.2", ("txt_in",), ""),
    "Ovis-Image": ("Flux.1 and Flux.2", ("txt_in",), ""),
    "Qwen-Image": ("Qwen-Image", ("txt_in",), ""),
    "Mage-Flow": ("Qwen-Image", ("txt_in",), ""),
    "Krea 2": ("Krea 2", ("txtmlp.1",), ""),
    "Chroma": ("Chroma", ("txt_in",), ""),
    "SD 3.5": ("SD 3.5", ("context_embedder",), "y_embedder.mlp.0"),
    "SD 3.5 with layers in front": ("SD 3.5", ("context_embedder",), "y_embedder.mlp.0"),
    "Wan 2.x": ("Wan 2.x", ("text_embedding.0",), ""),
    "LTX-Video": ("LTX-Video", ("caption_projection.linear_1",), ""),
    "HunyuanVideo": (
        "HunyuanVideo and HunyuanImage", ("txt_in.input_embedder", "txt_in.c_embedder.in_layer"), "vector_in.in_layer",
    ),
    "HunyuanImage": (
        "HunyuanVideo and HunyuanImage", ("txt_in.input_embedder", "txt_in.c_embedder.in_layer"), "",
    ),
    "Ernie-Image": ("Ernie-Image", ("text_proj",), ""),
    "MiniMax H3": ("MiniMax H3", ("condition_proj",), ""),
    "PixArt": ("PixArt", ("y_embedder.y_proj.fc1",), ""),
    "AuraFlow": ("AuraFlow", ("cond_seq_linear",), ""),
    "OmniGen 2": ("OmniGen 2", ("time_caption_embed.caption_embedder.1",), ""),
    "Boogu": ("OmniGen 2", ("time_caption_embed.caption_embedder.1",), ""),
    "JoyImage": ("JoyImage", ("condition_embedder.text_embedder.linear_1",), ""),
    "Ideogram 4": ("Ideogram 4", ("llm_cond_proj",), ""),
    "Kandinsky 5": ("Kandinsky 5", ("text_embeddings.in_layer",), "pooled_text_embeddings.in_layer"),
}  # fmt: skip
"""Tiny network -> its family, the layers that read text, and the one that reads the pooled text."""


HERE = [name for name, tiny in TINY.items() if families.is_known(tiny)]
LEARNING = [name for name in HERE if EXPECTED[name][0] in {family.name for family in FAMILIES if family.learns}]


class Case:
    """A tiny network with a text: what it is given and what it draws."""

    def __init__(self, name: str):
        self.tiny = TINY[name]
        self.model = families.load(self.tiny)
        self.here = subject(self.model)
        generator = torch.Generator().manual_seed(1)
        self.rows = torch.randn(ROWS, self.tiny.text, generator=generator)
        self.pooled = torch.randn(1, self.tiny.pooled, generator=generator) if self.tiny.pooled else None
        self.cond = families.conditioning(self.tiny, self.rows, self.pooled)

    def draw(self, model=None) -> torch.Tensor:
        return families.draw(model or self.model, self.tiny, self.cond)

    @cached_property
    def base(self) -> torch.Tensor:
        return self.draw()

    @cached_property
    def pooled_entry(self) -> str | None:
        return self.here.family.pooled_entry(self.model.model)

    @cached_property
    def encodings(self) -> torch.Tensor:
        facts = self.tiny.cond
        ids = list(zip(facts["t5xxl_ids"], facts["t5xxl_weights"], strict=True)) if "t5xxl_ids" in facts else []
        return self.here.encodings(self.rows, {"t5xxl": [ids]})

    @cached_property
    def changes(self) -> dict[str, LowRank]:
        """W G for one map I + G of the text for all of the entry, and one of the pooled text."""
        names = [*self.here.entry, *([self.pooled_entry] if self.pooled_entry else [])]
        return {name: LowRank(self.model.model.get_parameter(name).detach() @ self.map_of(name).up,
                              self.map_of(name).down) for name in names}  # fmt: skip

    def map_of(self, name: str) -> LowRank:
        """G, of rank 2; for what the pooled text's layer reads beside it, zero."""
        generator = torch.Generator().manual_seed(2)
        width = self.model.model.get_parameter(name).shape[1]
        read = self.tiny.pooled if name == self.pooled_entry else width
        up, down = (torch.randn(2, read, generator=generator) / read**0.5 for _ in range(2))
        pad = torch.nn.functional.pad
        return LowRank(pad(up, (0, width - read)).T.contiguous(), pad(down, (0, width - read)))

    @cached_property
    def erasure(self) -> Erasure:
        return Erasure(Metadata(method="uce", concept="thing", **self.here.stamp()), changing(self.changes))

    @cached_property
    def erased(self) -> torch.Tensor:
        return self.draw(attach.erase(self.model, self.erasure))

    def given(self, names) -> dict[str, torch.Tensor]:
        """What the layers with these weights read while the base model draws."""
        given: dict[str, torch.Tensor] = {}

        def note(name, x):
            given[name] = x.clone().float()

        with self.hooks(names, note):
            self.draw()
        return given

    @contextlib.contextmanager
    def hooks(self, names, hook) -> Iterator[None]:
        """``hook(name, input)`` is called before each layer of the base model with these weights; may replace it."""
        layers = [self.model.model.get_submodule(name.removesuffix(".weight")) for name in names]
        handles = [
            layer.register_forward_pre_hook(lambda _, args, name=name: hook(name, args[0]))
            for layer, name in zip(layers, names, strict=True)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


KNOWN: dict[str, Case] = {}


@pytest.fixture(params=HERE)
def case(request) -> Case:
    if request.param not in KNOWN:
        KNOWN[request.param] = Case(request.param)
    return KNOWN[request.param]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_every_family_has_a_tiny_network():
    assert {name for name, *_ in EXPECTED.values()} == {family.name for family in FAMILIES}
    assert EXPECTED.keys() == TINY.keys()


def test_a_network_is_of_one_family_which_knows_its_text_entry(case, request):
    name, entry, pooled = EXPECTED[request.node.callspec.params["case"]]
    network = case.model.model.diffusion_model
    assert [family.name for family in FAMILIES if family.fits(network)] == [name]
    assert family_of(case.model.model).name == name
    assert sorted(case.here.entry) == sorted(f"diffusion_model.{layer}.weight" for layer in entry)
    assert case.here.width == case.encodings.shape[1] == case.model.model.get_parameter(case.here.entry[0]).shape[1]
    assert case.pooled_entry == (f"diffusion_model.{pooled}.weight" if pooled else None)
    assert bool(case.here.front) == bool(case.here.family.in_front(case.model.model))


def test_the_entry_is_given_the_encodings(case):
    given = case.given(case.here.entry)
    assert sorted(given) == sorted(case.here.entry)
    for x in given.values():
        x = x.reshape(-1, x.shape[-1])
        x = x[x.any(1)]  # without padding, which is zero
        want = case.encodings if len(x) > 1 else case.encodings.mean(0, keepdim=True)  # what reads all rows together
        assert relative(x, want) < 1e-5


@pytest.mark.parametrize("case", [name for name in HERE if TINY[name].pooled], indirect=True)
def test_the_first_columns_read_the_pooled_text(case):
    [given] = case.given([case.pooled_entry]).values()
    assert torch.equal(given[:, : case.tiny.pooled], case.pooled)


def test_a_change_of_the_entry_is_a_map_of_what_it_reads(case):
    def mapped(name, x):
        g = case.map_of(name)
        return (x + (x @ g.down.T) @ g.up.T,)

    with case.hooks(case.changes, mapped):
        there = case.draw()
    assert relative(case.erased, case.base) > 1e-3  # the entry carries text
    assert relative(case.erased, there) < 1e-5


def test_each_entry_carries_text(case):
    for name, change in case.changes.items():
        some = replace(case.erasure, parts=changing({name: change}))
        assert relative(case.draw(attach.erase(case.model, some)), case.base) > 1e-5, name


def test_the_exported_lora_draws_the_same(case, tmp_path, caplog):
    export_lora(case.model, case.erasure, tmp_path / "erasure.safetensors", torch.float32)
    file = comfy.utils.load_torch_file(str(tmp_path / "erasure.safetensors"))
    caplog.clear()
    model, _ = comfy.sd.load_lora_for_models(case.model, None, file, 1.0, 0.0)
    assert not [record for record in caplog.records if "not loaded" in record.getMessage().lower()]
    assert set(model.patches) == set(case.changes)
    assert relative(case.draw(model), case.erased) < 1e-5


def test_an_entry_in_eight_bits_takes_the_change(case):
    """The host requantises it with the change in it; what is left of the change is what was said."""
    model = families.load(case.tiny, quantised=[name.removeprefix("diffusion_model.") for name in case.changes])
    weights = {name: model.model.get_parameter(name) for name in case.changes}
    assert not any(map(is_ordinary, weights.values()))
    before = {name: plain_numbers(weight).clone() for name, weight in weights.items()}
    erasure = replace(case.erasure, metadata=Metadata(method="uce", concept="thing", **subject(model).stamp()))
    erased = attach.erase(model, erasure)
    case.draw(erased)
    for name, change in case.changes.items():
        effect = plain_numbers(model.model.get_parameter(name)) - before[name]
        assert float((effect * change.dense()).sum() / change.dense().square().sum()) > 0.9, name
    arrival = attach.arrival_on(erased)
    assert arrival.form == "fp8" and arrival.left > 0.9 and arrival.changed == arrival.total == len(case.changes)


def test_the_base_model_is_not_touched(case):
    assert attach.erase(case.model, case.erasure, 0.0) is case.model
    before = case.draw()
    erased = attach.erase(case.model, case.erasure)
    assert torch.equal(case.draw(), before)  # beside
    case.draw(erased)
    assert torch.equal(case.draw(), before)  # and after


@pytest.mark.parametrize("case", LEARNING, indirect=True)
@pytest.mark.parametrize("length", [ROWS, ROWS - 2])
def test_a_prompt_leaves_closed_texts_as_they_are_to_the_bit(case, length):
    """In one call with an open text, and where the other is of another length. The UNet has them say themselves over
    again beside an open one, which rounds."""
    generator = torch.Generator().manual_seed(3)
    other = torch.randn(length, case.tiny.text, generator=generator)
    keys, values = (torch.randn(3, case.tiny.text, generator=generator) for _ in range(2))
    nothing, direction = torch.zeros(case.tiny.text), torch.randn(case.tiny.text, generator=generator)
    scores = [float((rows @ direction).max()) for rows in (case.rows, other)]
    gate = GateTensors(direction, nothing, sum(scores) / 2)
    conds = [families.conditioning(case.tiny, rows, case.pooled, t5xxl_ids=None) for rows in (case.rows, other)]
    base = families.predictions(case.model, case.tiny, *conds)
    prompt = PromptTensors(keys, values, "all", "eraser", 77, gate)
    prompted = families.predictions(attach.with_part(case.model, prompt), case.tiny, *conds)
    is_open = [score > gate.threshold for score in scores]
    least = 1e-5 if case.here.family.repeats else 0.0
    assert [relative(b, a) > least for a, b in zip(base, prompted, strict=True)] == is_open
    again = families.predictions(case.model, case.tiny, *conds)
    assert all(map(torch.equal, base, again))


@pytest.mark.parametrize("case", LEARNING, indirect=True)
def test_gradients_of_the_weights_are_those_of_small_steps(case):
    """Of those that a delta changes, through the whole network."""
    generator = torch.Generator().manual_seed(4)
    with torch.inference_mode(False):
        network = Network(case.model, case.tiny.latent, checkpointing=True)
        z, sigma = families.latent(case.tiny), torch.tensor([0.7])
        text = Text("text", case.rows[None], [[row.clone(), dict(extra)] for row, extra in case.cond])
        names = case.here.weights("keys+values")
        assert set(names) >= set(case.here.entry)
        start = {name: network.base[name].clone() for name in names}
        steps = {name: torch.randn(x.shape, generator=generator) * x.std() / 50 for name, x in start.items()}
        weighing = torch.randn(z.shape, generator=generator)

        def loss(values: dict[str, torch.Tensor], backward: bool = False) -> float:
            def run() -> float:
                out = (network.predict(z, sigma, [text]) * weighing).sum()
                if backward:
                    out.backward()
                return float(out.detach())

            return network.computing_with(network.base | values, run)

        for name, step in steps.items():
            with learning.gradients():
                leaf = start[name].clone().requires_grad_()
                loss(start | {name: leaf}, backward=True)
            with torch.no_grad():
                ahead, behind = (loss(start | {name: start[name] + sign * step}) for sign in (1, -1))
            wanted = pytest.approx((ahead - behind) / 2, rel=0.02, abs=1e-4 * abs(ahead))
            assert float((leaf.grad * step).sum()) == wanted, name


def test_learning_is_refused_by_name(case):
    if not case.here.family.not_learning(case.model.model):
        trainable.require_trainable(case.model)
        return
    with pytest.raises(ErasureError, match=case.here.family.name):
        trainable.require_trainable(case.model)


@pytest.mark.parametrize("name", [name for name, tiny in REFUSED.items() if families.is_known(tiny)])
def test_what_no_family_fits_is_refused_by_name(name):
    model = families.load(REFUSED[name])
    with pytest.raises(ErasureError, match=rf"^This model \({type(model.model).__name__}\) .*[^.]\.$"):
        subject(model)


@pytest.mark.skipif(len(HERE) < len(TINY), reason="a host that lacks some families")
def test_the_page_says_what_is_so():
    assert families_table.PAGE.read_text(encoding="utf-8") == families_table.page(), (
        "run python3 scripts/run.py scripts.families_table"
    )
