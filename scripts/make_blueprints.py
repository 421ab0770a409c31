"""Write ``subgraphs/*.json``: whole pieces of a graph that the editor's node search offers as one node.

``python3 scripts/run.py scripts.make_blueprints`` starts a server, asks it for the nodes' inputs, and writes what
the editor would save.
"""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import client, shared
from .graph import Graph, Socket, as_text
from .make_workflows import own_server

FOLDER = shared.PACK / "subgraphs"
INPUT_NODE, OUTPUT_NODE = -10, -20
"""The editor's own numbers for a subgraph's two ends."""
COLUMN = 340


@dataclass(frozen=True)
class Piece:
    """A graph whose inputs and outputs are open: ``inputs``: name -> the inner inputs (node, name) that it feeds;
    ``outputs``: name -> the inner output (node, slot). ``values``: of inputs that are widgets."""

    name: str
    description: str
    graph: Graph
    inputs: Mapping[str, Sequence[tuple[int, str]]]
    outputs: Mapping[str, Socket]
    values: Mapping[str, Any]


def erase_and_compare(object_info: dict[str, Any]) -> Piece:
    """A concept erased by text, and the same prompt and noise drawn before and after."""
    graph = Graph(object_info, (1.0, 0, 0))
    how: dict[str, Any] = {"sampler_name": "euler", "scheduler": "normal"}
    erase = graph.node("ErasureText", (0, 0, 300, 200))
    samplers, pictures = [], []
    rows: dict[str, dict[str, Socket]] = {"Before": {}, "After": {"model": (erase, 0)}}
    for row, (title, sockets) in enumerate(rows.items()):
        samplers.append(graph.node("KSampler", (COLUMN, 300 * row, 300, 262), title, sockets, **how))
        latent = {"samples": (samplers[-1], 0)}
        pictures.append(graph.node("VAEDecode", (2 * COLUMN, 300 * row, 200, 46), title, latent))
    drawn = ("positive", "negative", "latent_image", "seed", "steps", "cfg", "sampler_name", "scheduler")
    return Piece(
        "Erase and Compare",
        "Erases what you type, and draws the same prompt with the same noise before and after.",
        graph,
        {
            "model": [(erase, "model"), (samplers[0], "model")],
            "clip": [(erase, "clip")],
            "vae": [(node, "vae") for node in pictures],
            "concept": [(erase, "concept")],
            **{name: [(node, name) for node in samplers] for name in drawn},
        },
        {"before": (pictures[0], 0), "after": (pictures[1], 0), "model": (erase, 0)},
        {"concept": "", "seed": 0, "steps": 20, "cfg": 7.0, **how},
    )


PIECES = (erase_and_compare,)


def blueprint(piece: Piece) -> dict[str, Any]:
    """A piece in the editor's format: one node, and beside it what that node is made of."""
    inner = piece.graph.saved()
    links = [dict(zip(_LINK, link, strict=True)) for link in inner["links"]]
    inputs = [_open_input(piece, name, place, inner["nodes"], links) for place, name in enumerate(piece.inputs)]
    outputs = [_open_output(piece, name, place, inner["nodes"], links) for place, name in enumerate(piece.outputs)]
    number = str(uuid.uuid5(uuid.NAMESPACE_URL, f"concept-erasure/{piece.name}"))
    definition = {
        "id": number, "version": 1, "revision": 0, "name": piece.name, "config": {},
        "state": {
            "lastGroupId": 0, "lastNodeId": len(inner["nodes"]), "lastLinkId": len(links), "lastRerouteId": 0
        },
        "inputNode": {"id": INPUT_NODE, "bounding": [-COLUMN, 0, 160, 20 * len(inputs) + 40]},
        "outputNode": {"id": OUTPUT_NODE, "bounding": [3 * COLUMN - 80, 0, 160, 20 * len(outputs) + 40]},
        "inputs": inputs, "outputs": outputs, "widgets": [], "nodes": inner["nodes"], "groups": [], "links": links,
        "extra": {}, "category": "concept erasure", "description": piece.description,
    }  # fmt: skip
    return {
        "revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [_outer(piece, number, inputs, outputs)],
        "links": [], "version": 0.4, "definitions": {"subgraphs": [definition]}, "extra": {},
    }  # fmt: skip


_LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


def _open_input(piece: Piece, name: str, place: int, nodes: list[dict], links: list[dict]) -> dict[str, Any]:
    """An input of the whole, linked to what it feeds inside."""
    own = []
    for node, wanted in piece.inputs[name]:
        slots = nodes[node - 1]["inputs"]
        slot = next(i for i, found in enumerate(slots) if found["name"] == wanted)
        own.append(_link(links, INPUT_NODE, place, node, slot, slots[slot]["type"]))
        slots[slot]["link"] = own[-1]
    return {**_named(piece, "input", name), "type": links[-1]["type"], "linkIds": own, "pos": [-200, 20 * place + 20]}


def _open_output(piece: Piece, name: str, place: int, nodes: list[dict], links: list[dict]) -> dict[str, Any]:
    """An output of the whole, linked to where it comes from inside."""
    node, slot = piece.outputs[name]
    found = nodes[node - 1]["outputs"][slot]
    own = _link(links, node, slot, OUTPUT_NODE, place, found["type"])
    found["links"].append(own)
    return {**_named(piece, "output", name), "type": found["type"], "linkIds": [own], "pos": [960, 20 * place + 20]}


def _link(links: list[dict], *ends: Any) -> int:
    links.append(dict(zip(_LINK, (len(links) + 1, *ends), strict=True)))
    return int(links[-1]["id"])


def _named(piece: Piece, end: str, name: str) -> dict[str, Any]:
    return {"id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"concept-erasure/{piece.name}/{end}/{name}")), "name": name}


def _outer(piece: Piece, number: str, inputs: list[dict], outputs: list[dict]) -> dict[str, Any]:
    """The one node that the editor shows."""
    slots = [
        {"name": slot["name"], "type": slot["type"], "link": None}
        | ({"widget": {"name": slot["name"]}} if slot["name"] in piece.values else {})
        for slot in inputs
    ]
    return {
        "id": 1, "type": number, "pos": [0, 0], "size": [360, 340], "flags": {}, "order": 0, "mode": 0, "inputs": slots,
        "outputs": [{"name": slot["name"], "type": slot["type"], "links": []} for slot in outputs],
        "title": piece.name, "properties": {"proxyWidgets": [["-1", name] for name in piece.values]},
        "widgets_values": list(piece.values.values()),
    }  # fmt: skip


def write(object_info: dict[str, Any], folder: Path = FOLDER) -> list[Path]:
    """Writes all pieces; returns their files."""
    folder.mkdir(exist_ok=True)
    files = []
    for make in PIECES:
        piece = make(object_info)
        files.append(folder / f"{piece.name}.json")
        files[-1].write_text(as_text(blueprint(piece)), encoding="utf-8")
    return files


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with own_server() as running:
        for file in write(client.Client(running.address).object_info()):
            print(file.relative_to(shared.PACK))


if __name__ == "__main__":
    main()
