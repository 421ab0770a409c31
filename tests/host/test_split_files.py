"""The templates for a model in three files, on a tiny Z-Image: the host's network from a file, and its text encoder.

The text encoder is made here, for the host's loader tells it by a size that no tiny one has. Nothing is decoded.
"""

import json
from pathlib import Path

import folder_paths
import pytest
import torch
from comfy_extras.nodes_primitive import Int
from comfy_extras.nodes_sd3 import EmptySD3LatentImage
from safetensors.torch import save_file

import nodes as host_nodes
from concept_erasure.nodes.instant import ErasureText
from tests import families, text_encoders

API = Path(__file__).resolve().parents[2] / "workflows" / "api"
SMALL = {"width": 64, "height": 64, "steps": 2}
"""Everything else is what the template says."""
Z_IMAGE = families.TINY["Z-Image"]
KINDS = {"PrimitiveInt": Int, "EmptySD3LatentImage": EmptySD3LatentImage, "ErasureText": ErasureText}
PICTURES = ("VAELoader", "VAEDecode", "PreviewImage", "ImageCompare")


@pytest.fixture(scope="module")
def clip():
    return text_encoders.load(text_encoders.TINY["Z-Image"])


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> str:
    """A network's file where UNETLoader looks."""
    folder = tmp_path_factory.mktemp("diffusion_models")
    save_file(families.random_state(Z_IMAGE), folder / "tiny.safetensors")
    folder_paths.add_model_folder_path("diffusion_models", str(folder))
    return "tiny.safetensors"


def small(slug: str, file: str) -> dict:
    prompt = json.loads((API / f"{slug}.json").read_text(encoding="utf-8"))
    for entry in prompt.values():
        entry["inputs"] |= {key: value for key, value in SMALL.items() if key in entry["inputs"]}
        entry["inputs"] |= {"unet_name": file} if entry["class_type"] == "UNETLoader" else {}
    return prompt


@torch.inference_mode()
def latents(prompt: dict, clip, **changes) -> list[torch.Tensor]:
    """What each sampler of a prompt draws; ``changes``: of inputs of Erase Concept or the samplers."""
    done = {}
    for number, entry in prompt.items():
        if entry["class_type"] == "CLIPLoader":
            done[number] = (clip,)
        elif entry["class_type"] not in PICTURES:
            inputs = entry["inputs"] | {key: value for key, value in changes.items() if key in entry["inputs"]}
            inputs = {k: done[v[0]][v[1]] if isinstance(v, list) else v for k, v in inputs.items()}
            done[number] = output(entry["class_type"], inputs)
    return [done[n][0]["samples"].clone() for n, entry in prompt.items() if entry["class_type"] == "KSampler"]


def output(kind: str, inputs: dict) -> tuple:
    if kind in KINDS:
        return KINDS[kind].execute(**inputs).result
    node = host_nodes.NODE_CLASS_MAPPINGS[kind]()
    return getattr(node, node.FUNCTION)(**inputs)


@pytest.mark.parametrize("slug", ["erase_by_text_split_loaders", "erase_by_text_cfg_1"])
def test_it_erases_and_at_cfg_1_a_negative_prompt_does_nothing(slug, clip, file):
    prompt = small(slug, file)
    [text] = [number for number, entry in prompt.items() if entry["_meta"]["title"] == "Prompt"]
    with families.registered(Z_IMAGE):
        base, erased = latents(prompt, clip)
        _, unedited = latents(prompt, clip, strength=0.0)
        other, _ = latents(prompt, clip, negative=[text, 0])
    assert base.shape == (1, 16, 8, 8)
    assert torch.equal(base, unedited) and not torch.allclose(base, erased, atol=1e-2)
    assert torch.equal(base, other) == slug.endswith("cfg_1")
