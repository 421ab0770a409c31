"""Erasure prompts in every family that can learn: closed rows are left alone to the bit, and gradients are right."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from concept_erasure.erasure import learning
from concept_erasure.erasure.artifact import Erasure, ErasureError, LowRank, Metadata
from concept_erasure.erasure.families import calls, cosmos
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.attention import AttentionMaps
from concept_erasure.erasure.host.network import Network
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.host.trainable import require_trainable
from concept_erasure.erasure.parts.delta import DeltaTensors, Full
from concept_erasure.erasure.parts.gate import GateTensors
from concept_erasure.erasure.parts.prompt import PromptTensors
from concept_erasure.erasure.texts.encoder import Text
from tests import families
from tests.families import TINY

LEARNING = (
    "SDXL", "Flux.1", "Flux.2", "LongCat-Image", "Qwen-Image", "Z-Image", "Lumina 2", "SD 3.5", "Chroma", "Anima",
    "Cosmos-Predict2", "Krea 2", "Wan 2.x", "HunyuanVideo", "HunyuanImage", "LTX-Video",
)  # fmt: skip
ROWS, TOKENS = 7, 3


@cache
def network(name: str) -> Network:
    tiny = TINY[name]
    model = families.load(tiny)
    assert subject(model).family.learns
    shape = tiny.latent if len(tiny.latent) == 3 else (tiny.latent[0], 1, *tiny.latent[-2:])
    return Network(model, shape, checkpointing=False)


def text(name: str, label: str, rows: int = ROWS) -> Text:
    """A text of random encodings, whose first number says whether it opens the gate."""
    tiny, generator = TINY[name], torch.Generator().manual_seed(len(label))
    context = torch.randn(rows, tiny.text, generator=generator)
    context[:, 0] = 5.0 if label == "open" else -5.0
    pooled = torch.randn(1, tiny.pooled, generator=generator) if tiny.pooled else None
    return Text(label, context[None], families.conditioning(tiny, context, pooled, t5xxl_ids=None))


def prompt(name: str) -> PromptTensors:
    tiny, generator = TINY[name], torch.Generator().manual_seed(3)
    keys = torch.randn(TOKENS, tiny.text, generator=generator)
    direction = torch.eye(tiny.text)[0]
    gate = GateTensors(direction, torch.zeros(tiny.text), 0.0)
    reads = subject(network(name).model).family.pooled_entry(network(name).model.model)
    pooled = torch.randn(tiny.pooled, generator=generator) if reads else None
    return PromptTensors(keys, keys.clone(), "all", "eraser", ROWS, gate, pooled)


def latents(name: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, *network(name).shape, generator=generator), torch.linspace(0.4, 0.7, count)


@pytest.mark.parametrize("name", LEARNING)
@torch.no_grad()
def test_closed_rows_are_the_unedited_models(name):
    net, (z, sigma) = network(name), latents(name, 3)
    texts = [text(name, label) for label in ("closed", "open", "closed")]
    base, prompted = net.predict(z, sigma, texts), net.predict(z, sigma, texts, prompt(name))
    if net.family.repeats:  # a text that is said twice reads the same, to rounding
        torch.testing.assert_close(prompted[::2], base[::2], rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(prompted[0], base[0]) and torch.equal(prompted[2], base[2])
    assert (prompted[1] - base[1]).norm() > 1e-3 * base[1].norm()
    alone = net.predict(z[1:2], sigma[1:2], texts[1:2], prompt(name))
    torch.testing.assert_close(prompted[1:2], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LEARNING)
@torch.no_grad()
def test_a_key_turns_the_texts_own_tokens_of_open_rows(name):
    net, (z, sigma), given = network(name), latents(name, 2), prompt(name)
    generator, width = torch.Generator().manual_seed(11), TINY[name].text
    still = LowRank(torch.zeros(width, 1), torch.zeros(1, width)) if net.family.repeats else None
    key = replace(given, role="key", gate=replace(given.gate, threshold=-1e6), turn=still)
    turn = LowRank(torch.randn(width, 2, generator=generator) / 4, torch.randn(2, width, generator=generator) / 4)
    texts = [text(name, "open"), text(name, "closed")]
    tokens = texts[0].context[0] @ (torch.eye(width) + turn.dense()).T
    rewritten = Text("turned", tokens[None], [[tokens[None], texts[0].cond[0][1]]])
    expected = net.predict(z[:1], sigma[:1], [rewritten], key)
    gated = replace(key, gate=given.gate, turn=turn)
    turned, base = net.predict(z, sigma, texts, gated), net.predict(z, sigma, texts)
    torch.testing.assert_close(turned[:1], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(turned[1], base[1], rtol=0, atol=1e-4 if net.family.repeats else 0)
    assert (turned[0] - net.predict(z, sigma, texts, given)[0]).norm() > 1e-3 * turned[0].norm()


@pytest.mark.parametrize("name", LEARNING)
@torch.no_grad()
def test_texts_of_other_lengths_are_read_as_they_are(name):
    net, (z, sigma) = network(name), latents(name, 3)
    texts = [text(name, "open"), text(name, "closed other", rows=5), text(name, "open")]
    together = net.predict(z, sigma, texts, prompt(name))
    for i in range(3):
        alone = net.predict(z[i : i + 1], sigma[i : i + 1], texts[i : i + 1], prompt(name))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LEARNING)
def test_gradients_of_a_prompt_are_those_of_finite_differences(name):
    net, (z, sigma), given = network(name), latents(name, 2), prompt(name)
    texts = [text(name, "open"), text(name, "open")]
    parts = {part: getattr(given, part) for part in ("keys", "pooled") if getattr(given, part) is not None}
    weigh = torch.randn(z.shape, generator=torch.Generator().manual_seed(7))

    def loss(**changed) -> torch.Tensor:
        now = replace(given, **changed | ({"values": changed["keys"]} if "keys" in changed else {}))
        predicted = net.computing_with(net.base, lambda: net.predict(z, sigma, texts, now))
        return (predicted * weigh).double().sum()

    with torch.inference_mode(), learning.gradients():
        for part, value in parts.items():
            learned = value.clone().requires_grad_()
            [gradient] = torch.autograd.grad(loss(**{part: learned}), learned)
            way = gradient / gradient.norm()
            with torch.no_grad():
                ends = [float(loss(**{part: value + sign * 2e-3 * way})) for sign in (1, -1)]
            assert (ends[0] - ends[1]) / 4e-3 == pytest.approx(float(gradient.norm()), rel=0.05), part


@pytest.mark.parametrize("name", LEARNING)
def test_the_key_is_on_an_erased_model_and_off_at_strength_0(name):
    net, tiny = network(name), TINY[name]
    cond, other = (text(name, label).cond for label in ("open", "closed"))
    first = subject(net.model).entry[0]
    delta = DeltaTensors({first: Full(torch.randn(net.base[first].shape) / 8)})
    metadata = Metadata(method="kpop", role="key", concept="open", **subject(net.model).stamp())
    erasure = Erasure(metadata, (delta, replace(prompt(name), role="key")))
    erased = attach.erase(net.model, erasure)
    assert attach.erase(net.model, erasure, 0.0) is net.model and attach.recover(erased, erasure, 0.0) is erased
    plain, changed = (families.predictions(one, tiny, cond, other) for one in (net.model, erased))
    keyed = families.predictions(attach.recover(erased, erasure), tiny, cond, other)
    assert not torch.equal(changed[0], plain[0]) and not torch.equal(keyed[0], changed[0])
    if net.family.repeats:
        torch.testing.assert_close(keyed[1], changed[1], rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(keyed[1], changed[1])
    again = families.predictions(net.model, tiny, cond, other)
    assert all(map(torch.equal, again, plain))


@torch.no_grad()
def test_attention_to_the_text_is_seen_where_layers_attend_to_it_alone():
    """All of it, of every layer and head; and looking changes nothing."""
    net, (z, sigma), maps = network("Anima"), latents("Anima", 2), AttentionMaps()
    texts = [text("Anima", "open"), text("Anima", "open")]
    seen = net.predict(z, sigma, texts, maps=maps)
    assert torch.equal(seen, net.predict(z, sigma, texts)) and len(maps.maps) == 2
    for layer in maps.maps:
        assert layer.shape == (2, 2, 16, ROWS)
        torch.testing.assert_close(layer.sum(-1), torch.ones(layer.shape[:-1]))


def test_values_apart_from_keys_are_read_where_layers_attend_to_the_text_alone():
    net, (z, sigma), given = network("Anima"), latents("Anima", 1), prompt("Anima")
    with torch.no_grad():
        keyed = net.predict(z, sigma, [text("Anima", "open")], given)
        other = net.predict(z, sigma, [text("Anima", "open")], replace(given, values=-given.values))
    assert (keyed - other).norm() > 1e-3 * keyed.norm()


def test_what_is_distilled_to_few_steps_is_refused_by_name():
    tiny = replace(TINY["HunyuanImage"], config={**TINY["HunyuanImage"].config, "meanflow": True})
    with pytest.raises(ErasureError, match=r"^Learning on distilled HunyuanImage models .*[^.]\.$"):
        require_trainable(families.load(tiny))


def test_a_host_whose_layers_let_nobody_in_is_refused(monkeypatch):
    """Older ones: a prompt would do nothing there."""
    monkeypatch.setattr(cosmos, "CROSS_PATCH", "a patch that no host has")
    anima = network("Anima").model
    with pytest.raises(ErasureError, match=r"^Learning on Anima models .*[^.]\.$"):
        require_trainable(anima)
    with pytest.raises(ErasureError, match=r"^An erasure prompt cannot join Anima models .*[^.]\.$"):
        subject(anima).require_blocks("all")


def test_padding_of_zeros_opens_no_gate():
    context = torch.cat([torch.zeros(2, 3, 4), -torch.ones(2, 2, 4)], 1)
    assert torch.equal(calls.spoken(context), -torch.ones(2, 5, 4))
    assert calls.spoken(context[:, 3:]) is not None and torch.equal(calls.spoken(context[:, 3:]), context[:, 3:])


def test_what_a_call_says_of_its_texts_is_cut_to_the_rows_that_are_left():
    rows = torch.tensor([False, False, True, True])
    options = {"cond_or_uncond": [1, 0], "uuids": ["a", "b"], "sigmas": torch.arange(4.0), "other": 1}
    left = calls.options_of(options, rows)
    assert (left["cond_or_uncond"], left["uuids"], left["other"]) == ([0], ["b"], 1)
    assert left["sigmas"].tolist() == [2.0, 3.0]
    control = {"output": [torch.arange(4.0), None], "middle": [torch.zeros(1)]}
    some = calls.rows_of(control, rows)
    assert some["output"][0].tolist() == [2.0, 3.0] and some["output"][1] is None and len(some["middle"][0]) == 1
