"""What saved graphs rely on: node ids, and inputs in an order that never changes.

After adding something at the end: ``python3 scripts/run.py tests.host.test_schema`` writes the snapshot anew.
"""

import asyncio
import json
from pathlib import Path

import pytest

from concept_erasure.nodes import ConceptErasureExtension
from scripts.client import WIDGET_TYPES

REPO = Path(__file__).resolve().parents[2]
SNAPSHOT = Path(__file__).with_name("schema.json")
PARTS = ("required", "optional")
"""The editor shows and saves inputs in this order, whatever the order of the schema."""


def nodes() -> list:
    return asyncio.run(ConceptErasureExtension().get_node_list())


def described() -> dict:
    """Every node's sockets, widgets and outputs, in the editor's order."""
    found = {}
    for node in nodes():
        info = node.GET_NODE_INFO_V1()
        shown = [(key, kind) for part in PARTS for key, (kind, _) in info["input"].get(part, {}).items()]
        found[info["name"]] = {
            "sockets": [f"{key}: {kind}" for key, kind in shown if kind not in WIDGET_TYPES],
            "widgets": [f"{key}: {kind}" for key, kind in shown if kind in WIDGET_TYPES],
            "outputs": info["output"],
        }
    return found


@pytest.fixture(autouse=True)
def folders(output):
    """Load Erasure's schema lists a folder."""


def test_nothing_that_a_saved_graph_uses_has_moved():
    now = described()
    for node_id, old in json.loads(SNAPSHOT.read_text()).items():
        assert node_id in now, f"{node_id} is gone: register a replacement"
        for part in ("sockets", "widgets", "outputs"):
            assert now[node_id][part][: len(old[part])] == old[part], f"{node_id}: only add {part} at the end"


def test_the_schema_has_the_order_that_the_editor_shows():
    """So that an input which is added at the end of one is at the end of the other."""
    for node in nodes():
        needed = [not i.optional for i in node.define_schema().inputs]
        assert needed == sorted(needed, reverse=True), f"{node.__name__}: list inputs without a default first"


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
    from concept_erasure.nodes import dictionaries, files, lists

    files.register_folders()
    lists.register_folders()
    dictionaries.register_folders()
    SNAPSHOT.write_text(json.dumps(described(), indent=1) + "\n")
