"""Graphs to start from in the editor, with room for a node between the checkpoint loader and the sampler."""

from __future__ import annotations

from typing import Any

from scripts.graph import Graph
from scripts.make_workflows import CFG, CHECKPOINT, PROMPT, SEED, SIZE, STEPS


def drawing(info: dict[str, Any]) -> dict[str, Any]:
    """From the checkpoint to one picture of a red circle, without a node of ours."""
    graph = Graph(info, (1.0, 100, 130))
    loader = graph.node("CheckpointLoaderSimple", (0, 300, 320, 98), ckpt_name=CHECKPOINT)
    text = {"clip": (loader, 1)}
    positive = graph.node("CLIPTextEncode", (0, 450, 320, 110), "Prompt", text, text=PROMPT)
    negative = graph.node("CLIPTextEncode", (0, 610, 320, 88), "Negative prompt", text, text="")
    latent = graph.node("EmptyLatentImage", (0, 750, 320, 106), width=SIZE, height=SIZE)
    sockets = {"model": (loader, 0), "positive": (positive, 0), "negative": (negative, 0), "latent_image": (latent, 0)}
    sampling = {"seed": SEED, "steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal"}
    sampler = graph.node("KSampler", (880, 300, 320, 262), sockets=sockets, **sampling)
    decode = graph.node("VAEDecode", (880, 612, 320, 46), sockets={"samples": (sampler, 0), "vae": (loader, 2)})
    # The editor never shows a picture larger than it is, and 64 pixels are not much to look at.
    larger = {"image": (decode, 0)}
    large = graph.node("ImageScaleBy", (880, 708, 320, 82), sockets=larger, upscale_method="bicubic", scale_by=5.0)
    graph.node("PreviewImage", (1250, 300, 360, 400), "Picture", {"images": (large, 0)})
    return graph.saved()
