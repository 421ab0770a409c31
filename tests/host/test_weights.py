"""Weights as loaders keep them: read alike, changed in windows, left as they were, and refused in one sentence."""

import comfy.model_management
import pytest
import torch
from safetensors.torch import save_file

from concept_erasure.erasure import exchange, learning
from concept_erasure.erasure.artifact import ErasureError, Full
from concept_erasure.erasure.evaluation.attacks import Budget, Concept
from concept_erasure.erasure.evaluation.report import Drawing
from concept_erasure.erasure.evaluation.stress import stress
from concept_erasure.erasure.host import attach, weights
from concept_erasure.erasure.host.fingerprint import of_one_checkpoint
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.host.weights import Weights, effective_weights
from concept_erasure.erasure.instant import Instant, erase_instantly
from concept_erasure.erasure.parts.prompt import PromptTensors
from concept_erasure.erasure.posing import TOKENS
from concept_erasure.erasure.training import loop
from concept_erasure.nodes.instant import ErasureInstant, ErasureText
from tests import worlds
from tests.host import loaders
from tests.host.test_fit import sentence
from tests.host.tools import assert_close, difference, execute, make_erasure, only_delta, sample

pytestmark = pytest.mark.usefixtures("encoded_once")
KEPT = "square\nred\ndotted"
BARE = Instant(tokens=TOKENS[1])
KINDS = ("fp8", "scaled fp8", "packed")
OPEN = ("ordinary", "fp8", "scaled fp8")


@pytest.fixture(scope="module")
def models(checkpoint, model):
    """The same checkpoint by loader."""
    state = loaders.unet_of(checkpoint)
    return {
        "ordinary": model,
        "fp8": loaders.load(state, dtype=torch.float8_e4m3fn),
        "scaled fp8": loaders.load(loaders.scaled(state)),
        "packed": loaders.packed(state),
        "sealed": loaders.packed(state, loaders.SealedOps),
    }


@pytest.fixture(scope="module")
def names(model):
    return subject(model).weights("keys+values")


@pytest.fixture
def delta(gated):
    return only_delta(gated)


@pytest.fixture
def running(monkeypatch):
    """Sealed layers compute."""
    monkeypatch.setattr(loaders.SealedOps, "running", True)


# ---------------------------------------------------------------- read


@pytest.mark.parametrize("name", KINDS)
def test_a_weight_is_read_alike_however_its_layer_keeps_it(models, names, name):
    expected = effective_weights(models["ordinary"], names)
    with torch.inference_mode():
        actual = effective_weights(models[name], names)
    for weight in names:
        assert type(actual[weight]) is torch.Tensor and actual[weight].dtype == torch.float32
        off = float((actual[weight] - expected[weight]).norm() / expected[weight].norm())
        assert off < (1e-3 if name == "packed" else 0.04)


def test_an_ordinary_weight_is_the_very_tensor_of_the_network(model):
    parameters = dict(model.model.named_parameters())
    read = Weights(model)
    assert all(read[name] is parameters[name] for name in parameters if name not in model.backup)


@pytest.mark.parametrize("name", KINDS)
def test_own_patches_count_and_those_of_whoever_ran_last_do_not(models, names, delta, cond, name):
    plain = models[name]
    erased = attach.erase(plain, delta)
    before = effective_weights(plain, names)
    sample(erased, cond("a circle"), cond(""))
    again, own = effective_weights(plain, names), effective_weights(erased, names)
    for weight in names:
        assert torch.equal(again[weight], before[weight])
        assert torch.allclose(own[weight], before[weight] + delta.delta[weight].dense(), atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_eight_bits_and_packing_are_no_other_checkpoint(models, other_checkpoint_model, name):
    here, made = subject(models[name]).fingerprint, subject(models["ordinary"]).fingerprint
    assert here.shapes == made.shapes
    assert of_one_checkpoint(here, made) and of_one_checkpoint(made, here)
    assert not of_one_checkpoint(here, subject(other_checkpoint_model).fingerprint)


def test_a_sealed_model_says_nothing_of_its_checkpoint(models):
    assert subject(models["sealed"]).fingerprint.values == ""
    assert of_one_checkpoint(subject(models["sealed"]).fingerprint, subject(models["ordinary"]).fingerprint)


def test_a_layer_is_asked_without_what_loaders_and_packs_left_on_it():
    layer = weights.bare(torch.nn.Linear(8, 4))
    odd = torch.nn.Linear(8, 4)
    odd.load_state_dict(layer.state_dict())
    odd.weight_function, odd._v = [lambda w: 2 * w], object()
    odd.register_forward_hook(lambda *_: torch.zeros(1, 4))
    matrix = weights.ask(odd, "x.weight", "?", torch.Size((4, 8)))
    assert torch.allclose(matrix, layer.weight, atol=1e-6)
    assert odd.weight_function and hasattr(odd, "_v") and odd._forward_hooks


class Squares(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x).square()


def test_a_layer_that_is_no_matrix_is_not_read_as_one():
    with pytest.raises(ErasureError) as caught:
        weights.ask(Squares(8, 4), "x.weight", "squares", torch.Size((4, 8)))
    assert "squares" in sentence(caught)


def test_a_cancelled_run_is_no_layer_that_refuses(model, names):
    layer, part = weights.layer_of(model, names[0])
    for ask in (weights.asks_functions, lambda layer, part: weights.ask(layer, names[0], "", layer.weight.shape)):
        comfy.model_management.interrupt_current_processing()
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            ask(layer, part)


# ---------------------------------------------------------------- every node works, or ends in a sentence


@pytest.mark.parametrize("name", KINDS)
def test_a_closed_form_erasure_is_the_same_on_every_loader(models, clip, cond, name):
    with torch.inference_mode():
        base, ours = (erase_instantly(models[n], clip, "circle", KEPT, BARE) for n in ("ordinary", name))
        for weight, change in base.delta.items():
            off = float((ours.delta[weight].dense() - change.dense()).norm() / change.dense().norm())
            assert off < (1e-3 if name == "packed" else 0.05)
        drawn, erased = (sample(m, cond("circle"), cond("")) for m in (models[name], attach.erase(models[name], ours)))
    assert difference(drawn, erased) > 0.01


def whole_weights(models, path):
    state = {n.removeprefix("diffusion_model."): w + 0.1 for n, w in Weights(models["ordinary"]).items()}
    save_file({n: w.detach().contiguous() for n, w in state.items() if ".attn2.to_v" in n}, path)
    return path


@pytest.mark.parametrize("name", KINDS)
def test_whole_weights_are_compared_with_what_the_loader_keeps(models, tmp_path, name):
    with torch.inference_mode():
        made = exchange.import_erasure(models[name], whole_weights(models, tmp_path / "x.safetensors"), "")
    for change in made.delta.values():
        assert abs(float(change.dense().mean()) - 0.1) < 0.01


NODES = {
    "text": lambda model, clip, path: ErasureText.execute(model, clip, "circle", 1.0, "nearest neighbour", "", KEPT),
    "instant": lambda model, clip, path: ErasureInstant.execute(
        model, clip, "circle", "nearest neighbour", "", KEPT, "uce", TOKENS[1], "keys+values", 1.0, 3.0, 1e-4, 8, 0
    ),
    "import": lambda model, clip, path: exchange.import_erasure(model, path, ""),
    "train": lambda model, clip, path: execute(model, clip),
    "train a prompt": lambda model, clip, path: execute(model, clip, method="prompt only"),
    "prune": lambda model, clip, path: execute(model, clip, method="pruning"),
    "relearning": lambda model, clip, path: stress(
        model, model, clip, None, Concept(["circle"]), Drawing((0,)), ["relearning"], Budget(relearn_steps=1)
    ),
}
LEARNS = ("train", "train a prompt", "prune", "relearning")


@pytest.mark.parametrize(("name", "node"), [*(("sealed", n) for n in NODES), *(("packed", n) for n in LEARNS)])
def test_what_cannot_be_read_or_learned_on_is_refused_in_a_sentence(models, clip, tmp_path, output, name, node):
    path = whole_weights(models, tmp_path / "x.safetensors")
    with pytest.raises(ErasureError) as caught, torch.inference_mode():
        NODES[node](models[name], clip, path)
    assert "Packed" in sentence(caught) and "unpacked checkpoint" in sentence(caught)


@pytest.mark.parametrize("name", ["packed", "sealed"])
def test_a_made_erasure_works_on_packed_weights(models, delta, cond, running, name, tmp_path, monkeypatch):
    monkeypatch.setattr(loaders.SealedOps, "running", False)
    erased = attach.erase(models[name], delta)
    exchange.export_lora(models[name], delta, tmp_path / "x.safetensors", torch.float16)
    monkeypatch.setattr(loaders.SealedOps, "running", True)
    base, ours = (sample(m, cond("a circle"), cond("")) for m in (models[name], erased))
    theirs = sample(attach.erase(models["ordinary"], delta), cond("a circle"), cond(""))
    assert_close(ours, theirs, difference(base, ours), 0.01)


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize("name", ["ordinary", *KINDS])
def test_a_window_acts_whether_layers_ask_weight_functions_or_not(models, delta, cond, name):
    part = attach.erase(models[name], delta, 1.0, 0.3, 0.6)
    whole = attach.erase(models[name], delta, 1.0, 0.0, 0.999)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    levels = attach.Window(0.3, 0.6).levels(models[name].get_model_object("model_sampling"))

    def run(model, high, low):
        options = {"sigmas": torch.tensor([high, low]), "noise": noise * high, "cfg": 1.0}
        return sample(model, cond("a circle"), cond(""), **options)

    outside, inside = (levels.high * 3, levels.high * 1.5), (levels.high * 0.99, levels.low * 1.01)
    base = run(models[name], *inside)
    assert torch.equal(run(part, *outside), run(models[name], *outside))
    assert_close(run(part, *inside), run(whole, *inside), difference(base, run(whole, *inside)))
    if "fp8" not in name:
        exact = run(attach.erase(models["ordinary"], delta), *inside)
        assert_close(run(part, *inside), exact, difference(base, exact), 0.01)
    assert not any(layer._forward_hooks for layer in models[name].model.modules())


def test_a_window_acts_where_the_loader_put_no_function(models, delta, cond, names):
    """As the host's dynamic loader does with small layers."""
    part = attach.erase(models["ordinary"], delta, 1.0, 0.0, 0.99)
    expected = sample(part, cond("a circle"), cond(""))
    for name in names:
        weights.layer_of(part, name)[0].weight_function = []
    assert_close(sample(part, cond("a circle"), cond("")), expected, float(expected.norm()), 1e-4)


def test_a_window_that_fails_leaves_no_hook(models, delta, cond, monkeypatch):
    part = attach.erase(models["packed"], delta, 1.0, 0.0, 0.99)
    broken = torch.nn.Parameter(torch.zeros(3, 3, dtype=torch.float16), requires_grad=False)
    layer = weights.layer_of(part, "diffusion_model.out.2.weight")[0]
    weight = layer.weight
    layer.weight = broken
    try:
        with pytest.raises(RuntimeError):
            sample(part, cond("a circle"), cond(""))
    finally:
        layer.weight = weight
    assert not any(layer._forward_hooks for layer in part.model.modules())


@pytest.mark.parametrize("kind", ["Linear", "Conv2d", "GroupNorm", "LayerNorm"])
def test_layers_of_the_host_ask_their_functions(kind):
    arguments = {"Linear": (8, 4), "Conv2d": (8, 4, 3), "GroupNorm": (4, 8), "LayerNorm": (8,)}[kind]
    for operations in (comfy.ops.disable_weight_init, comfy.ops.manual_cast):
        layer = getattr(operations, kind)(*arguments)
        with torch.no_grad():
            layer.weight.normal_(), layer.bias.zero_()
        assert weights.asks_functions(layer, "weight") and weights.asks_functions(layer, "bias")
        assert not layer.weight_function
    assert not weights.asks_functions(loaders.PackedOps.Linear(8, 4), "weight")
    assert not weights.asks_functions(torch.nn.Linear(8, 4), "weight")


@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("layer", [torch.nn.Linear(8, 4), torch.nn.Conv2d(8, 4, 3, stride=2, padding=1)])
def test_a_change_beside_a_layer_is_a_change_in_it(layer, part):
    x = torch.randn(2, *([8, 6, 6] if isinstance(layer, torch.nn.Conv2d) else [5, 8]))
    change = torch.randn(getattr(layer, part).shape)
    beside = attach.SwitchedChange(Full(change), 0.5)
    answer = beside.answer_of(part)(layer, (x,), layer(x))
    with torch.no_grad():
        getattr(layer, part).add_(change / 2)
        assert torch.allclose(answer, layer(x), atol=1e-5)
        getattr(layer, part).sub_(change / 2)


# ---------------------------------------------------------------- training leaves everything as it was


ENDINGS = ("done", "interrupted", "failed")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", OPEN)
def test_training_leaves_every_tensor_function_and_patch_as_it_was(
    models, clip, cond, delta, output, monkeypatch, name, ending
):
    model = models[name]
    drawn = sample(model, cond("circle"), cond(""))
    before = loaders.snapshot(model)
    real = loop.take_step

    def fail(*arguments):
        real(*arguments)
        if ending == "interrupted":
            comfy.model_management.interrupt_current_processing()
        if ending == "failed":
            raise MemoryError

    monkeypatch.setattr(loop, "take_step", fail)
    try:
        execute(model, clip, steps=2)
        assert ending == "done"
    except (comfy.model_management.InterruptProcessingException, MemoryError):
        assert ending != "done"
    after = loaders.snapshot(model)
    assert [key for key in before if before[key] != after.get(key)] == [] and before.keys() == after.keys()
    with torch.inference_mode():
        assert difference(sample(attach.erase(model, delta), cond("circle"), cond("")), drawn) > 0.01
        assert torch.equal(sample(model, cond("circle"), cond("")), drawn)


@pytest.mark.parametrize("name", ["fp8", "scaled fp8"])
def test_learning_moves_weights_by_less_than_they_could_be_stored_by(models, clip, name):
    with torch.inference_mode(), learning.gradients():
        from tests.host.tools import short

        run = learning.prepare(models[name], clip, "circle", "square\nred", short(rank=0)).run
        [first, *_] = run.delta.names
        whole = run.network.changed(None)[first]
        small = 1e-3 * torch.ones(whole.shape)
        moved = run.network._changed(first, small.requires_grad_())
        moved.sum().backward()
    assert moved.dtype == torch.float32 and torch.allclose(small.grad, torch.ones_like(small))


def test_a_model_of_either_mode_is_read_after_it_was_moved_in_the_other(models, names):
    """Another pack's training may have left it so."""
    model = loaders.load(loaders.scaled({k.removeprefix("diffusion_model."): v.detach().clone().half() for k, v in
                                         Weights(models["ordinary"]).items()}))  # fmt: skip
    model.model.to("cpu")  # outside of inference mode
    with torch.inference_mode():
        assert subject(model).fingerprint == subject(models["scaled fp8"]).fingerprint
        assert effective_weights(model, names)


# ---------------------------------------------------------------- blocks that are not there


@pytest.fixture(scope="module")
def no_middle(checkpoint):
    """A UNet without cross-attention in its middle block, as SSD-1B, Vega and KOALA are."""
    state = loaders.unet_of(checkpoint)
    state = {k: v for k, v in state.items() if not k.startswith(("middle_block.1.", "middle_block.2."))}
    config = type("NoMiddle", (worlds.family.ToyWorld,), {
        "unet_config": {**worlds.family.ToyWorld.unet_config, "transformer_depth_middle": -1}})  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worlds.comfy.supported_models, "models", [config, *worlds.comfy.supported_models.models])
        return loaders.load(state)


@pytest.mark.parametrize("settings", [{"preset": "paper v3"}, {"preset": "paper v2", "method": "prompt only"},
                                      {"method": "kpop", "blocks": "middle"}])  # fmt: skip
def test_a_prompt_for_blocks_that_the_model_lacks_is_not_trained(no_middle, clip, settings):
    with pytest.raises(ErasureError) as caught:
        execute(no_middle, clip, **settings)
    assert "'middle'" in sentence(caught) and "'middle+output' or 'all'" in sentence(caught)


def test_a_method_without_a_prompt_does_not_mind(no_middle, clip):
    made, _ = execute(no_middle, clip, method="esd", preset="paper v3", steps=1)
    assert made.delta and not made.of(PromptTensors)


@pytest.mark.parametrize(("use", "role"), [(attach.erase, "eraser"), (attach.recover, "key")])
def test_a_prompt_for_blocks_that_the_model_lacks_is_not_attached(no_middle, use, role):
    nowhere = make_erasure(no_middle, gate=False, delta=False, role=role, blocks="middle")
    with pytest.raises(ErasureError) as caught:
        use(no_middle, nowhere)
    assert "'middle'" in sentence(caught)
    elsewhere = make_erasure(no_middle, gate=False, delta=False, role=role, blocks="middle+output")
    assert use(no_middle, elsewhere) is not no_middle


def test_all_parts_of_an_ordinary_unet_attend(model, no_middle):
    assert subject(model).family.blocks(model.model) == ["middle", "middle+output", "all"]
    assert subject(no_middle).family.blocks(no_middle.model) == ["middle+output", "all"]
