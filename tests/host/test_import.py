"""Other erasers' files in."""

import math

import comfy.lora
import comfy.model_base
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from concept_erasure.erasure import exchange
from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.weights import Weights
from concept_erasure.erasure.instant import Instant, erase_instantly
from concept_erasure.erasure.posing import TOKENS
from concept_erasure.nodes.exchange import ErasureExportLora, ErasureImport
from concept_erasure.nodes.files import ErasureLoad, ErasureSave, describe
from tests.host.test_fit import sentence

KEPT = "square\nred\ndotted"


@pytest.fixture(scope="module")
def erasure(model, clip):
    return erase_instantly(model, clip, "circle\nstar", KEPT, Instant(tokens=TOKENS[1]))


def theirs(model, erasure, form: str, dtype=torch.float32) -> dict[str, torch.Tensor]:
    """The erasure as other programs write it."""
    weights = Weights(model)
    known = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    diffusers = {f"diffusion_model.{ours}": name for name, ours in known.items()}
    whole = {n: (weights[n].float() + c.dense()).to(dtype) for n, c in erasure.delta.items()}
    if form == "UCE":
        return {diffusers[n]: w for n, w in whole.items()}
    if form == "prefixed":
        return {f"unet.{diffusers[n]}": w for n, w in whole.items()}
    if form == "checkpoint":
        return {f"model.{n}": w for n, w in whole.items()}
    if form == "difference":
        return {diffusers[n]: c.dense().to(dtype) for n, c in erasure.delta.items()}
    if form == "diff":
        keys = exchange.lora_keys(model)
        return {f"{keys[n]}.diff": c.dense() for n, c in erasure.delta.items()}
    return exchange.lora_tensors(model, erasure, torch.float32)


@pytest.mark.parametrize("form", ["UCE", "prefixed", "checkpoint", "difference", "diff", "LoRA"])
def test_their_files_become_the_erasure(model, erasure, tmp_path, form):
    save_file({k: v.clone() for k, v in theirs(model, erasure, form).items()}, tmp_path / "their.safetensors")
    found = exchange.import_erasure(model, tmp_path / "their.safetensors", "circle\nstar")
    assert found.metadata.concept == "circle\nstar" and found.metadata.method == "imported"
    assert set(found.delta) == set(erasure.delta)
    for name, change in erasure.delta.items():
        torch.testing.assert_close(found.delta[name].dense(), change.dense(), rtol=1e-3, atol=1e-5)
    assert attach.erase(model, found) is not model


def test_rounding_is_not_taken_for_erasing(model, erasure, tmp_path):
    """The ESD scripts save bfloat16: a weight that they did not touch must not change."""
    file = theirs(model, erasure, "UCE", torch.bfloat16)
    untouched = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight"
    ours = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q.weight"
    file[untouched] = Weights(model)[ours].to(torch.bfloat16)
    save_file(file, tmp_path / "esd.safetensors")
    assert ours not in exchange.import_erasure(model, tmp_path / "esd.safetensors", "").delta


def test_content_can_be_said(model, erasure, tmp_path):
    save_file(theirs(model, erasure, "difference"), tmp_path / "x.safetensors")
    as_whole = exchange.import_erasure(model, tmp_path / "x.safetensors", "", "full weights")
    name = next(iter(erasure.delta))
    assert (as_whole.delta[name].dense() - erasure.delta[name].dense()).norm() > 1


MIDDLE = "mid_block{0}attentions{0}0{0}transformer_blocks{0}0{0}attn2{0}to_k"
HADAMARD = ("w1_a", "w1_b", "w2_a", "w2_b")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"something.else": torch.zeros(2)}, "nothing that changes"),
        ({MIDDLE.format(".") + ".weight": torch.zeros(3, 3)}, "made for a model whose"),
        (
            {
                f"lora_unet_{MIDDLE.format('_')}.lora_up.weight": torch.ones(96, 2),
                f"lora_unet_{MIDDLE.format('_')}.lora_down.weight": torch.ones(2, 7),
            },
            "made for a model whose",
        ),
        (
            {f"lora_unet_{MIDDLE.format('_')}.hada_{part}": torch.zeros(3, 3) for part in HADAMARD},
            "in a form that is not read here",
        ),
    ],
)
def test_files_that_cannot_be_read_are_refused(model, tmp_path, tensors, words):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ErasureError) as caught:
        exchange.import_erasure(model, tmp_path / "x.safetensors", "")
    assert words in sentence(caught)


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions_of_a_lora_are_read(model, tmp_path, kernel):
    """As trainers write them that change a whole network, SPM and LECO among them."""
    name = {1: "1.proj_in.weight", 3: "0.in_layers.2.weight"}[kernel]
    name = f"diffusion_model.middle_block.{name}"
    shape = dict(model.model.named_parameters())[name].shape
    [theirs] = [k for k, ours in comfy.lora.model_lora_keys_unet(model.model, {}).items()
                if ours == name and k.startswith("lora_unet_") and "middle" not in k]  # fmt: skip
    up, down = torch.randn(shape[0], 2, 1, 1), torch.randn(2, shape[1], kernel, kernel)
    file = {f"{theirs}.lora_up.weight": up, f"{theirs}.lora_down.weight": down, f"{theirs}.alpha": torch.tensor(1.0)}
    save_file(file, tmp_path / "x.safetensors")
    found = exchange.import_erasure(model, tmp_path / "x.safetensors", "").delta
    stock = model.clone()
    stock.add_patches(comfy.lora.load_lora(dict(file), comfy.lora.model_lora_keys_unet(model.model, {})))
    wanted = comfy.lora.calculate_weight(stock.patches[name], torch.zeros(shape), name)
    torch.testing.assert_close(found[name].dense().reshape(shape), wanted, rtol=1e-4, atol=1e-4)


def written(tmp_path, tensors, name="x.safetensors"):
    save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, tmp_path / name)
    return tmp_path / name


def refusal(model, path) -> str:
    with pytest.raises(ErasureError) as caught:
        exchange.import_erasure(model, path, "")
    return sentence(caught)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("form", ["UCE", "difference", "diff", "LoRA"])
def test_numbers_that_are_not_finite_are_refused(model, erasure, tmp_path, form, value):
    file = theirs(model, erasure, form)
    key = next(key for key, tensor in file.items() if tensor.ndim == 2)
    file[key] = file[key].clone()
    file[key][0, 0] = value
    text = refusal(model, written(tmp_path, file))
    assert "'x.safetensors' contains numbers that are not finite" in text and key in text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_they_are_refused_in_every_precision_and_anywhere_in_the_file(model, erasure, tmp_path, dtype):
    broken = torch.full((2,), math.inf, dtype=dtype)
    file = theirs(model, erasure, "LoRA") | {"lora_te_text_model_x.lora_up.weight": broken}
    assert "not finite" in refusal(model, written(tmp_path, file))


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38, 1e12])
def test_an_alpha_beyond_all_numbers_is_refused(model, erasure, tmp_path, value):
    file = theirs(model, erasure, "LoRA")
    file[next(key for key in file if key.endswith(".alpha"))] = torch.tensor(value)
    text = refusal(model, written(tmp_path, file))
    assert "'x.safetensors'" in text and ("not finite" in text or "more than a model can hold" in text)


@pytest.mark.parametrize("size", [300.0, 1e30])
def test_factors_whose_product_half_precision_cannot_hold_are_refused(model, erasure, tmp_path, size):
    file = theirs(model, erasure, "LoRA")
    up, down = (next(key for key in file if key.endswith(f"lora_{end}.weight")) for end in ("up", "down"))
    file[up], file[down] = torch.full_like(file[up], size), torch.full_like(file[down], size)
    assert "more than a model can hold" in refusal(model, written(tmp_path, file))


def test_large_factors_of_a_small_product_are_read(model, erasure, tmp_path):
    name, key = next((n, k) for n, k in exchange.lora_keys(model).items() if n in erasure.delta)
    up, down = torch.zeros(erasure.delta[name].up.shape[0], 2), torch.zeros(2, erasure.delta[name].down.shape[1])
    up[0, 0], down[1, 0], up[0, 1] = 1e6, 1e6, 1e-6  # the large ones never meet
    path = written(tmp_path, {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down})
    assert set(exchange.import_erasure(model, path, "").delta) == {name}


def layers_of(model, erasure, prefix="", form="LoRA") -> dict[str, torch.Tensor]:
    return {key.replace("lora_unet_", f"lora_unet_{prefix}"): t for key, t in theirs(model, erasure, form).items()}


TEXT_PARTS = {
    f"lora_te{n}_text_model_encoder_layers_0_self_attn_q_proj.{end}": torch.ones(2, 2)
    for n in ("", "1", "2")
    for end in ("lora_up.weight", "lora_down.weight")
}


def test_a_file_that_fits_altogether_says_so(model, erasure, tmp_path):
    found = exchange.import_erasure(model, written(tmp_path, theirs(model, erasure, "LoRA")), "")
    assert f"Taken: all {len(erasure.delta)} changes in x.safetensors" in describe(found).splitlines()
    assert "Left out" not in describe(found)


@pytest.mark.parametrize("form", ["LoRA", "UCE"])
def test_what_is_left_out_of_a_file_is_said_with_the_reason(model, erasure, output, form):
    """By the node, and again by Load Erasure."""
    file = theirs(model, erasure, form) | TEXT_PARTS
    bad = MIDDLE.format("_" if form == "LoRA" else ".").replace("to_k", "to_q")
    if form == "LoRA":
        for name in (f"lora_unet_{bad}", f"lora_unet_{bad}x"):
            file |= {f"{name}.lora_up.weight": torch.ones(3, 2), f"{name}.lora_down.weight": torch.ones(2, 3)}
    else:
        file |= {f"{bad}.weight": torch.ones(3, 3), f"{bad}x.weight": torch.ones(3, 3)}
        file |= {"first_stage_model.encoder.conv_in.weight": torch.ones(2), "betas": torch.ones(2)}
    (output / "erasures").mkdir(parents=True)
    written(output / "erasures", file, "their.safetensors")
    result = ErasureImport.execute(model, "their.safetensors", "", "find out")
    n, more = len(erasure.delta), 0 if form == "LoRA" else 2
    text = result.ui.as_dict()["text"][0]
    assert f"Taken: {n} of {n + 5 + more} changes in their.safetensors" in text.splitlines()
    [line] = [line for line in text.splitlines() if line.startswith("⚠ Left out: ")]
    assert f"3 {exchange.TEXT_ENCODER} (lora_te1_text_model_encoder_layers_0_self_attn_q_proj, …)" in line
    assert f"1 {exchange.OTHER_SHAPE}" in line and f"1 {exchange.NO_WEIGHT}" in line and f"{bad}x" in line
    assert (f"2 {exchange.OTHER_PART}" in line) == (form == "UCE")
    assert set(result.args[0].delta) == set(erasure.delta)
    ErasureSave.execute(result.args[0], "erasures/mine", "in the same file")
    assert line in ErasureLoad.execute("mine_00001.safetensors").ui.as_dict()["text"][0].splitlines()


def test_a_file_most_of_which_does_not_fit_is_refused(model, erasure, tmp_path):
    names = sorted({key.split(".")[0] for key in theirs(model, erasure, "LoRA")})
    good, bad = theirs(model, erasure, "LoRA"), layers_of(model, erasure, "xx_")
    first = {key: tensor for key, tensor in good.items() if key.startswith(names[0] + ".")}
    text = refusal(model, written(tmp_path, first | bad))
    assert f"Only 1 of the {len(names) + 1} changes in 'x.safetensors' fit the connected model" in text
    half = exchange.import_erasure(model, written(tmp_path, good | bad), "")
    assert f"Taken: {len(names)} of {2 * len(names)} changes" in describe(half)


def test_text_encoders_do_not_count_as_what_does_not_fit(model, erasure, tmp_path):
    name = next(iter({key.split(".")[0] for key in theirs(model, erasure, "LoRA")}))
    one = {key: tensor for key, tensor in theirs(model, erasure, "LoRA").items() if key.startswith(name + ".")}
    assert len(exchange.import_erasure(model, written(tmp_path, one | TEXT_PARTS), "").delta) == 1


def test_a_lora_of_the_text_encoder_alone_is_refused(model, tmp_path):
    assert "changes the text encoder alone" in refusal(model, written(tmp_path, TEXT_PARTS))


@pytest.mark.parametrize("prefix", ["", "unet.", "base_model.model.", "unet.base_model.model."])
@pytest.mark.parametrize("ends", [("lora_B.weight", "lora_A.weight"), ("lora.up.weight", "lora.down.weight"),
                                  ("lora_B.default.weight", "lora_A.default.weight")])  # fmt: skip
def test_lora_files_of_diffusers_and_peft_are_read(model, erasure, tmp_path, prefix, ends):
    known = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    names = {f"diffusion_model.{ours}": name.removesuffix(".weight") for name, ours in known.items()}
    file = {}
    for name, change in erasure.delta.items():
        file |= {f"{prefix}{names[name]}.{ends[0]}": change.up, f"{prefix}{names[name]}.{ends[1]}": change.down}
    found = exchange.import_erasure(model, written(tmp_path, file), "")
    assert "Taken: all" in describe(found) and set(found.delta) == set(erasure.delta)
    for name, change in erasure.delta.items():
        torch.testing.assert_close(found.delta[name].dense(), change.dense())


@pytest.mark.parametrize("extra", ["dora_scale", "lora_magnitude_vector", "lora_magnitude_vector.weight", "set_weight"])
def test_a_form_that_would_be_read_by_half_is_left_out(model, erasure, tmp_path, extra):
    """A DoRA without its magnitudes is another change."""
    file = theirs(model, erasure, "LoRA")
    name = next(key.split(".")[0] for key in file)
    path = written(tmp_path, file | {f"{name}.{extra}": torch.ones(96)})
    found = exchange.import_erasure(model, path, "")
    assert len(found.delta) == len(erasure.delta) - 1
    assert f"1 {exchange.OTHER_FORM} ({name})" in describe(found)
    alone = {key: tensor for key, tensor in file.items() if key.startswith(name + ".")}
    path = written(tmp_path, alone | {f"{name}.{extra}": torch.ones(96)})
    assert "in a form that is not read here" in refusal(model, path)


def test_a_file_of_several_kinds_is_read_whole(model, erasure, tmp_path):
    """Weights and LoRA layers in one file; of two changes of one weight the first is taken, and that is said."""
    names = list(erasure.delta)
    whole, lora, keys = theirs(model, erasure, "UCE"), theirs(model, erasure, "LoRA"), exchange.lora_keys(model)
    both = dict(list(whole.items())[:8]) | {k: t for k, t in lora.items() if k.split(".")[0] != keys[names[0]]}
    found = exchange.import_erasure(model, written(tmp_path, both), "")
    assert set(found.delta) == set(erasure.delta)
    assert f"7 {exchange.TWICE}" in describe(found)


def test_a_weight_under_two_names_is_taken_once(model, erasure, tmp_path):
    file = theirs(model, erasure, "UCE")
    name = next(iter(file))
    found = exchange.import_erasure(model, written(tmp_path, file | {f"unet.{name}": file[name] * 2}), "")
    assert f"Taken: {len(file)} of {len(file) + 1} changes" in describe(found)


@pytest.mark.parametrize("end", ["lora_down.weight", "lora_up.weight"])
def test_half_a_lora_layer_is_one_sentence(model, erasure, tmp_path, end):
    file = theirs(model, erasure, "LoRA")
    del file[next(key for key in file if key.endswith(end))]
    if end == "lora_down.weight":
        assert "lacks a part of its change of lora_unet_" in refusal(model, written(tmp_path, file))
    else:
        assert f"1 {exchange.OTHER_FORM}" in describe(exchange.import_erasure(model, written(tmp_path, file), ""))


@pytest.mark.parametrize("form", ["LoRA", "diff", "whole"])
def test_a_file_of_nothing_but_zeros_is_refused(model, erasure, tmp_path, form):
    file = theirs(model, erasure, "LoRA" if form == "LoRA" else "diff")
    file = {key: torch.zeros_like(tensor) if tensor.ndim else tensor for key, tensor in file.items()}
    if form == "whole":
        file = {f"model.{name}": Weights(model)[name] for name in erasure.delta}
    assert "nothing that changes the connected model" in refusal(model, written(tmp_path, file))


def test_quantised_weights_are_not_taken_for_numbers(model, erasure, tmp_path):
    file = theirs(model, erasure, "UCE")
    name = next(iter(file)).removesuffix(".weight")
    text = refusal(model, written(tmp_path, file | {f"{name}.weight_scale": torch.tensor(0.1)}))
    assert "quantised" in text


def test_pickles_are_refused(model, tmp_path):
    (tmp_path / "x.pt").write_bytes(b"pickle")
    with pytest.raises(ErasureError) as caught:
        exchange.import_erasure(model, tmp_path / "x.pt", "")
    assert "pickled" in sentence(caught)


def test_the_node_lists_and_reads_what_was_exported(model, erasure, output):
    ErasureExportLora.execute(model, erasure, "loras/mine", "fp32")
    ErasureExportLora.execute(model, erasure, "erasures/mine", "fp32")
    assert "mine_00001.safetensors" in ErasureImport.files()
    found = ErasureImport.execute(model, "mine_00001.safetensors", "", "find out").args[0]
    assert found.metadata.concept == "circle\nstar"


def test_of_two_files_of_one_name_the_one_that_is_no_erasure_yet_is_imported(model, erasure, output):
    folder_paths.add_model_folder_path("loras", str(output / "loras"))  # as the host does when it starts
    ErasureSave.execute(erasure, "erasures/erasure", "in the same file")
    ErasureExportLora.execute(model, erasure, "loras/erasure", "fp32")
    found = ErasureImport.execute(model, "erasure_00001.safetensors", "", "find out").args[0]
    assert found.metadata.method == "imported"
    (output / "loras" / "erasure_00001.safetensors").unlink()
    with pytest.raises(ErasureError, match="load it with Load Erasure"):
        ErasureImport.execute(model, "erasure_00001.safetensors", "", "find out")
