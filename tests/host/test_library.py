"""The library of erasures in the host: what a file holds beside tensors, the editor's list, and lists of concepts."""

import json
import os
from dataclasses import replace
from pathlib import Path

import folder_paths
import pytest
import torch
from comfy.cli_args import args
from comfy_api.latest import io
from safetensors import safe_open

from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.files import THUMBNAIL, save_erasure
from concept_erasure.nodes import library, lists
from concept_erasure.nodes.files import NONE_YET, ErasureLoad, ErasureSave
from concept_erasure.nodes.lists import ErasureConceptList
from tests.host.test_fit import sentence
from tests.host.tools import make_erasure

WORKFLOW = {"nodes": [], "extra": {"word": "サークル"}}


@pytest.fixture
def erasure(model, clip):
    return make_erasure(model, clip, role="key")


@pytest.fixture
def in_a_graph(monkeypatch):
    """Save Erasure as the host runs it in a graph."""
    given = {io.Hidden.prompt: {"1": {}}, io.Hidden.extra_pnginfo: {"workflow": WORKFLOW, "verdict": "no"}}
    monkeypatch.setattr(ErasureSave, "hidden", io.HiddenHolder.from_dict(given))


def strings(output) -> dict:
    [path] = (output / "erasures").iterdir()
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_a_file_is_named_after_its_concept_and_holds_graph_and_picture(output, erasure, in_a_graph):
    ErasureSave.execute(erasure, picture=torch.rand(2, 64, 64, 3))
    assert [path.name for path in (output / "erasures").iterdir()] == ["circle_ToyWorld_00001.safetensors"]
    kept = strings(output)
    assert json.loads(kept["workflow"]) == WORKFLOW and json.loads(kept["prompt"]) == {"1": {}}
    assert kept[THUMBNAIL].startswith("data:image/jpeg;base64,") and kept["modelspec.title"] == "circle"
    assert "verdict" not in kept


@pytest.mark.parametrize("host_writes_none", [False, True])
def test_the_graph_stays_out_of_the_file_where_it_is_not_wanted(
    output, erasure, in_a_graph, monkeypatch, host_writes_none
):
    monkeypatch.setattr(args, "disable_metadata", host_writes_none)
    ErasureSave.execute(erasure, workflow=host_writes_none)
    assert not {"workflow", "prompt"} & set(strings(output))


def test_a_choice_that_is_no_file_is_one_sentence(output):
    assert ErasureLoad.define_schema().inputs[0].options == [NONE_YET]
    for choice, words in ((NONE_YET, "no erasure yet"), ("gone.safetensors", "'gone.safetensors'")):
        assert words in ErasureLoad.validate_inputs(choice)
        with pytest.raises(ErasureError) as caught:
            ErasureLoad.execute(choice)
        assert words in sentence(caught)
    assert ErasureLoad.validate_inputs() is True  # linked: known when it runs


def test_the_editor_is_told_which_files_fit_the_model(output, erasure, checkpoint, narrow_model):
    ErasureSave.execute(erasure, "a")
    save_erasure(make_erasure(narrow_model, prompt=False), output / "erasures" / "b.safetensors")
    unknown = replace(erasure, metadata=replace(erasure.metadata, fingerprint="", context_dim=""))
    save_erasure(unknown, output / "erasures" / "c.safetensors")
    (output / "erasures" / "d.safetensors").write_bytes(b"")
    for age, path in enumerate(sorted((output / "erasures").glob("*.safetensors"))):
        os.utime(path, ns=(0, 10**18 - age * 10**9))
    folder_paths.add_model_folder_path("checkpoints", str(checkpoint.parent))

    def fits(folder="checkpoints", model=checkpoint.name):
        return [card.get("fits", "no card") for card in library.cards(folder, model)]

    assert fits() == [True, False, True, "no card"]
    for place in (("", ""), ("checkpoints", "gone.safetensors"), ("checkpoints", f"../{checkpoint}"), ("input", "x")):
        assert fits(*place) == [None, None, None, "no card"]
    assert library.cards()[0]["line"] == "circle · ToyWorld · with its key"
    os.utime(output / "erasures" / "b.safetensors", ns=(0, 10**18 + 10**9))  # the newest one
    [first, *_] = [card["name"] for card in library.cards()]
    assert first == ErasureLoad.define_schema().inputs[0].options[0] == "b.safetensors"


def test_lists_of_the_user_go_before_those_of_the_pack(output, tmp_path):
    known = folder_paths.get_filename_list(lists.KIND)
    assert set(known) == {path.name for path in lists.OWN.iterdir()}
    concept, preserve = ErasureConceptList.execute("watermark.txt").result
    assert "watermark ->" in concept.splitlines() and "poster" in preserve.splitlines()
    own = Path(tmp_path, "models", "erasures", "lists", "watermark.txt")
    own.write_text("circle, disc -> heart : 0.5\nkeep: star", encoding="utf-8-sig")
    result = ErasureConceptList.execute(own.name)
    assert result.result == ("circle -> heart : 0.5\ndisc -> heart : 0.5", "star")
    assert "disc → heart, strength 0.5" in result.ui.as_dict()["text"][0]
    assert "'gone.txt'" in ErasureConceptList.validate_inputs("gone.txt")
