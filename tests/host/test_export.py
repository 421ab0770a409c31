"""LoRA files out."""

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
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from concept_erasure.erasure import exchange, modelspec
from concept_erasure.erasure.artifact import Erasure, ErasureError, Full, LowRank, Metadata
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.instant import Instant, erase_instantly
from concept_erasure.erasure.parts.delta import changing
from concept_erasure.erasure.posing import TOKENS
from concept_erasure.nodes.exchange import ErasureExportLora
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
    erasure = Erasure(make_erasure(model, prompt=False).metadata, changing({name: change}))
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
    exchange.export_lora(model, Erasure(erasure.metadata, changing(delta)), tmp_path / "x.safetensors", torch.float32)
    data = (tmp_path / "x.safetensors").read_bytes()
    digest = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata()["sshs_model_hash"] == digest
        assert file.metadata()["modelspec.hash_sha256"] == f"0x{digest}"


def test_a_change_that_half_precision_cannot_hold_is_balanced_or_refused(model, erasure):
    name = next(iter(erasure.delta))
    out, width = erasure.delta[name].dense().shape
    up, down = torch.randn(out, 2) * 1e6, torch.randn(2, width) * 1e-6
    uneven = Erasure(erasure.metadata, changing({name: LowRank(up, down)}))
    file = exchange.lora_tensors(model, uneven, torch.float16)
    key = exchange.lora_keys(model)[name]
    product = file[f"{key}.lora_up.weight"].float() @ file[f"{key}.lora_down.weight"].float()
    torch.testing.assert_close(product, up @ down, rtol=0.01, atol=0.01)
    huge = Erasure(erasure.metadata, changing({name: LowRank(up * 1e6, down * 1e6)}))
    with pytest.raises(ErasureError) as caught:
        exchange.lora_tensors(model, huge, torch.float16)
    assert "choose fp32" in sentence(caught)
    broken = Erasure(erasure.metadata, changing({name: Full(torch.full((out,), math.inf))}))
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
    assert "changes no weights" in sentence(caught)
    with pytest.raises(ErasureError):
        exchange.lora_tensors(narrow_model, erasure)


def test_the_node_says_what_it_left_out(model, clip, output):
    said = ErasureExportLora.execute(model, make_erasure(model, clip), "loras/x", "fp16").ui.as_dict()["text"][0]
    assert "loras/x_00001.safetensors" in said.replace("\\", "/") and "so it lacks: an eraser prompt." in said
    assert (output / "loras" / "x_00001.safetensors").is_file()


def test_a_title_names_no_more_than_fits(model, erasure, tmp_path):
    many = replace(erasure.metadata, concept="\n".join(f"name{i}" for i in range(300)))
    exchange.export_lora(model, replace(erasure, metadata=many), tmp_path / "x.safetensors", torch.float16)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata()["modelspec.title"].endswith("name6, name7 and 292 more")
