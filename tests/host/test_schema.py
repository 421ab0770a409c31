"""What saved graphs rely on: node ids, and inputs in an order that never changes.

After adding something at the end: ``python3 scripts/run.py tests.host.test_schema`` writes the snapshot anew.
"""

import asyncio
import json
from pathlib import Path

import pytest

from concept_erasure.nodes import ConceptErasureExtension

REPO = Path(__file__).resolve().parents[2]
SNAPSHOT = Path(__file__).with_name("schema.json")


def nodes() -> list:
    return asyncio.run(ConceptErasureExtension().get_node_list())


def described() -> dict:
    """Every node's inputs and outputs, in order."""
    found = {}
    for node in nodes():
        schema = node.define_schema()
        found[schema.node_id] = {
            "inputs": [f"{i.id}: {i.get_io_type()}" for i in schema.inputs],
            "outputs": [o.get_io_type() for o in schema.outputs or []],
        }
    return found


@pytest.fixture(autouse=True)
def folders(output):
    """Load Erasure's schema lists a folder."""


def test_nothing_that_a_saved_graph_uses_has_moved():
    now = described()
    for node_id, old in json.loads(SNAPSHOT.read_text()).items():
        assert node_id in now, f"{node_id} is gone: register a replacement"
        for part in ("inputs", "outputs"):
            assert now[node_id][part][: len(old[part])] == old[part], f"{node_id}: only add {part} at the end"


def test_the_snapshot_is_up_to_date():
    assert described() == json.loads(SNAPSHOT.read_text()), "run tests.host.test_schema to add what is new"


def test_everything_is_explained():
    for node in nodes():
        schema = node.define_schema()
        assert schema.description and schema.display_name and schema.category, schema.node_id
        for part in (*schema.inputs, *(schema.outputs or [])):
            assert part.tooltip, f"{schema.node_id}: {part.id or part.display_name} has no tooltip"


def test_ids_are_prefixed_and_named_like_their_class():
    for node in nodes():
        assert node.__name__ == node.define_schema().node_id
        assert node.__name__.startswith("Erasure")


def test_every_node_has_a_help_page():
    assert {p.stem for p in (REPO / "web" / "docs").glob("*.md")} >= set(described())


if __name__ == "__main__":
    from concept_erasure.nodes import files

    files.register_folders()
    SNAPSHOT.write_text(json.dumps(described(), indent=1) + "\n")
