"""What was saved with 0.1.0 runs on the server as it is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from scripts.client import ClientError
from scripts.make_workflows import for_the_toy_world
from tests.server.graphs import picture, pixels

REPO = Path(__file__).resolve().parents[2]
OLD = REPO / "tests" / "data" / "0.1.0"
SHORT = {"steps": 3, "sampling_steps": 2, "batch_size": 1}
"""So that a run takes seconds; everything else is what the file says."""


def prompt_of(name: str) -> dict:
    prompt = for_the_toy_world(json.loads((OLD / "api" / f"{name}.json").read_text(encoding="utf-8")))
    for node in prompt.values():
        node["inputs"] |= {key: value for key, value in SHORT.items() if key in node["inputs"]}
    return prompt


@pytest.fixture
def saved_erasure(server):
    """The file that a graph loads."""
    folder = server.base / "models" / "erasures"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(REPO / "toyworld" / "erasures" / "circle.safetensors", folder)


@pytest.mark.parametrize("name", ["from_before", "erase_by_text", "erase_three_concepts", "erase_with_saved_file"])
def test_a_prompt_of_0_1_0_runs(client, saved_erasure, name):
    history = client.wait(client.queue(prompt_of(name)), timeout=300)
    assert client.images(history)


def test_what_a_prompt_lacks_is_the_default(client, info):
    """The same picture as with every default written out."""
    bare = {"class_type": "ErasureText", "inputs": {"model": ["1", 0], "clip": ["1", 1], "concept": "circle"}}
    drawn = picture(info, ["3", 0])
    short = pixels(client, drawn | {"3": bare})
    declared = info["ErasureText"]["input"]["optional"]
    spelled = {key: options["default"] for key, (_, options) in declared.items()}
    whole = {"class_type": "ErasureText", "inputs": {**spelled, **bare["inputs"]}}
    assert set(spelled) > {"strength", "target"}
    assert np.array_equal(pixels(client, drawn | {"3": whole}), short)
    assert not np.array_equal(pixels(client, picture(info, ["1", 0])), short)


def test_a_link_to_an_input_that_does_not_exist_arrives_as_a_sentence(client, info):
    bare = {"class_type": "ErasureText", "inputs": {"model": ["1", 0], "clip": ["1", 1], "concept": "circle"}}
    bare["inputs"] |= {"no_such_value": 3, "mask": ["1", 2]}
    with pytest.raises(ClientError, match=r"failed: Erase Concept has no input 'mask': disconnect it"):
        client.wait(client.queue(picture(info, ["3", 0]) | {"3": bare}), timeout=300)


def test_a_prompt_without_a_concept_is_refused_in_our_own_words(client, info):
    bare = {"class_type": "ErasureText", "inputs": {"model": ["1", 0], "clip": ["1", 1]}}
    with pytest.raises(ClientError, match="The concept is empty"):
        client.wait(client.queue(picture(info, ["3", 0]) | {"3": bare}), timeout=300)
    bare["inputs"]["concept"] = ""
    with pytest.raises(ClientError, match="The concept is empty: type what is to be erased, one name a line"):
        client.queue(picture(info, ["3", 0]) | {"3": bare})
