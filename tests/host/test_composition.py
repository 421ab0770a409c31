"""Together with other packs' patches, in either order; windows; stacks; batches; conditionings of unlike length."""

from dataclasses import replace

import comfy.hooks
import comfy.samplers
import node_helpers
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

from concept_erasure.erasure.families.unet import PromptPatch
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.parts.prompt import PromptTensors
from tests.host import tools
from tests.host.tools import assert_close, difference, make_erasure, only_delta, only_prompt, sample, ungated

CONCEPT = "a circle"


@pytest.fixture(params=["gated", "ungated"])
def erasure(request, gated):
    """A prompt, with and without its gate."""
    return only_prompt(gated) if request.param == "gated" else ungated(only_prompt(gated))


def both_orders(model, erasure, other, positive, negative, **more):
    """Pictures with another pack's node before ours and after ours, and without ours."""
    before, after, without = model.clone(), attach.erase(model, erasure), model.clone()
    other(before), other(after), other(without)
    before = attach.erase(before, erasure)
    return tuple(sample(m, positive, negative, **more) for m in (before, after, without))


def scaled_tokens(model):
    """An ordinary patch: what is added before it would be scaled with the rest."""
    model.set_model_attn2_patch(lambda n, c, v, options: (n, c * 1.5, v * 0.5))


def negpip(model):
    """Keys at even tokens, values at odd ones, as packs for negative weights interleave them."""
    model.set_model_attn2_patch(lambda n, c, v, options: (n, c[:, 0::2], v[:, 1::2]))


def couple(model):
    """Runs every row twice, the second time with its tokens turned round, and takes the mean."""

    def double(n, context, value, options):
        return n.repeat(2, 1, 1), torch.cat([context, -context]), torch.cat([value, -value])

    def mean(n, options):
        return n.view(2, -1, *n.shape[1:]).mean(0)

    model.set_model_attn2_patch(double)
    model.set_model_attn2_output_patch(mean)


def replaced(depth):
    """An attn2_replace under a 2-tuple key, or under a 3-tuple key, which wins."""

    def patch(model):
        def doubled_values(q, k, v, options):
            return tools.attention(q, k, 2 * v, options)

        model.set_model_attn2_replace(doubled_values, "middle", 0, 0 if depth == 3 else None)

    return patch


@pytest.mark.parametrize("other", [scaled_tokens, couple, replaced(2), replaced(3)], ids=["patch", "couple", "2", "3"])
def test_order_with_other_patches_does_not_matter(model, cond, erasure, other):
    before, after, without = both_orders(model, erasure, other, cond(CONCEPT), cond(""))
    assert torch.equal(before, after)
    assert difference(after, without) > 0.05
    assert difference(without, sample(model, cond(CONCEPT), cond(""))) > 0.05


def test_order_with_negpip_does_not_matter(model, cond, gated):
    def interleaved(text):
        encoding, extra = cond(text)[0]
        return [[encoding.repeat_interleave(2, 1), extra]]

    before, after, without = both_orders(model, only_prompt(gated), negpip, interleaved(CONCEPT), interleaved(""))
    assert torch.equal(before, after)
    alone = sample(attach.erase(model, only_prompt(gated)), cond(CONCEPT), cond(""))
    assert_close(after, alone, difference(alone, without))


def test_a_replacement_sees_the_prompts_tokens(model, cond, erasure):
    seen = []

    def record(q, k, v, options):
        seen.append((k.shape[1], v.shape[1]))
        return tools.attention(q, k, v, options)

    plain = attach.erase(model, erasure)
    watched = plain.clone()
    watched.set_model_attn2_replace(record, "middle", 0)
    result, expected = sample(watched, cond(CONCEPT), cond("")), sample(plain, cond(CONCEPT), cond(""))
    assert_close(result, expected, difference(expected, sample(model, cond(CONCEPT), cond(""))))
    [prompt] = erasure.of(PromptTensors)
    tokens = 77 if prompt.gate else len(prompt.keys)
    assert set(seen) == {(77 + tokens, 77 + tokens)}


def test_a_lora_below_or_above_makes_no_difference(model, cond, gated):
    name = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight"
    shape = dict(model.model.named_parameters())[name].shape

    def lora(m):
        m.add_patches({name: ("diff", (torch.ones(shape) / 8,))}, 1.0)

    before, after, without = both_orders(model, gated, lora, cond(CONCEPT), cond(""))
    assert_close(before, after, difference(after, without))


# ---------------------------------------------------------------- hooks


def test_hooked_conditionings_are_erased_alike(model, cond, erasure):
    erased = attach.erase(model, erasure)
    seen = []

    def watch(n, context, value, options):
        seen.append(context.shape[1])
        return n, context, value

    group = comfy.hooks.HookGroup()
    group.add(
        comfy.hooks.TransformerOptionsHook({"patches": {"attn2_patch": [watch]}}, comfy.hooks.EnumHookScope.HookedOnly)
    )
    hooked = node_helpers.conditioning_set_values(cond(CONCEPT), {"hooks": group})
    result, plain = sample(erased, hooked, cond("")), sample(erased, cond(CONCEPT), cond(""))
    assert set(seen) == {77}  # the hook's patch ran, and before ours
    assert_close(result, plain, difference(plain, sample(model, cond(CONCEPT), cond(""))))


# ---------------------------------------------------------------- windows


def sigmas(model, *percents):
    sampling = model.get_model_object("model_sampling")
    return torch.tensor([sampling.percent_to_sigma(p) for p in percents])


@pytest.mark.parametrize("part", [only_prompt, only_delta], ids=["prompt", "delta"])
def test_a_window_acts_inside_and_leaves_the_rest_alone(model, cond, gated, part):
    whole, window = attach.erase(model, part(gated)), attach.erase(model, part(gated), 1.0, 0.3, 0.6)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def run(m, *percents):
        return sample(m, cond(CONCEPT), cond(""), noise=noise, sigmas=sigmas(model, *percents))

    for outside in ((0.1, 0.2, 0.25), (0.7, 0.8, 0.9)):
        assert torch.equal(run(window, *outside), run(model, *outside))
        assert difference(run(whole, *outside), run(model, *outside)) > 0.01
    inside = (0.35, 0.5, 0.55)
    assert_close(run(window, *inside), run(whole, *inside), difference(run(whole, *inside), run(model, *inside)))


def test_edges_of_a_window(model):
    assert attach.Window.of(0.0, 1.0) is None
    sampling = model.get_model_object("model_sampling")
    late, early = (attach.Window(*part).levels(sampling) for part in ((0.5, 1.0), (0.0, 0.5)))
    assert float(sampling.sigma_min) in late and float(sampling.sigma_max) not in late
    assert float(sampling.sigma_max) in early and float(sampling.sigma_min) not in early


@pytest.mark.parametrize("part", [only_prompt, only_delta])
def test_a_window_goes_by_the_schedule_that_runs(model, cond, gated, part):
    def slow(m):
        return ModelSamplingContinuousEDM().patch(m, "v_prediction", 40.0, 0.01)[0]

    erasure = part(gated)
    first, last = slow(attach.erase(model, erasure, 1.0, 0.25, 0.5)), attach.erase(slow(model), erasure, 1.0, 0.25, 0.5)
    pictures = [sample(m, cond(CONCEPT), cond(""), steps=12) for m in (first, last, slow(model))]
    assert torch.equal(*pictures[:2]) and difference(*pictures[1:]) > 0.05


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_is_erased_as_well(model, cond, gated):
    """The stock node leaves all guards on transformer options out, so that a compiled model never sees a new patch."""

    def compiled(m):
        out = m.clone()
        set_torch_compile_wrapper(model=out, backend="eager", options={"guard_filter_fn": skip_torch_compile_dict})
        return out

    def drawn(m):
        return sample(m, cond(CONCEPT), cond(""))

    torch._dynamo.reset()
    erasure, base, plain = only_prompt(gated), drawn(model), compiled(model)
    erased = drawn(attach.erase(model, erasure))
    effect = difference(erased, base)
    assert_close(drawn(plain), base, effect)
    assert_close(drawn(attach.erase(plain, erasure)), erased, effect)
    assert_close(drawn(compiled(attach.erase(model, erasure))), erased, effect)
    assert_close(drawn(plain), base, effect)


# ---------------------------------------------------------------- stacks


def test_each_of_two_erasures_acts_on_its_own_concept(model, clip, cond, gated):
    circle, square = only_prompt(gated), only_prompt(make_erasure(model, clip, "square", seed=5))
    stacked = attach.erase(attach.erase(model, circle), square)
    swapped = attach.erase(attach.erase(model, square), circle)
    for text, own in (("a circle", circle), ("a square", square)):
        base, alone = (sample(m, cond(text), cond("")) for m in (model, attach.erase(model, own)))
        for both in (stacked, swapped):
            assert_close(sample(both, cond(text), cond("")), alone, difference(alone, base))
    assert torch.equal(sample(stacked, cond("red"), cond("")), sample(model, cond("red"), cond("")))


def test_a_gate_looks_at_the_prompt_and_not_at_tokens_of_another_erasure(model, clip, cond, gated):
    circle, square = only_prompt(gated), only_prompt(make_erasure(model, clip, "square", seed=5))
    # A prompt that has learned to look like a square must not open the square's gate for a circle.
    gate = square.of(PromptTensors)[0].gate
    direction = gate.direction.view(len(gate.centre), -1)[:, 0]
    token = (gate.centre + 2 * gate.threshold * direction / direction.square().sum())[None]
    impostor = replace(circle, parts=(replace(circle.of(PromptTensors)[0], keys=token, values=token),))
    for first, second in ((impostor, square), (square, impostor)):
        stacked, alone = attach.erase(attach.erase(model, first), second), attach.erase(model, impostor)
        base, result, expected = (sample(m, cond("a circle"), cond("")) for m in (model, stacked, alone))
        assert_close(result, expected, difference(expected, base))


def test_stacked_deltas_add_up_in_either_order(model, clip, cond, gated):
    a, b = only_delta(gated), only_delta(make_erasure(model, clip, seed=5))
    one, two = attach.erase(attach.erase(model, a), b), attach.erase(attach.erase(model, b), a)
    pictures = [sample(m, cond(CONCEPT), cond("")) for m in (one, two, model, attach.erase(model, a))]
    assert_close(pictures[0], pictures[1], difference(pictures[0], pictures[2]))
    assert difference(pictures[0], pictures[3]) > 0.05
    assert [applied.erasure for applied in attach.applied(one)] == [a, b]


# ---------------------------------------------------------------- batches


def test_padding_by_repetition_does_not_change_how_strongly_a_prompt_acts(model, cond, erasure):
    erased = attach.erase(model, erasure)
    encoding, extra = cond("")[0]
    longer = [[encoding.repeat(1, 2, 1), extra]]  # 154 tokens: the host repeats the positive to match
    short, long = (sample(erased, cond(CONCEPT), negative) for negative in (cond(""), longer))
    assert_close(short, long, difference(short, sample(model, cond(CONCEPT), cond(""))))


def test_a_long_prompt_beside_a_short_one(model, cond, gated):
    """154 tokens that differ, so that no padding of the whole batch can be undone."""
    long = "a circle " + "red " * 90
    assert cond(long)[0][0].shape[1] == 154
    erased = attach.erase(model, only_prompt(gated))
    base, result = sample(model, cond(long), cond("")), sample(erased, cond(long), cond(""))
    assert difference(base, result) > 0.05
    kept = "a square " + "red " * 90
    assert torch.equal(sample(erased, cond(kept), cond("")), sample(model, cond(kept), cond("")))


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_every_row_of_a_batch_is_erased_as_it_would_be_alone(model, cond, erasure, batch):
    erased = attach.erase(model, erasure)
    noise = torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(batch))
    together = sample(erased, cond(CONCEPT), cond(""), noise=noise)
    base = sample(model, cond(CONCEPT), cond(""), noise=noise)
    for i in range(batch):
        alone = sample(erased, cond(CONCEPT), cond(""), noise=noise[i : i + 1])
        assert_close(together[i : i + 1], alone, difference(base[i : i + 1], alone))


def test_both_halves_at_once_or_one_by_one_is_the_same(model, cond, erasure, monkeypatch):
    erased = attach.erase(model, erasure)
    rows = []
    record = PromptPatch.__call__

    def call(self, n, context, value, options):
        rows.append(tuple(options["cond_or_uncond"]))
        return record(self, n, context, value, options)

    monkeypatch.setattr(PromptPatch, "__call__", call)
    together = sample(erased, cond(CONCEPT), cond(""))
    assert {len(r) for r in rows} == {2}
    rows.clear()
    monkeypatch.setattr(model.model, "memory_required", lambda *_, **__: 1e30)  # as on a card that is full
    apart = sample(erased, cond(CONCEPT), cond(""))
    assert set(rows) == {(0,), (1,)}
    monkeypatch.undo()
    assert_close(together, apart, difference(together, sample(model, cond(CONCEPT), cond(""))))


def test_guidance_one_runs_the_positive_alone(model, cond, erasure):
    erased = attach.erase(model, erasure)
    base, result = (sample(m, cond(CONCEPT), cond(""), cfg=1.0) for m in (model, erased))
    assert difference(base, result) > 0.05


def test_a_concept_in_the_negative_prompt_is_found_there(model, cond, gated):
    erased = attach.erase(model, only_prompt(gated))
    base, result = (sample(m, cond("a square"), cond(CONCEPT)) for m in (model, erased))
    assert difference(base, result) > 0.05


def test_several_conditionings_each_get_their_own_answer_from_the_gate(model, cond, gated):
    erased = attach.erase(model, only_prompt(gated))

    def left(text):
        return node_helpers.conditioning_set_values(cond(text), {"area": (8, 4, 0, 0), "set_area_to_bounds": False})

    def right(text):
        return node_helpers.conditioning_set_values(cond(text), {"area": (8, 4, 0, 4), "set_area_to_bounds": False})

    # One step, so that the two halves have not yet seen each other.
    steps = {"sigmas": sigmas(model, 0.2, 0.6), "cfg": 1.0}
    base, result = (sample(m, left("a square") + right(CONCEPT), cond(""), **steps) for m in (model, erased))
    assert_close(result[..., :4], base[..., :4], difference(base[..., 4:], result[..., 4:]))
    three = left("a square") + right(CONCEPT) + cond("red")
    assert difference(sample(model, three, cond("")), sample(erased, three, cond(""))) > 0.05


# ---------------------------------------------------------------- where and in what


@pytest.mark.parametrize(
    ("blocks", "parts"),
    [("middle", {"middle"}), ("middle+output", {"middle", "output"}), ("all", {"input", "middle", "output"})],
)
def test_a_prompt_is_seen_by_its_blocks_only(model, clip, cond, blocks, parts):
    erased = attach.erase(model, make_erasure(model, clip, delta=False, blocks=blocks))
    seen = {}
    record = PromptPatch.__call__

    class Watch(PromptPatch):
        def __call__(self, n, context, value, options):
            out = record(self, n, context, value, options)
            seen.setdefault(options["block"][0], set()).add(out[1].shape[1])
            return out

    for attachment in attach.attachments(erased):
        patch = Watch(attachment.part, attachment.strength, lambda options: True)
        model_ = model.clone()
        model_.set_model_attn2_patch(patch)
        sample(model_, cond(CONCEPT), cond(""))
    assert {part for part, lengths in seen.items() if lengths != {77}} == parts
    assert set(seen) == {"input", "middle", "output"}


def test_contexts_of_another_width_are_left_alone(model, gated):
    """A temporal block attends to its own hidden state, not to text."""
    patch = PromptPatch(gated.of(PromptTensors)[0], 1.0, lambda options: True)
    n, c = torch.zeros(1, 2, 8), torch.zeros(1, 5, 7)
    assert patch(n, c, c, {"block": ("middle", 0)})[1] is c
    assert patch(n, c, c, {})[1] is c  # and without a block there is nothing to go by


def test_a_bf16_model_is_erased(bf16_model, model, cond, gated):
    for m in (bf16_model, model):
        for window in ((0.0, 1.0), (0.0, 0.9)):
            base, result = (
                sample(m, cond(CONCEPT), cond("")),
                sample(attach.erase(m, gated, 1.0, *window), cond(CONCEPT), cond("")),
            )
            assert torch.isfinite(result).all() and difference(base, result) > 0.05


def test_a_key_brings_its_prompt_to_an_erased_model(model, clip, cond):
    both = make_erasure(model, clip, role="key")
    erased = attach.erase(model, both)
    recovered = attach.recover(erased, both)
    pictures = [sample(m, cond(CONCEPT), cond("")) for m in (model, erased, recovered)]
    assert difference(pictures[0], pictures[1]) > 0.05 and difference(pictures[1], pictures[2]) > 0.05
    kept = [sample(m, cond("a square"), cond("")) for m in (erased, recovered)]
    assert torch.equal(*kept)
