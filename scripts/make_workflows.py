"""Write ``workflows/*.json``, and what goes with each: its twin for the API, and its pictures.

``python3 scripts/run.py scripts.make_workflows`` starts a server, asks it for the order of every node's widgets, and
writes the graphs as the editor would save them; ``workflows/api`` has the same as prompts, and ``docs/workflows`` the
pictures with the graph in them. ``--pictures`` also runs the graphs on the toy checkpoint, for the ``.jpg``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from toyworld.world import KINDS, SHAPES, kind_of

from . import client, host, server, shared, sheet
from .graph import Graph, Socket, as_text

PACK = shared.PACK
FOLDER = PACK / "workflows"
API = FOLDER / "api"
"""Deeper than where the host looks for templates, for a prompt is none."""
DRAGGED = PACK / "docs" / "workflows"
CHECKPOINT = "toyworld.safetensors"
SIZE, STEPS, CFG = 512, 20, 4.5
"""What most users' first checkpoint draws; the toy world's pictures are ``TOY_SIZE`` wide."""
TOY_SIZE = 64
CONCEPT = "circle"
CONCEPTS = ("circle", "star", "triangle")
PROMPT = "a red circle on a striped background"
KEPT_PROMPTS = {"star": "a blue star on a dotted background", "heart": "a purple heart on a checked background"}
SEED = 7
COLUMN = 310
"""Width that a column of samplers takes in the editor."""
TOP = 250
"""Where its sampler begins, below the nodes that make its model."""
WIDTH = 6
"""Pictures in a row of a workflow's ``.jpg``."""
GREEN = {"color": "#232", "bgcolor": "#353"}
RED = {"color": "#322", "bgcolor": "#533"}
BLUE = {"color": "#223", "bgcolor": "#335"}

# ---------------------------------------------------------------- the parts that all graphs have


def preserved(concept: str) -> str:
    """The first names of everything else in the toy world, one a line: the concept's own kind first."""
    kinds = sorted(KINDS, key=lambda kind: kind != kind_of(concept))
    return "\n".join(name for kind in kinds for name in KINDS[kind] if name != concept)


class Common:
    """Checkpoint, prompts, size and seed in one column, and pictures in columns to the right."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        checkpoint = graph.node("CheckpointLoaderSimple", (0, 340, 400, 98), ckpt_name=CHECKPOINT)
        self.model, self.clip, self.vae = ((checkpoint, slot) for slot in range(3))
        text = {"clip": self.clip}
        self.positive = graph.node("CLIPTextEncode", (0, 488, 400, 110), "Prompt", text, GREEN, text=PROMPT)
        self.negative = graph.node("CLIPTextEncode", (0, 648, 400, 88), "Negative prompt", text, RED, text="")
        self.latent = graph.node("EmptyLatentImage", (0, 786, 400, 106), width=SIZE, height=SIZE, batch_size=4)
        graph.group("1. Model and prompt", (-20, 260, 440, 652))

    def seed(self, place: tuple[int, int, int, int]) -> Socket:
        return self.graph.node("PrimitiveInt", place, "Seed", value=SEED), 0

    def pictures(self, x: int, y: int, title: str, model: Socket, seed: Socket) -> Socket:
        """A column: sampler, decoder and picture; returns what was decoded."""
        sockets = {"model": model, "positive": (self.positive, 0), "negative": (self.negative, 0)}
        sampler = self.graph.node(
            "KSampler", (x, y, COLUMN - 30, 262), f"Sample: {title[0].lower()}{title[1:]}",
            {**sockets, "latent_image": (self.latent, 0), "seed": seed},
            steps=STEPS, cfg=CFG, sampler_name="euler", scheduler="normal",
        )  # fmt: skip
        decode = {"samples": (sampler, 0), "vae": self.vae}
        decoded = self.graph.node("VAEDecode", (x, y + 312, COLUMN - 30, 46), "", decode)
        self.graph.node("PreviewImage", (x, y + 408, COLUMN - 30, 314), title, {"images": (decoded, 0)}, BLUE)
        return decoded, 0


def train_erase_recover(object_info: dict[str, Any]) -> dict[str, Any]:
    """(a) Learn, erase and recover, side by side."""
    graph = Graph(object_info, (0.6, 145, 165))
    graph.note(
        (0, 0, 400, 230), "Read me",
        "1. **Choose your checkpoint**, and its picture size in Empty Latent Image.\n"
        "2. **Type the concept** to erase in Train Erasure, and below it what must stay (or nothing: it is found).\n"
        "3. **Run.** It trains once and draws one prompt and seed three times: base, erased, recovered with the key.\n"
        "4. **Change the prompt and run again**: nothing is trained anew, and other prompts look as before.\n"
        "5. The erasure is saved in `output/erasures`, ready for Load Erasure.",
    )  # fmt: skip
    common = Common(graph)
    train = graph.node(
        "ErasureLearn", (460, 0, 400, 860),
        sockets={"model": common.model, "clip": common.clip, "vae": common.vae},
        concept=CONCEPT, preserve=preserved(CONCEPT),
    )  # fmt: skip
    erasure = (train, 0)
    prefix = f"erasures/{CONCEPT}"
    graph.node("ErasureSave", (920, 1090, 280, 150), sockets={"erasure": erasure}, filename_prefix=prefix)
    graph.node("LossGraphNode", (1230, 1090, 590, 300), sockets={"loss": (train, 1)})
    graph.group("2. Learn to erase", (440, -80, 440, 1072))
    graph.group("4. Keep it", (900, 1010, 940, 400))
    x = 920
    seed = common.seed((x, 0, COLUMN - 30, 82))
    using = {"model": common.model, "erasure": erasure}
    erased = graph.node("ErasureApply", (x + COLUMN, 0, COLUMN - 30, 186), sockets=using), 0
    using = {"model": erased, "erasure": erasure}
    recovered = graph.node("ErasureRecover", (x + 2 * COLUMN, 0, COLUMN - 30, 142), sockets=using), 0
    models = {"Base": common.model, "Erased": erased, "Recovered with the key": recovered}
    for i, (title, model) in enumerate(models.items()):
        common.pictures(x + i * COLUMN, TOP, title, model, seed)
    graph.group("3. Erase, recover, compare", (900, -80, 3 * COLUMN + 10, 1072))
    return graph.saved()


def erase_with_saved_file(object_info: dict[str, Any]) -> dict[str, Any]:
    """(b) The one-node graph: Apply Erasure between the checkpoint and the sampler."""
    graph = Graph(object_info, (0.8, 115, 145))
    graph.note(
        (0, 0, 400, 230), "Read me",
        "1. **Choose your checkpoint**, and in Load Erasure a file that was made for it.\n"
        "2. Erasures lie in `models/erasures` and `output/erasures`; press R after adding one.\n"
        "3. **Run**: the concept does not appear, everything else looks as before.\n"
        "4. Strength 0 switches it off.",
    )  # fmt: skip
    common = Common(graph)
    load = graph.node("ErasureLoad", (460, 0, 300, 220), file=f"{CONCEPT}.safetensors")
    using = {"model": common.model, "erasure": (load, 0)}
    erased = graph.node("ErasureApply", (460, 270, 300, 186), sockets=using), 0
    graph.group("2. Erase", (440, -80, 340, 556))
    seed = common.seed((820, 0, COLUMN - 30, 82))
    common.pictures(820, TOP, "Erased", erased, seed)
    graph.group("3. Draw", (800, -80, COLUMN + 10, 1072))
    return graph.saved()


def prompt_only(object_info: dict[str, Any]) -> dict[str, Any]:
    """(c) A learned prompt erases alone; no weight changes."""
    graph = Graph(object_info, (0.6, 145, 165))
    graph.note(
        (0, 0, 400, 230), "Read me",
        "1. Here no weight of the model changes: a learned prompt of a few tokens does the erasing.\n"
        "2. **Type the concept** in Train Erasure, and below it what must stay (or nothing: it is found).\n"
        "3. A text gate lets the learned prompt act only on prompts that speak of the concept: all others give the "
        "same picture to the bit.\n"
        "4. **Run**, then try a prompt without the concept.",
    )  # fmt: skip
    common = Common(graph)
    settings = graph.node("ErasureTrainingSettings", (0, 1000, 400, 780), method="prompt only")
    train = graph.node(
        "ErasureLearn", (460, 0, 400, 860),
        sockets={"model": common.model, "clip": common.clip, "vae": common.vae, "settings": (settings, 0)},
        concept=CONCEPT, preserve=preserved(CONCEPT), steps=120,
    )  # fmt: skip
    prefix = f"erasures/{CONCEPT}_prompt"
    graph.node("ErasureSave", (460, 910, 400, 150), sockets={"erasure": (train, 0)}, filename_prefix=prefix)
    graph.group("2. Learn a prompt that erases", (440, -80, 440, 1160))
    using = {"model": common.model, "erasure": (train, 0)}
    erased = graph.node("ErasureApply", (920 + COLUMN, 0, COLUMN - 30, 186), sockets=using), 0
    side_by_side(graph, common, 920, {"Base": common.model, "Erased": erased})
    return graph.saved()


def erase_by_text(object_info: dict[str, Any]) -> dict[str, Any]:
    """(d) Type it and it is gone: Erase Concept between the checkpoint and the sampler."""
    graph = Graph(object_info, (0.7, 125, 165))
    graph.note(
        (0, 0, 400, 230), "Read me",
        "1. **Choose your checkpoint**, and its picture size in Empty Latent Image.\n"
        "2. **Type the concept** in Erase Concept.\n"
        "3. **Run.** No training, no file: one prompt and seed, drawn by the base model and without the concept. The "
        "node says what takes the concept's place, and what it took care to preserve.\n"
        "4. Strength 0 switches it off.",
    )  # fmt: skip
    common = Common(graph)
    using = {"model": common.model, "clip": common.clip}
    erased = graph.node("ErasureText", (460, 0, 400, 420), sockets=using, concept=CONCEPT), 0
    graph.group("2. Erase", (440, -80, 440, 520))
    side_by_side(graph, common, 920, {"Base": common.model, "Erased": erased})
    return graph.saved()


def erase_three_concepts(object_info: dict[str, Any]) -> dict[str, Any]:
    """(e) Several concepts in one solve."""
    graph = Graph(object_info, (0.7, 125, 165))
    graph.note(
        (0, 0, 400, 230), "Read me",
        "1. **Choose your checkpoint**, and its picture size in Empty Latent Image.\n"
        "2. **Type the concepts**, one a line, in Instant Erasure, and below them what must stay (or nothing: the node "
        "then finds a preserve set and says which).\n"
        "3. **Run**: all of them are erased in one solve, and the erasure is saved in `output/erasures`.\n"
        "4. Change the prompt or the seed and run again: nothing is solved anew.",
    )  # fmt: skip
    common = Common(graph)
    using = {"model": common.model, "clip": common.clip}
    kept = "\n".join(text for text in preserved(CONCEPTS[0]).splitlines() if text not in CONCEPTS)
    instant = graph.node(
        "ErasureInstant", (460, 0, 400, 560), sockets=using, concepts="\n".join(CONCEPTS), preserve=kept
    )
    prefix = "erasures/" + "_".join(CONCEPTS)
    graph.node("ErasureSave", (460, 610, 400, 150), sockets={"erasure": (instant, 0)}, filename_prefix=prefix)
    using = {"model": common.model, "erasure": (instant, 0)}
    erased = graph.node("ErasureApply", (460, 810, 400, 186), sockets=using), 0
    graph.group("2. Erase all of them", (440, -80, 440, 1096))
    side_by_side(graph, common, 920, {"Base": common.model, "Erased": erased})
    return graph.saved()


def export_as_lora(object_info: dict[str, Any]) -> dict[str, Any]:
    """(f) An erasure as an ordinary LoRA: the stock loader's picture beside ours, and their difference."""
    graph = Graph(object_info, (0.6, 145, 165))
    graph.note(
        (0, 0, 400, 230), "Read me",
        "1. **Choose your checkpoint**, and type the concept in Instant Erasure.\n"
        f"2. **Run once**: the LoRA is saved as `output/loras/{CONCEPT}_00001.safetensors`. Load LoRA complains while "
        "there is no such file.\n"
        "3. **Press R**, choose that file in Load LoRA and **run again**: its picture, ours, and their difference, "
        "which is black.\n"
        "4. The file needs no pack: ComfyUI loads it like any other LoRA.",
    )  # fmt: skip
    common = Common(graph)
    using = {"model": common.model, "clip": common.clip}
    instant = graph.node(
        "ErasureInstant", (460, 0, 400, 560), sockets=using, concepts=CONCEPT, preserve=preserved(CONCEPT)
    )
    using = {"model": common.model, "erasure": (instant, 0)}
    graph.node("ErasureExportLora", (460, 610, 400, 150), sockets=using, filename_prefix=f"loras/{CONCEPT}")
    graph.group("2. Erase and export", (440, -80, 440, 860))
    erased = graph.node("ErasureApply", (920 + COLUMN, 0, COLUMN - 30, 186), sockets=using), 0
    lora = graph.node(
        "LoraLoaderModelOnly", (920 + 2 * COLUMN, 0, COLUMN - 30, 110), "Load LoRA", {"model": common.model},
        lora_name=f"{CONCEPT}_00001.safetensors", strength_model=1.0,
    )  # fmt: skip
    seen = side_by_side(graph, common, 920, {"Base": common.model, "Erased": erased, "Erased by Load LoRA": (lora, 0)})
    x = 950 + 3 * COLUMN
    both = {"image1": seen["Erased"], "image2": seen["Erased by Load LoRA"]}
    apart = graph.node("ImageBlend", (x, 432, COLUMN - 30, 120), "", both, blend_factor=1.0, blend_mode="difference"), 0
    graph.node("PreviewImage", (x, 602, COLUMN - 30, 290), "Difference", {"images": apart}, BLUE)
    graph.group("4. Their difference", (x - 20, 352, COLUMN + 10, 560))
    return graph.saved()


def measure_an_erasure(object_info: dict[str, Any]) -> dict[str, Any]:
    """(g) Erasure Report and Stress Test on an erased model."""
    graph = Graph(object_info, (0.6, 145, 165))
    graph.note(
        (0, 0, 400, 290), "Read me",
        "1. **Choose your checkpoint**, and set size, steps and cfg in both nodes on the right to what you draw with.\n"
        "2. **Type the concept** in Erase Concept and in Stress Test, and prompts to erase and to keep in "
        "Erasure Report. Any other erasure can take the place of Erase Concept.\n"
        "3. **Run**: the same prompts and noise before and after, and the concept asked for in other ways.\n"
        "4. To have it counted, connect the two halves of one CLIP to *clip_vision* and *judge_clip*: Load CLIP Vision "
        "with CLIP-ViT-bigG-14, and the CLIP of an SDXL checkpoint.",
    )  # fmt: skip
    checkpoint = graph.node("CheckpointLoaderSimple", (0, 420, 400, 98), ckpt_name=CHECKPOINT)
    model, clip, vae = ((checkpoint, slot) for slot in range(3))
    graph.group("1. Model", (-20, 340, 440, 198))
    erase = graph.node("ErasureText", (460, 0, 400, 420), sockets={"model": model, "clip": clip}, concept=CONCEPT)
    graph.group("2. Erase", (440, -80, 440, 520))
    both = {"model_before": model, "model_after": (erase, 0), "clip": clip, "vae": vae}
    drawing: dict[str, Any] = {"pictures": 4, "seed": SEED, "steps": STEPS, "cfg": CFG, "width": SIZE, "height": SIZE}
    kept = [f"a red {name} on a striped background" for name in SHAPES if name != CONCEPT][:3]
    graph.node(
        "ErasureReport", (920, 0, 480, 920), sockets=both, **drawing, erase=f"{PROMPT} | {CONCEPT}",
        keep="\n".join(f"{text} | {text.split()[2]}" for text in kept),
    )  # fmt: skip
    graph.node(
        "ErasureStressTest", (1440, 0, 480, 1420), sockets=both, **{**drawing, "pictures": 2}, concept=CONCEPT,
        other_names=f"a red {SHAPES[CONCEPT]}", among="\n".join(name for name in SHAPES if name != CONCEPT),
    )  # fmt: skip
    graph.group("3. Measure", (900, -80, 1040, 1520))
    return graph.saved()


def side_by_side(graph: Graph, common: Common, x: int, models: dict[str, Socket]) -> dict[str, Socket]:
    """A column for each model, with one seed for all; returns the decoded pictures."""
    seed = common.seed((x, 0, COLUMN - 30, 82))
    places = range(x, x + len(models) * COLUMN, COLUMN)
    found = {
        title: common.pictures(place, TOP, title, model, seed)
        for place, (title, model) in zip(places, models.items(), strict=True)
    }
    graph.group("3. Compare", (x - 20, -80, len(models) * COLUMN + 10, 1072))
    return found


GRAPHS = (
    train_erase_recover, erase_with_saved_file, prompt_only, erase_by_text, erase_three_concepts, export_as_lora,
    measure_an_erasure,
)  # fmt: skip
WORKFLOWS = {f.__name__: f for f in GRAPHS}


def for_the_toy_world(prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt with the picture size of the toy world's model, and its judge where something is measured."""
    for node in prompt.values():
        node["inputs"] |= {name: TOY_SIZE for name in ("width", "height") if name in node["inputs"]}
    measuring = [node for node in prompt.values() if node["class_type"] in ("ErasureReport", "ErasureStressTest")]
    for node in measuring:
        node["inputs"]["judge"] = ["judge", 0]
    judge = {"class_type": "ToyWorldJudge", "inputs": {}, "_meta": {"title": "Judge"}}
    return {**prompt, **({"judge": judge} if measuring else {})}


# ---------------------------------------------------------------- the files


def write(name: str, workflow: dict[str, Any], object_info: dict[str, Any]) -> None:
    """The graph as the editor saves it, and as a prompt for the API."""
    (FOLDER / f"{name}.json").write_text(as_text(workflow), encoding="utf-8")
    API.mkdir(exist_ok=True)
    prompt = client.gui_to_api(workflow, object_info)
    (API / f"{name}.json").write_text(as_text(prompt), encoding="utf-8")


def write_draggable(name: str) -> None:
    """``NAME.png``: the picture of ``NAME.jpg`` with the graph in it, which opens when it is dropped on the editor."""
    workflow = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    text = PngInfo()
    text.add_text("workflow", json.dumps(workflow, separators=(",", ":")))
    DRAGGED.mkdir(exist_ok=True)
    with Image.open(FOLDER / f"{name}.jpg") as picture:
        # Few colours are enough for these pictures, and keep a file at about 100 kB.
        picture.quantize(64).save(DRAGGED / f"{name}.png", pnginfo=text, optimize=True)


# ---------------------------------------------------------------- the pictures


def draw(server: client.Client, make: Callable, name: str) -> None:
    """Runs a workflow for the concept and for kept things, and lays the results out as ``NAME.jpg``."""
    object_info = server.object_info()
    prompt = for_the_toy_world(client.gui_to_api(make(object_info), object_info))
    numbers = {node["_meta"]["title"]: number for number, node in prompt.items()}
    if "Erasure Report" in numbers:
        return draw_report(server, prompt, numbers["Erasure Report"], name)
    if "Export Erasure as LoRA" in numbers:
        export_once(server, prompt, numbers["Export Erasure as LoRA"])
    rows: dict[str, list[bytes]] = {}
    for label, text in PROMPTS.get(name, {CONCEPT: PROMPT, **KEPT_PROMPTS}).items():
        prompt[numbers["Prompt"]]["inputs"]["text"] = text
        found = shown(server, prompt, numbers)
        rows[label] = [picture for pictures in found.values() for picture in pictures[: WIDTH // len(found)]]
    columns = [label for title in found for label in (title, *[""] * (WIDTH // len(found) - 1))]
    cell = min(98, 290 // len(rows))
    picture = sheet.grid(list(rows), columns, list(rows.values()), cell=cell, title=TITLES[name], size=(640, 360))
    picture.save(FOLDER / f"{name}.jpg", quality=90)


def draw_report(server: client.Client, prompt: dict[str, Any], number: str, name: str) -> None:
    """The grid that Erasure Report shows, as ``NAME.jpg``."""
    prompt[number]["inputs"]["pictures"] = 2
    [png] = server.images(server.wait(server.queue(needed(prompt, number))))[number]
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.thumbnail((640, 640))
    picture.save(FOLDER / f"{name}.jpg", quality=90)


def export_once(server: client.Client, prompt: dict[str, Any], exporter: str) -> None:
    """Runs only what the exporting node needs, so that the file is there for the loader."""
    server.wait(server.queue(needed(prompt, exporter)))


def needed(prompt: dict[str, Any], number: str) -> dict[str, Any]:
    """The part of a prompt that one node depends on, with itself."""
    found, open_ = {}, [number]
    while open_:
        key = open_.pop()
        found[key] = prompt[key]
        open_ += [value[0] for value in prompt[key]["inputs"].values() if isinstance(value, list)]
    return found


def shown(server: client.Client, prompt: dict[str, Any], numbers: dict[str, str]) -> dict[str, list[bytes]]:
    """The pictures under each title; a graph without the base model shows it with Apply Erasure at strength 0."""
    titles = [title for title in PICTURES if title in numbers]
    if "Base" in titles:
        images = server.images(server.wait(server.queue(prompt)))
        return {title: images[numbers[title]] for title in titles}
    found = {}
    for strength in (0, 1):
        prompt[numbers["Apply Erasure"]]["inputs"]["strength"] = strength
        images = server.images(server.wait(server.queue(prompt)))
        found[f"Strength {strength}"] = images[numbers["Erased"]]
    return found


PICTURES = ("Base", "Erased", "Recovered with the key", "Erased by Load LoRA")
THREE_PROMPTS = {name: f"a red {name} on a striped background" for name in CONCEPTS}
PROMPTS = {"erase_three_concepts": {**THREE_PROMPTS, "heart": KEPT_PROMPTS["heart"]}}
TITLES = {
    "train_erase_recover": f"Train, erase and recover '{CONCEPT}'",
    "erase_with_saved_file": f"Erase '{CONCEPT}' with a saved file",
    "prompt_only": f"Erase '{CONCEPT}' with a learned prompt alone",
    "erase_by_text": f"Erase '{CONCEPT}' by typing it",
    "erase_three_concepts": "Erase three concepts at once",
    "measure_an_erasure": "Measure an erasure",
    "export_as_lora": f"Erase '{CONCEPT}', export it as a LoRA",
}


def toy_base(base: Path, checkpoint: Path) -> Path:
    """A base directory with the pack, the toy family, its checkpoint and the erasures that ship with it."""
    packs = {"concept-erasure": PACK, "toyworld-family": PACK / "toyworld" / "node"}
    erasures = sorted((PACK / "toyworld" / "erasures").glob("*.safetensors"))
    return server.prepare_base(base, packs, [checkpoint], erasures)


def own_server() -> server.Server:
    return server.Server(host.obtain(), toy_base(PACK / "output" / "workflows", PACK / "toyworld" / CHECKPOINT))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", nargs="*", choices=list(WORKFLOWS), help="also run these (none named: all)")
    parser.add_argument("--address", help="a server with the pack and the toy world that runs already")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        connection = client.Client(options.address or stack.enter_context(own_server()).address)
        object_info = connection.object_info()
        for name, make in WORKFLOWS.items():
            write(name, make(object_info), object_info)
        if options.pictures is not None:
            for name in options.pictures or WORKFLOWS:
                draw(connection, WORKFLOWS[name], name)
    for name in WORKFLOWS:
        write_draggable(name)


if __name__ == "__main__":
    main()
