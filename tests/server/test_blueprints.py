"""Pieces of graphs that the editor's search offers as one node."""

import json

import pytest

from scripts import make_blueprints, shared

FILES = sorted((shared.PACK / "subgraphs").glob("*.json"))


def test_files_are_what_the_script_writes(info, tmp_path):
    for file in make_blueprints.write(info, tmp_path):
        assert file.read_text(encoding="utf-8") == (shared.PACK / "subgraphs" / file.name).read_text(encoding="utf-8")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_links_and_ends_agree(file):
    [inside] = json.loads(file.read_text(encoding="utf-8"))["definitions"]["subgraphs"]
    nodes = {node["id"]: node for node in inside["nodes"]}
    for link in inside["links"]:
        if link["origin_id"] == make_blueprints.INPUT_NODE:
            assert link["id"] in inside["inputs"][link["origin_slot"]]["linkIds"]
        else:
            assert link["id"] in nodes[link["origin_id"]]["outputs"][link["origin_slot"]]["links"]
        if link["target_id"] == make_blueprints.OUTPUT_NODE:
            assert link["id"] in inside["outputs"][link["target_slot"]]["linkIds"]
        else:
            assert nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] == link["id"]
