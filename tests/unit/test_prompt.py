"""The erasure prompt: how it starts, whom its gate lets through, and what it does to a row of attention."""

from dataclasses import replace

import pytest
import torch

from concept_erasure.erasure.artifact import ErasureError, LowRank
from concept_erasure.erasure.parts.gate import GateTensors, choose_threshold, either, fit_gate, gate_score, is_open
from concept_erasure.erasure.parts.prompt import STARTS, ErasurePrompt, PromptTensors, extend
from concept_erasure.erasure.parts.turning import turn_back

D, CHUNK = 16, 7


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed))


def attention(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.softmax(query @ keys.transpose(-1, -2) / D**0.5, -1) @ values


def attend(context: torch.Tensor, rows: list[bool], gated: bool, strength: float = 1.0, k: int = 3) -> torch.Tensor:
    """What attention reads from a context with a prompt of k tokens on it, [b, 2, D]."""
    query = noise(1, 2, D, seed=9).expand(len(context), -1, -1)
    keys, values = noise(k, D, seed=7), noise(k, D, seed=8)
    return attention(query, *extend(context, context, tensors(keys, values, gated), torch.tensor(rows), strength))


def tensors(keys: torch.Tensor, values: torch.Tensor, gated: bool, turn: LowRank | None = None) -> PromptTensors:
    gate = GateTensors(torch.ones(D), torch.zeros(D), 0.0) if gated else None
    return PromptTensors(keys, values, "all", "key", CHUNK, gate, turn=turn)


# ---------------------------------------------------------------- start


@pytest.mark.parametrize("kind", STARTS)
def test_a_prompt_starts_in_float32_and_is_learnable(kind):
    prompt = ErasurePrompt.start(kind, 5, noise(2, D).bfloat16(), noise(CHUNK, D).bfloat16(), rng())
    assert prompt.keys.shape == prompt.values.shape == (5, D)
    assert all(p.dtype == torch.float32 and p.requires_grad for p in prompt.parameters())


def test_parameters_are_float32_whatever_they_come_from():
    prompt = ErasurePrompt(noise(2, D).bfloat16(), noise(2, D).half())
    assert all(p.dtype == torch.float32 for p in prompt.parameters())


def test_a_prompt_starts_near_the_concept():
    concept = noise(2, D)
    prompt = ErasurePrompt.start("concept", 4, concept, noise(CHUNK, D, seed=1), rng())
    assert torch.allclose(prompt.keys, concept.repeat(2, 1), atol=0.1)
    assert not torch.equal(prompt.keys[0], prompt.keys[2])  # the same token twice could never learn two things


def test_the_same_seed_starts_the_same_prompt():
    first, second, other = (
        ErasurePrompt.start("noise", 4, noise(2, D), noise(CHUNK, D), rng(seed)).keys for seed in (1, 1, 2)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_an_unknown_start_is_named():
    with pytest.raises(ErasureError, match="'zeros'"):
        ErasurePrompt.start("zeros", 1, noise(1, D), noise(1, D), rng())


# ---------------------------------------------------------------- extend


def test_an_ungated_prompt_is_the_papers_concatenation():
    context, keys, values = noise(2, CHUNK, D), noise(3, D, seed=7), noise(3, D, seed=8)
    k, v = extend(context, context, tensors(keys, values, False), torch.tensor([True, True]))
    assert torch.equal(k, torch.cat([context, keys.expand(2, -1, -1)], 1))
    assert torch.equal(v, torch.cat([context, values.expand(2, -1, -1)], 1))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("times", [2, 3, 4])
def test_a_context_padded_by_repetition_is_affected_alike(gated, times):
    context = noise(1, CHUNK, D)
    once, padded = attend(context, [True], gated), attend(context.repeat(1, times, 1), [True], gated)
    assert torch.allclose(once, padded, atol=1e-5)
    assert not torch.allclose(once, attend(context, [False], True), atol=1e-2)


@pytest.mark.parametrize("tokens", [1, 3, CHUNK, CHUNK + 4])
def test_a_closed_row_is_unaffected_beside_an_open_one(tokens):
    context = noise(2, CHUNK, D)
    plain = attention(noise(1, 2, D, seed=9).expand(2, -1, -1), context, context)
    mixed = attend(context, [True, False], gated=True, k=tokens)
    assert torch.allclose(mixed[1], plain[1], atol=1e-6)
    assert not torch.allclose(mixed[0], plain[0], atol=1e-2)


def test_strength_goes_from_nothing_to_the_prompt():
    context = noise(1, CHUNK, D)
    plain, full = attend(context, [False], True), attend(context, [True], True)
    none, half, most = (attend(context, [True], True, strength) for strength in (0.0, 0.5, 0.99))
    assert torch.allclose(none, plain, atol=1e-6)
    assert (most - full).norm() < (half - full).norm() < (none - full).norm()


def test_values_may_differ_from_keys_already():
    context, value = noise(1, CHUNK, D), noise(1, CHUNK, D, seed=3)
    k, v = extend(context, value, tensors(noise(2, D), noise(2, D), True), torch.tensor([False]))
    assert torch.equal(k[:, CHUNK:], context) and torch.equal(v[:, CHUNK:], value)


@pytest.mark.parametrize("gated", [False, True])
def test_tokens_are_added_to_a_copy_of_a_turned_text(gated):
    """So that a key of zeros reads the turned text, and nothing else."""
    context, turn = noise(2, CHUNK, D), LowRank(noise(D, 2, seed=4), noise(2, D, seed=5))
    rows, query = torch.tensor([True, False]), noise(1, 2, D, seed=9).expand(2, -1, -1)
    nothing, half, learned = (
        attention(query, *extend(context, context, tensors(tokens, tokens, gated, turn), rows, strength))
        for tokens, strength in ((torch.zeros(3, D), 1.0), (torch.zeros(3, D), 0.5), (noise(3, D, seed=7), 1.0))
    )
    turned, halfway = (context + share * context @ turn.dense().T for share in (1.0, 0.5))
    assert torch.allclose(nothing[0], attention(query, turned, turned)[0], atol=1e-5)
    assert torch.allclose(half[0], attention(query, halfway, halfway)[0], atol=1e-5)
    assert torch.allclose(nothing[1], attention(query, context, context)[1], atol=1e-6)
    assert not torch.allclose(learned[0], nothing[0], atol=1e-2)


def test_without_tokens_the_text_of_open_rows_is_turned_and_closed_ones_stay_to_the_bit():
    context, turn = noise(2, CHUNK, D).half(), LowRank(noise(D, 2, seed=4), noise(2, D, seed=5))
    gated = replace(tensors(torch.zeros(0, D), torch.zeros(0, D), True, turn), role="eraser", pooled_turn=turn)
    for one, weight in ((gated, 0.5), (PromptTensors.combined([(gated, 0.5)])[0], 1.0)):
        keys, values = extend(context, context, one, torch.tensor([True, False]), weight)
        assert torch.equal(keys, values) and torch.equal(keys[1], context[1])
        added = 0.5 * context[0].float() @ turn.down.T @ turn.up.T
        assert torch.allclose(keys[0], (context[0].float() + added).half(), rtol=1e-2, atol=1e-2)
    pooled = torch.cat([context[:, 0], torch.ones(2, 3).half()], 1)
    turned = gated.pooled_turned(pooled, torch.tensor([[1.0], [0.0]]))
    assert torch.equal(turned[1], pooled[1]) and torch.equal(turned[:, D:], pooled[:, D:])
    assert not torch.allclose(turned[0, :D], pooled[0, :D], atol=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_models_dtype_is_kept_and_the_prompts_own_gets_gradients(dtype):
    prompt = ErasurePrompt(noise(2, D), noise(2, D, seed=1))
    context = noise(1, CHUNK, D).to(dtype)
    k, v = extend(context, context, tensors(prompt.keys, prompt.values, True), torch.tensor([True]))
    assert k.dtype == v.dtype == dtype
    (k.float().square().sum() + v.float().sum()).backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.abs().min() > 0 for p in prompt.parameters())


# ---------------------------------------------------------------- gate


def texts(count: int, speaking: bool, seed: int) -> torch.Tensor:
    """Encodings in a narrow cone; those that speak of the concept have it in one token, anywhere."""
    rows = noise(count, CHUNK, D, seed=seed) + 30.0
    if speaking:
        places = torch.randint(CHUNK, (count,), generator=torch.Generator().manual_seed(seed))
        rows[torch.arange(count), places] += 6 * torch.nn.functional.one_hot(torch.tensor(1), D)
    return rows


def test_a_fitted_gate_tells_texts_apart_that_it_has_not_seen():
    gate = fit_gate(texts(40, True, 4), texts(80, False, 5))
    assert is_open(texts(20, True, 6), gate).float().mean() > 0.9
    assert is_open(texts(20, False, 7), gate).float().mean() < 0.1


def test_one_token_opens_a_row_wherever_it_stands():
    gate = GateTensors(torch.eye(D)[0], torch.full((D,), 3.0), 0.5)
    context = torch.full((2, CHUNK, D), 3.0)
    context[0, 4, 0] += 0.6
    context[1, 4, 1] += 0.6
    assert is_open(context, gate).tolist() == [True, False]
    assert gate_score(context, gate)[0] == pytest.approx(0.6)


def test_the_threshold_is_part_of_the_gate():
    context = torch.full((1, CHUNK, D), 1.0)
    assert is_open(context, GateTensors(torch.eye(D)[0], torch.zeros(D), 1.0)).all()
    assert not is_open(context, GateTensors(torch.eye(D)[0], torch.zeros(D), 1.01)).any()


def test_without_a_gate_every_row_is_open():
    assert is_open(noise(3, CHUNK, D), None).all()


def test_the_threshold_lies_in_the_middle_of_the_gap():
    threshold, gap = choose_threshold([0.9, 0.8], [0.1, 0.4])
    assert (threshold, gap) == (pytest.approx(0.6), pytest.approx(0.4))
    assert choose_threshold([0.3], [0.5])[1] < 0


def test_one_text_on_the_wrong_side_does_not_move_the_threshold():
    speaking, silent = [2.0, 3.0, 4.0, -9.0], [-1.0, -2.0, -3.0, 0.0]
    threshold, gap = choose_threshold(speaking, silent)
    assert 0.0 < threshold < 2.0 and gap == -9.0
    threshold, _ = choose_threshold([1.0, 2.0, 3.0], [-3.0, -2.0, 9.0])
    assert -2.0 < threshold < 1.0
    assert choose_threshold([1.0], [1.0]) == (1.0, 0.0)


def test_either_of_two_gates_opens_their_union():
    draw = torch.Generator().manual_seed(0)
    first, second = (
        GateTensors(torch.randn(D, generator=draw), torch.randn(D, generator=draw), threshold)
        for threshold in (1.5, -0.5)
    )
    context = torch.randn(200, 3, D, generator=draw)
    alone = [is_open(context, gate) for gate in (first, second)]
    assert (alone[0] ^ alone[1]).any()
    assert torch.equal(is_open(context, either(first, second)), alone[0] | alone[1])


def test_a_fit_that_starts_from_a_gate_is_no_worse_than_one_from_zero():
    draw = torch.Generator().manual_seed(0)
    speaking, silent = (torch.randn(20, 5, D, generator=draw) + shift for shift in (0.3, 0.0))
    start = GateTensors(torch.randn(D, generator=draw), torch.zeros(D), 0.0)

    def loss(gate):
        pairs = ((gate_score(speaking, gate), 1), (gate_score(silent, gate), -1))
        return sum(torch.nn.functional.softplus(-sign * (score - gate.threshold)).mean() for score, sign in pairs)

    assert loss(fit_gate(speaking, silent, start=start)) <= 1.05 * loss(fit_gate(speaking, silent))


def test_a_key_turns_back_its_own_erasure_and_leaves_another_one():
    g = torch.Generator().manual_seed(0)
    weight, text = torch.randn(20, 6, generator=g), torch.randn(5, 6, generator=g)
    own, other = (LowRank(torch.randn(20, 1, generator=g), torch.randn(1, 6, generator=g)) for _ in range(2))
    now = weight + own.dense() + other.dense()
    turn = turn_back([(now, own)], torch.ones(6)).dense()
    wanted, before = text @ (weight + other.dense()).T, text @ now.T
    found = (text + text @ turn.T) @ now.T
    # what lies outside of what the weights can give is not to be had
    nearest = (text + torch.linalg.lstsq(now, (wanted - before).T).solution.T) @ now.T
    torch.testing.assert_close(found, nearest, rtol=0.01, atol=0.02)
    assert (found - wanted).norm() < (before - wanted).norm()
