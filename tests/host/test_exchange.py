"""LoRA files out, other erasers' files in."""

import re

import comfy.lora
import comfy.model_base
import comfy.sd
import comfy.supported_models
import comfy.utils
import folder_paths
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from concept_erasure.erasure import attach, exchange
from concept_erasure.erasure.artifact import Erasure, ErasureError, Full, LowRank
from concept_erasure.erasure.fingerprint import checkpoint_weights
from concept_erasure.erasure.instant import TOKENS, Instant, erase_instantly
from concept_erasure.nodes.exchange import ErasureExportLora, ErasureImport
from concept_erasure.nodes.files import ErasureSave
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
