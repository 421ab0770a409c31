"""LoRA files out, other erasers' files in."""

import hashlib
import math
import re
from dataclasses import replace
from datetime import datetime

import comfy.lora
import comfy.model_base
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import folder_paths
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from concept_erasure.erasure import attach, exchange, modelspec
from concept_erasure.erasure.artifact import Erasure, ErasureError, Full, LowRank, Metadata
from concept_erasure.erasure.fingerprint import checkpoint_weights
from concept_erasure.erasure.instant import TOKENS, Instant, erase_instantly
from concept_erasure.nodes.exchange import ErasureExportLora, ErasureImport
from concept_erasure.nodes.files import ErasureLoad, ErasureSave, describe
from tests.host.test_fit import sentence
from tests.host.tools import assert_close, difference, make_erasure, only_prompt, sample

KEPT = "square\nred\ndotted"


@pytest.fixture(scope="module")
def erasure(model, clip):
    return erase_instantly(model, clip, "circle\nstar", KEPT, Instant(tokens=TOKENS[1]))


def stock(model, file: dict):
    """The model with a LoRA file on it, as LoraLoaderModelOnly puts it there."""
    with torch.inference_mode():
        return comfy.sd.load_lora_for_models(model, None, file, 1.0, 0.0)[0]


def unmatched(model, file: dict) -> list[str]:
    known = comfy.lora.model_lora_keys_unet(model, {})
    ends = re.compile(r"\.(alpha|diff|diff_b|weight)$")
    bare = {key: ends.sub("", key) for key in file}
    return [key for key, name in bare.items() if name.removesuffix(".lora_up").removesuffix(".lora_down") not in known]


# ---------------------------------------------------------------- out


@pytest.mark.parametrize("rank", [0, 8])
@pytest.mark.parametrize("precision", exchange.DTYPES)
def test_the_stock_loader_draws_the_same(model, clip, cond, tmp_path, caplog, rank, precision):
    made = erase_instantly(model, clip, "circle", KEPT, Instant(rank=rank))
    exchange.export_lora(model, made, tmp_path / "x.safetensors", exchange.DTYPES[precision])
    file = load_file(tmp_path / "x.safetensors")
    assert unmatched(model.model, file) == []
    base, ours, theirs = (
        sample(m, cond("a circle"), cond("")) for m in (model, attach.erase(model, made), stock(model, file))
    )
    assert not [r for r in caplog.records if "not loaded" in r.message.lower()]
    assert_close(theirs, ours, difference(base, ours), {"fp32": 1e-4, "fp16": 0.01, "bf16": 0.05}[precision])


def test_the_change_in_the_file_is_the_change(model, erasure):
    tensors, keys = exchange.lora_tensors(model, erasure, torch.float32), exchange.lora_keys(model)
    for name, change in erasure.delta.items():
        up, down = (tensors[f"{keys[name]}.lora_{end}.weight"] for end in ("up", "down"))
        assert len(down) == 2 and tensors[f"{keys[name]}.alpha"] == 2
        torch.testing.assert_close(up @ down, change.dense(), rtol=1e-5, atol=0)


def test_a_written_out_change_is_factored_at_its_own_rank():
    matrix = torch.randn(30, 5) @ torch.randn(5, 20)
    found = exchange.factor(matrix)
    assert len(found.down) == 5
    torch.testing.assert_close(found.dense(), matrix, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family, layers", [("SD15", 16), ("SD20", 16), ("SDXL", 70)])
def test_names_are_known_for_every_family(family, layers):
    """Full-size networks without memory: every key of an exported file finds its weight in the host's own table."""
    kind = getattr(comfy.supported_models, family)
    levels = [1, 2, 4] if family == "SDXL" else [1, 2, 4, 4]
    size = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "legacy": False}
    size["use_spatial_transformer"] = True
    size |= {"channel_mult": levels, "num_res_blocks": [2] * len(levels), "dtype": torch.float32}
    config = kind({**kind.unet_config, **size, **DEPTHS[family]})
    net = config.get_model({}, device="meta")
    fake = type("Model", (), {"model": net})
    keys = exchange.lora_keys(fake)
    names = [n for n, _ in net.named_parameters() if ".attn2.to_k." in n or ".attn2.to_v." in n]
    assert len(names) == 2 * layers
    file = {}
    for name in names:
        file |= exchange._lora_part(keys[name], name, LowRank(torch.zeros(4, 1), torch.zeros(1, 4)), torch.float16)
    assert unmatched(net, file) == []
    loaded = comfy.lora.load_lora(file, comfy.lora.model_lora_keys_unet(net, {}))
    assert set(loaded) == set(names)
    assert all(key.startswith("lora_unet_") and "_attn2_to_" in key for key in file)


DEPTHS = {
    "SD15": {"transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1, "num_heads": 8,
             "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]},
    "SD20": {"transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1, "num_head_channels": 64,
             "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]},
    "SDXL": {"transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10, "num_head_channels": 64,
             "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10]},
}  # fmt: skip


def test_the_file_says_what_it_is(model, erasure, tmp_path):
    exchange.export_lora(model, erasure, tmp_path / "x.safetensors", torch.float16)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        said = file.metadata()
    assert said["ss_network_module"] == "networks.lora" and said["ss_network_dim"] == "2"
    assert said["modelspec.title"] == "Erases circle, star" and said["erasure.method"] == "uce"


@pytest.mark.parametrize(
    "name",
    ["1.transformer_blocks.0.attn2.to_out.0.bias", "0.in_layers.2.weight", "1.transformer_blocks.0.norm1.weight"],
)
def test_biases_and_kernels_go_out_too(model, name):
    name = f"diffusion_model.middle_block.{name}"
    change = Full(torch.randn(dict(model.model.named_parameters())[name].shape))
    erasure = Erasure(make_erasure(model, prompt=False).metadata, (), {name: change})
    file = exchange.lora_tensors(model, erasure, torch.float32)
    assert unmatched(model.model, file) == []
    assert set(comfy.lora.load_lora(file, comfy.lora.model_lora_keys_unet(model.model, {}))) == {name}


KOHYA = {  # (ss_base_model_version, ss_v2, architecture) for epsilon, and for v
    "SD15": (("sd_v1", "False", "v1"), ("sd_v1_v", "False", "v1")),
    "SD20": (("sd_v2", "True", "v2-512"), ("sd_v2_v", "True", "v2-768-v")),
    "SD21UnclipL": (("sd_v2", "True", "v2-unclip-l"), ("sd_v2_v", "True", "v2-unclip-l")),
    "SD21UnclipH": (("sd_v2", "True", "v2-unclip-h"), ("sd_v2_v", "True", "v2-unclip-h")),
    "SD_X4Upscaler": (("sd_v2", "True", "x4-upscaler"), ("sd_v2_v", "True", "x4-upscaler")),
    "SDXLRefiner": (("sdxl_refiner_v1-0", "False", "xl-v1-refiner"),) * 2,
    **{name: (("sdxl_base_v1-0", "False", "xl-v1-base"),) * 2
       for name in ("SDXL", "SSD1B", "Segmind_Vega", "KOALA_700M", "KOALA_1B")},
}  # fmt: skip


class Stand:
    """A MODEL of a class of the host's, as far as the strings of a LoRA file ask."""

    def __init__(self, kind: type, kind_of_model=comfy.model_base.ModelType.EPS):
        self.model = type("Model", (), {"model_config": kind.__new__(kind)})
        self.sampling = comfy.model_base.model_sampling(type("Config", (), {"sampling_settings": {}}), kind_of_model)

    def get_model_object(self, name: str):
        assert name == "model_sampling"
        return self.sampling


def strings_of(model, family: str = "") -> dict[str, str]:
    return modelspec.lora_strings(model, Metadata(family=family), "Erases circle", 4, {"a": torch.ones(2)})


@pytest.mark.parametrize("v", [False, True])
@pytest.mark.parametrize("family", KOHYA)
@pytest.mark.parametrize("derived", [False, True])
def test_other_programs_sort_a_file_by_its_base_model(family, v, derived):
    kind = getattr(comfy.supported_models, family)
    kind = type("SomePacksOwn", (kind,), {}) if derived else kind
    types = comfy.model_base.ModelType
    strings = strings_of(Stand(kind, types.V_PREDICTION if v else types.EPS), kind.__name__)
    version, v2, architecture = KOHYA[family][v]
    assert strings["ss_base_model_version"] == version and strings["ss_v2"] == v2
    assert strings["modelspec.architecture"] == f"stable-diffusion-{architecture}/lora"
    assert strings["modelspec.prediction_type"] == ("v" if v else "epsilon")


@pytest.mark.parametrize(
    ("kind", "family", "version"),
    [
        ("SDXL", "SD15", "sdxl_base_v1-0"),  # the host's own class is sure
        ("SD20", "nobody's", "sd_v2"),
        ("SD15", "", "sd_v1"),
        ("SDXL", "models", "sdxl_base_v1-0"),  # a name in the host's module that is no class of models
    ],
)
def test_a_family_that_a_file_made_elsewhere_names_wrongly_does_not_count(kind, family, version):
    model = Stand(getattr(comfy.supported_models, kind))
    assert strings_of(model, family)["ss_base_model_version"] == version


def test_a_model_of_a_class_of_its_own_is_named_as_it_is():
    strings = strings_of(Stand(type("Nobodys", (comfy.supported_models_base.BASE,), {})))
    assert strings["ss_base_model_version"] == "Nobodys" and strings["ss_v2"] == "False"
    assert strings["modelspec.architecture"] == "Nobodys/lora"


@pytest.mark.parametrize(
    ("kind", "word"), [("EDM", None), ("IMG_TO_IMG", None), ("FLOW", None), ("V_PREDICTION_EDM", "v")]
)
def test_a_prediction_without_a_word_has_none(kind, word):
    model = Stand(comfy.supported_models.SDXL, comfy.model_base.ModelType[kind])
    assert strings_of(model).get("modelspec.prediction_type") == word


@pytest.mark.parametrize(
    ("family", "version"),
    [("SD15", "sd_v1"), ("SD20", "sd_v2"), ("SDXL", "sdxl_base_v1-0"), ("ToyWorld", "sd_v1"), ("", "sd_v1")],
)
def test_the_family_of_the_erasure_is_in_the_file(model, erasure, tmp_path, family, version):
    made = replace(erasure, metadata=replace(erasure.metadata, family=family))
    exchange.export_lora(model, made, tmp_path / "x.safetensors", torch.float16)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        strings = file.metadata()
    assert strings["ss_base_model_version"] == version and strings["ss_output_name"] == "x"
    required = ("sai_model_spec", "architecture", "implementation", "title", "description", "date", "hash_sha256")
    assert all(strings[f"modelspec.{name}"] for name in required)
    datetime.fromisoformat(strings["modelspec.date"])


@pytest.mark.parametrize("rank", [1, 4000])
def test_the_hashes_are_those_of_the_file(model, erasure, tmp_path, rank):
    """As A1111 and kohya's trainer reckon them: of the numbers behind the header."""
    name = next(iter(erasure.delta))
    out, width = erasure.delta[name].dense().shape
    delta = {name: LowRank(torch.randn(out, rank), torch.randn(rank, width))}
    exchange.export_lora(model, Erasure(erasure.metadata, (), delta), tmp_path / "x.safetensors", torch.float32)
    data = (tmp_path / "x.safetensors").read_bytes()
    digest = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata()["sshs_model_hash"] == digest
        assert file.metadata()["modelspec.hash_sha256"] == f"0x{digest}"


def test_a_change_that_half_precision_cannot_hold_is_balanced_or_refused(model, erasure):
    name = next(iter(erasure.delta))
    out, width = erasure.delta[name].dense().shape
    up, down = torch.randn(out, 2) * 1e6, torch.randn(2, width) * 1e-6
    uneven = Erasure(erasure.metadata, (), {name: LowRank(up, down)})
    file = exchange.lora_tensors(model, uneven, torch.float16)
    key = exchange.lora_keys(model)[name]
    product = file[f"{key}.lora_up.weight"].float() @ file[f"{key}.lora_down.weight"].float()
    torch.testing.assert_close(product, up @ down, rtol=0.01, atol=0.01)
    huge = Erasure(erasure.metadata, (), {name: LowRank(up * 1e6, down * 1e6)})
    with pytest.raises(ErasureError) as caught:
        exchange.lora_tensors(model, huge, torch.float16)
    assert "choose fp32" in sentence(caught)
    broken = Erasure(erasure.metadata, (), {name: Full(torch.full((out,), math.inf))})
    with pytest.raises(ErasureError) as caught:
        exchange.lora_tensors(model, broken, torch.float32)
    assert "not finite" in sentence(caught)


def test_a_lora_that_no_loader_would_list_goes_where_one_does(model, erasure, output):
    text = ErasureExportLora.execute(model, erasure, "circle", "fp16").ui.as_dict()["text"][0]
    assert "loras/circle_00001.safetensors" in text.replace("\\", "/")
    assert (output / "loras" / "circle_00001.safetensors").is_file()


def test_a_prompt_alone_is_no_lora(model, clip, narrow_model, erasure):
    with pytest.raises(ErasureError) as caught:
        exchange.lora_tensors(model, only_prompt(make_erasure(model, clip)))
    assert "a LoRA cannot hold" in sentence(caught)
    with pytest.raises(ErasureError):
        exchange.lora_tensors(narrow_model, erasure)


def test_the_node_says_what_it_left_out(model, clip, output):
    said = ErasureExportLora.execute(model, make_erasure(model, clip), "loras/x", "fp16").ui.as_dict()["text"][0]
    assert "loras/x_00001.safetensors" in said.replace("\\", "/") and "erasure prompt is not in it" in said
    assert (output / "loras" / "x_00001.safetensors").is_file()


# ---------------------------------------------------------------- in


def theirs(model, erasure, form: str, dtype=torch.float32) -> dict[str, torch.Tensor]:
    """The erasure as other programs write it."""
    weights = checkpoint_weights(model)
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
    file[untouched] = checkpoint_weights(model)[ours].to(torch.bfloat16)
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


def test_a_title_names_no_more_than_fits(model, erasure, tmp_path):
    many = replace(erasure.metadata, concept="\n".join(f"name{i}" for i in range(300)))
    exchange.export_lora(model, replace(erasure, metadata=many), tmp_path / "x.safetensors", torch.float16)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata()["modelspec.title"].endswith("name6, name7 and 292 more")


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
        file = {f"model.{name}": checkpoint_weights(model)[name] for name in erasure.delta}
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
