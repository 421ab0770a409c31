"""Small graphs, as prompts for the API and as the editor would save them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

Graph = dict[str, dict[str, Any]]


def node(info: dict, kind: str, **inputs) -> dict:
    """A node of a prompt; widgets that are not given have their defaults."""
    declared = {**info[kind]["input"].get("required", {}), **info[kind]["input"].get("optional", {})}
    defaults = {k: v[1]["default"] for k, v in declared.items() if len(v) > 1 and "default" in v[1]}
    return {"class_type": kind, "inputs": {**defaults, **inputs}}


def train(info: dict, **changes) -> dict:
    """Train Erasure for a few small steps on the checkpoint loaded by node 1."""
    short = {"concept": "circle", "preserve": "square\nred", "steps": 3, "batch": 2, "sampling_steps": 2}
    size = {"width": 64, "height": 64}
    return node(info, "ErasureTrain", model=["1", 0], clip=["1", 1], **{**short, **size, **changes})


def picture(info: dict, model: list, text: str = "a red circle", seed: int = 3) -> Graph:
    """Nodes 1 and 11 to 16: from the checkpoint to a saved picture drawn by ``model``."""
    return {
        "1": node(info, "CheckpointLoaderSimple", ckpt_name="toyworld.safetensors"),
        "11": node(info, "CLIPTextEncode", text=text, clip=["1", 1]),
        "12": node(info, "CLIPTextEncode", text="", clip=["1", 1]),
        "13": node(info, "EmptyLatentImage", width=64, height=64),
        "14": node(
            info, "KSampler", model=model, seed=seed, steps=4, cfg=3.0, sampler_name="euler", scheduler="normal",
            positive=["11", 0], negative=["12", 0], latent_image=["13", 0],
        ),
        "15": node(info, "VAEDecode", samples=["14", 0], vae=["1", 2]),
        "16": node(info, "SaveImage", images=["15", 0], filename_prefix="test"),
    }  # fmt: skip


def pixels(client, graph: Graph) -> np.ndarray:
    """Runs a graph and returns the picture that node 16 saved, as the PNG has it."""
    history = client.wait(client.queue(graph), timeout=300)
    [png] = client.images(history)["16"]
    return np.asarray(Image.open(io.BytesIO(png)))


def as_saved(graph: Graph, info: dict, modes: dict[str, int] | None = None) -> dict:
    """The graph as the editor saves it; ``modes`` bypasses (4) or mutes (2) nodes by id."""
    nodes, links = [], []
    for key, entry in graph.items():
        declared = info[entry["class_type"]]
        order = [n for part in ("required", "optional") for n in declared["input_order"].get(part, [])]
        types = {**declared["input"].get("required", {}), **declared["input"].get("optional", {})}
        slots, widgets = [], []
        for name in order:
            value, kind = entry["inputs"].get(name), types[name][0]
            if isinstance(value, list) or (value is None and isinstance(kind, str) and kind.isupper()):
                link = None
                if isinstance(value, list):
                    link = len(links) + 1
                    links.append([link, int(value[0]), value[1], int(key), len(slots), kind])
                slots.append({"name": name, "type": kind, "link": link})
            else:
                widgets.append(value)
        outputs = [{"name": t, "type": t} for t in declared["output"]]
        nodes.append(
            {
                "id": int(key),
                "type": entry["class_type"],
                "mode": (modes or {}).get(key, 0),
                "inputs": slots,
                "outputs": outputs,
                "widgets_values": widgets,
            }  # fmt: skip
        )
    return {"nodes": nodes, "links": links, "version": 0.4}
