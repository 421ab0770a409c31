"""Graphs to start from in the editor, with room for a node between the checkpoint loader and the sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scripts.graph import Graph, Socket
from scripts.make_workflows import (
    CFG,
    CHECKPOINT,
    CONCEPT,
    KEPT_PROMPTS,
    PROMPT,
    SEED,
    STEPS,
    TOY_SIZE,
)
from toyworld.world import COLOURS, SHAPES


def drawing(info: dict[str, Any]) -> dict[str, Any]:
    """From the checkpoint to one picture of a red circle, without a node of ours."""
    graph = Graph(info, (1.0, 100, 130))
    loader = graph.node("CheckpointLoaderSimple", (0, 300, 320, 98), ckpt_name=CHECKPOINT)
    text = {"clip": (loader, 1)}
    positive = graph.node("CLIPTextEncode", (0, 450, 320, 110), "Prompt", text, text=PROMPT)
    negative = graph.node("CLIPTextEncode", (0, 610, 320, 88), "Negative prompt", text, text="")
    latent = graph.node("EmptyLatentImage", (0, 750, 320, 106), width=TOY_SIZE, height=TOY_SIZE)
    sockets = {"model": (loader, 0), "positive": (positive, 0), "negative": (negative, 0), "latent_image": (latent, 0)}
    sampling = {"seed": SEED, "steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal"}
    sampler = graph.node("KSampler", (880, 300, 320, 262), sockets=sockets, **sampling)
    decode = graph.node("VAEDecode", (880, 612, 320, 46), sockets={"samples": (sampler, 0), "vae": (loader, 2)})
    # The editor never shows a picture larger than it is, and 64 pixels are not much to look at.
    larger = {"image": (decode, 0)}
    large = graph.node("ImageScaleBy", (880, 708, 320, 82), sockets=larger, upscale_method="bicubic", scale_by=5.0)
    graph.node("PreviewImage", (1250, 300, 360, 400), "Picture", {"images": (large, 0)})
    return graph.saved()


def erasing(info) -> dict[str, Any]:
    """Text node between loader and sampler, whose result nobody but a sampler reads."""
    graph = Graph(info, (1.0, 100, 130))
    loader = graph.node("CheckpointLoaderSimple", (0, 300, 320, 98), ckpt_name=CHECKPOINT)
    both = {"model": (loader, 0), "clip": (loader, 1)}
    erase = graph.node("ErasureText", (400, 0, 400, 420), sockets=both, concept=CONCEPT, preserve="heart\nstar")
    text = {"clip": (loader, 1)}
    positive = graph.node("CLIPTextEncode", (0, 450, 320, 110), "Prompt", text, text="a red circle")
    latent = graph.node("EmptyLatentImage", (0, 750, 320, 106), width=TOY_SIZE, height=TOY_SIZE)
    sockets = {"model": (erase, 0), "positive": (positive, 0), "negative": (positive, 0), "latent_image": (latent, 0)}
    sampling = {"seed": 0, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"}
    sampler = graph.node("KSampler", (880, 300, 320, 262), sockets=sockets, **sampling)
    decode = graph.node("VAEDecode", (880, 612, 320, 46), sockets={"samples": (sampler, 0), "vae": (loader, 2)})
    graph.node("PreviewImage", (1250, 300, 360, 400), "Picture", {"images": (decode, 0)})
    return graph.saved()


def gallery(info: dict[str, Any], lora: str) -> dict[str, Any]:
    """All nodes of ours but Train Erasure, each in a place of its own; pictures below those that change a model."""
    graph = Graph(info, (0.3, 100, 130))
    loader = graph.node("CheckpointLoaderSimple", (-900, 0, 320, 98), ckpt_name=CHECKPOINT)
    model, clip, vae = ((loader, slot) for slot in range(3))
    positive = graph.node("CLIPTextEncode", (-900, 150, 320, 110), "Prompt", {"clip": clip}, text=PROMPT)
    negative = graph.node("CLIPTextEncode", (-900, 310, 320, 88), "Negative prompt", {"clip": clip}, text="")
    latent = graph.node("EmptyLatentImage", (-900, 450, 320, 106), width=TOY_SIZE, height=TOY_SIZE)
    places = ((500 * i, 3000 * j) for j in range(2) for i in range(9))

    def draw(title: str, x: int, y: int, chosen: Socket) -> None:
        sockets = {"model": chosen, "positive": (positive, 0), "negative": (negative, 0), "latent_image": (latent, 0)}
        sampling = {"seed": SEED, "steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal"}
        sampler = graph.node("KSampler", (x, y + 1000, 300, 262), f"Sample: {title}", sockets, **sampling)
        decode = graph.node("VAEDecode", (x, y + 1320, 300, 46), "", {"samples": (sampler, 0), "vae": vae})
        larger = {"image": (decode, 0)}
        large = graph.node("ImageScaleBy", (x, y + 1420, 300, 82), "", larger, upscale_method="bicubic", scale_by=4.0)
        graph.node("PreviewImage", (x, y, 195, 230), title, {"images": (large, 0)})

    def place(kind: str, tall: int, sockets: dict[str, Socket], titles: Sequence[str] = (), **values: Any) -> Socket:
        x, y = next(places)
        own = graph.node(kind, (x, y, 400, tall), sockets=sockets, **values), 0
        for i, (title, chosen) in enumerate(zip(titles, (sockets.get("model"), own), strict=False)):
            draw(title, x + 205 * i, y + tall + 50, chosen)
        return own

    both = {"model": model, "clip": clip}
    names = graph.node("ErasureConceptList", (-900, 800, 400, 240), file="van_gogh.txt"), 0
    graph.node("PreviewAny", (-900, 1200, 320, 120), sockets={"source": names})
    place("ErasureText", 420, both, ("Before", "Erased"), concept=CONCEPT, preserve="heart\nstar\nsquare")
    instant = place("ErasureInstant", 600, both, concepts="star", preserve="heart\ncross\nred\nstriped")
    loaded = place("ErasureLoad", 320, {}, file=f"{CONCEPT}.safetensors")
    learned_from = "\n".join(f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES)
    short_of_time = {"total_pictures": 48, "active": 8, "expansion": 4, "epochs": 6, "lr": 0.002, "steps": 6}
    place(
        "ErasureTrainDictionary",
        800,
        both,
        prompts=learned_from,
        filename_prefix="toyworld",
        blocks="middle\noutput 0",
        **short_of_time,
    )
    dictionary = place("ErasureLoadDictionary", 240, {}, file="dictionary.safetensors")
    picking = {**both, "vae": vae, "dictionary": dictionary}
    picked, _ = place("ErasureFromDictionary", 900, picking, concept=CONCEPT, preserve="heart\nstar\nsquare\nred\nblue")
    graph.node("PreviewImage", (-1500, 0, 320, 400), "Features", {"images": (picked, 1)})
    using = {"model": model, "erasure": loaded}
    erased = place("ErasureApply", 186, using, ("Before", "Erased"))
    place("ErasureRecover", 142, {"model": erased, "erasure": loaded}, ("Erased", "Recovered"))
    combined = place("ErasureCombine", 400, {})
    place("ErasureSave", 170, {"erasure": combined}, filename_prefix="erasures/circle_and_heart")
    place("ErasureExportLora", 190, {"model": model, "erasure": instant}, filename_prefix="loras/heart")
    place("ErasureImport", 260, {"model": model}, file=lora, concept=CONCEPT)
    size = {"width": TOY_SIZE, "height": TOY_SIZE}
    drawing: dict[str, Any] = {"pictures": 1, "seed": SEED, "steps": STEPS, "cfg": CFG, **size}
    prompts = {"erase": f"{PROMPT} | {CONCEPT}", "keep": "\n".join(f"{p} | {name}" for name, p in KEPT_PROMPTS.items())}
    seen = {"clip": clip, "vae": vae}
    seen["judge"] = graph.node("ToyWorldJudge", (-900, 600, 320, 46)), 0
    two = {"model_before": model, "model_after": erased, **seen}
    report, _ = place("ErasureReport", 1310, two, **drawing, **prompts)
    place("ErasureCard", 320, {"measured": (report, 2)})
    place("ErasureCompare", 1560, {"model": model, **seen}, **drawing, **prompts)
    short = {"steps": 8, "search_tried": 64, "search_generations": 1, "learned_steps": 2, "relearning_steps": 1}
    place(
        "ErasureStressTest", 2220, two, **{**drawing, **short}, concept=CONCEPT,
        other_names=f"a red {SHAPES[CONCEPT]}", among="\n".join(name for name in SHAPES if name != CONCEPT),
    )  # fmt: skip
    trying = {"model": model, "erasure": loaded, **seen}
    place("ErasureFindStrength", 1900, trying, **drawing, **prompts, strengths="0.25, 0.5, 1", refine=1)
    return graph.saved()
