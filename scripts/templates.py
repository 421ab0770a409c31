"""The graphs that the editor offers as templates, each for two worlds: people's checkpoints, and the toy world's.

All of them are laid out for a laptop: the editor shows the whole graph when a template is opened, and draws no text
below a scale of 0.57. ``tests/browser/test_workflows.py`` looks at that on 1280 x 720 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .graph import Graph, Socket
from .template_words import Part, World

STEPS, SEED = 20, 7
GREEN = {"color": "#232", "bgcolor": "#353"}
RED = {"color": "#322", "bgcolor": "#533"}
BLUE = {"color": "#223", "bgcolor": "#335"}
LEFT, MIDDLE, WIDE, COLUMN = 0, 360, 340, 290
"""Where the first two columns of a graph begin, how wide the second is, and how wide a column of pictures."""
PICTURES = MIDDLE + WIDE + 40
"""Where the columns of pictures begin."""
ASIDE = 330
"""How much further right everything is with one more column on the left."""
BELOW = 250
"""Where samplers begin that have another node above them."""
BYPASSED, MUTED = 4, 2

# ---------------------------------------------------------------- the parts that all graphs have


class Page:
    """A graph that is being laid out: what to read first, checkpoint, prompts and size on the left."""

    read_me, checkpoint = (LEFT, 0, 320, 200), (LEFT, 290, 320, 98)
    """Where the note is, and where below it the model is loaded."""
    middle, pictures = MIDDLE, PICTURES

    def __init__(self, object_info: dict[str, Any], world: World, slug: str, text: Sequence[str]) -> None:
        self.graph = Graph(object_info, (0.7, 60, 120))
        self.world, self.words = world, world.words[slug]
        steps = "\n".join(f"{number}. {line}" for number, line in enumerate(text, 1))
        self.graph.note(self.read_me, "Read me", steps)
        self.model, self.clip, self.vae = self._load()
        self.both = {"model": self.model, "clip": self.clip}

    def _load(self) -> Sequence[Socket]:
        """MODEL, CLIP and VAE, of one file."""
        own = Part(self.words.checkpoint.file, self.words.checkpoint.url)
        number = self._loader("CheckpointLoaderSimple", self.checkpoint, "checkpoints", own, "ckpt_name")
        return [(number, slot) for slot in range(3)]

    def _loader(
        self, kind: str, place: tuple[int, int, int, int], folder: str, part: Part, name: str, **values: str
    ) -> int:
        """A node that loads a file, which the editor offers to download if it is not there."""
        widgets: dict[str, Any] = {name: part.file, **values}
        number = self.graph.node(kind, place, **widgets)
        models = [{"name": part.file, "url": part.url, "directory": folder}] if part.url else []
        self.graph.nodes[-1]["properties"] |= {"models": models} if models else {}
        return number

    def prompts(self) -> None:
        """Prompt, negative prompt and picture size, below the checkpoint."""
        graph, made, text = self.graph, self.words.checkpoint, {"clip": self.clip}
        prompt = self.words.prompt
        self.positive = graph.node("CLIPTextEncode", (LEFT, 428, 320, 100), "Prompt", text, GREEN, text=prompt)
        self.negative = graph.node("CLIPTextEncode", (LEFT, 568, 320, 88), "Negative prompt", text, RED, text="")
        size: dict[str, Any] = {"width": made.size, "height": made.size, "batch_size": made.batch}
        self.latent = graph.node("EmptyLatentImage", (LEFT, 696, 320, 106), **size)
        graph.group("1. Model and prompt", (LEFT - 20, 210, 360, 612))

    def seed(self, x: int, y: int, width: int = COLUMN - 20) -> None:
        self.noise = self.graph.node("PrimitiveInt", (x, y, width, 82), "Seed", value=SEED), 0

    def draw(self, column: int, y: int, title: str, model: Socket) -> Socket:
        """A column: sampler, decoder and picture; returns what was decoded."""
        x, graph, width, made = self.pictures + column * COLUMN, self.graph, COLUMN - 20, self.words.checkpoint
        sockets = {"model": model, "positive": (self.positive, 0), "negative": (self.negative, 0)}
        sampler = graph.node(
            "KSampler", (x, y, width, 262), f"Sample: {title[0].lower()}{title[1:]}",
            {**sockets, "latent_image": (self.latent, 0), "seed": self.noise},
            steps=made.steps, cfg=made.cfg, sampler_name=made.sampler, scheduler=made.scheduler,
        )  # fmt: skip
        decode = {"samples": (sampler, 0), "vae": self.vae}
        decoded = graph.node("VAEDecode", (x, y + 302, width, 46), "", decode)
        graph.nodes[-1]["flags"]["collapsed"] = True
        graph.node("PreviewImage", (x, y + 342, width, 280), title, {"images": (decoded, 0)}, BLUE)
        return decoded, 0

    def compare(self, x: int, y: int, one: Socket, other: Socket) -> None:
        """The host's slider, folded: the classic editor shows nothing in it."""
        title = "Slider (Nodes 2.0)"
        self.graph.node("ImageCompare", (x, y, 400, 350), title, {"image_a": one, "image_b": other})
        self.graph.nodes[-1]["flags"]["collapsed"] = True

    def columns(self, models: Mapping[str, Socket], y: int) -> list[Socket]:
        """A column of pictures for each model, with one prompt and seed for all; returns what was decoded."""
        decoded = [self.draw(i, y, title, model) for i, (title, model) in enumerate(models.items())]
        self.graph.group("3. Compare", (self.pictures - 20, -74, len(models) * COLUMN + 20, y + 642 + 74))
        return decoded

    def switch_off(self, mode: int, *numbers: int) -> None:
        """Mutes or bypasses nodes."""
        for number in numbers:
            self.graph.nodes[number - 1]["mode"] = mode


class WidePage(Page):
    """With a column more on the left: the files of a transformer, and beside them what is drawn."""

    read_me, checkpoint = (LEFT, 0, 650, 170), (LEFT, 280, 300, 98)
    middle, pictures = MIDDLE + ASIDE, PICTURES + ASIDE

    def _load(self) -> Sequence[Socket]:
        """MODEL, CLIP and VAE, of a file each; of one where there is one."""
        made = self.words.checkpoint
        if not made.encoder or not made.vae:
            return super()._load()
        own = Part(made.file, made.url)
        model = self._loader("UNETLoader", (LEFT, 280, 300, 82), "diffusion_models", own, "unet_name")
        place = LEFT, 402, 300, 106
        clip = self._loader("CLIPLoader", place, "text_encoders", made.encoder, "clip_name", type=made.kind)
        vae = self._loader("VAELoader", (LEFT, 548, 300, 58), "vae", made.vae, "vae_name")
        return [(model, 0), (clip, 0), (vae, 0)]

    def prompts(self) -> None:
        """Prompt, negative prompt and picture size; no negative prompt where it would do nothing."""
        graph, made, text, x = self.graph, self.words.checkpoint, {"clip": self.clip}, LEFT + ASIDE
        prompt = self.words.prompt
        self.positive = graph.node("CLIPTextEncode", (x, 280, 320, 100), "Prompt", text, GREEN, text=prompt)
        if made.cfg == 1:
            nothing = {"conditioning": (self.positive, 0)}
            self.negative = graph.node("ConditioningZeroOut", (x, 430, 320, 26), sockets=nothing)
        else:
            self.negative = graph.node("CLIPTextEncode", (x, 420, 320, 88), "Negative prompt", text, RED, text="")
        size: dict[str, Any] = {"width": made.size, "height": made.size, "batch_size": made.batch}
        self.latent = graph.node("EmptySD3LatentImage", (x, 548, 320, 106), **size)
        graph.group("1. Model and prompt", (LEFT - 20, 200, 690, 474))


# ---------------------------------------------------------------- the graphs

HOW = (
    "**Choose your checkpoint**, and its picture size in Empty Latent Image.",
    "**Type** what is to go into Erase Concept{arrow}.",
    "**Run.** Left: the model as it is. Right: the same prompt and seed without the concept. The node says what took "
    "its place.",
    "Change the prompt and run again: other things stay as they were.",
)


FILES = (
    "**Choose your model's three files**, or let the editor download them. For a model of another kind, set its "
    "*type*, too."
)
CFG_1 = "At CFG 1 a negative prompt does nothing. Erasing works there: it changes the model itself."


def by_typing(object_info: dict[str, Any], world: World, slug: str) -> dict[str, Any]:
    """Type it and it is gone: Erase Concept between checkpoint and sampler."""
    arrow = "; what stands behind -> is drawn instead" if "->" in world.words[slug].concept else ""
    page = Page(object_info, world, slug, [line.format(arrow=arrow) for line in HOW])
    saved = typed(page)
    return with_app(saved, slug.endswith("_app")) if slug.startswith("erase_by_text") else saved


def by_typing_in_a_transformer(object_info: dict[str, Any], world: World, slug: str) -> dict[str, Any]:
    """The same between the loaders of a model in three files, and the sampler."""
    made = world.words[slug].checkpoint
    which, *how = (line.format(arrow="") for line in HOW)
    lines = [FILES if made.encoder else which, *how, *([CFG_1] if made.cfg == 1 else [])]
    return typed(WidePage(object_info, world, slug, lines))


def typed(page: Page) -> dict[str, Any]:
    """Erase Concept, and a picture before and after it."""
    page.prompts()
    x, concept = page.middle, page.words.concept
    erase = page.graph.node("ErasureText", (x, 0, WIDE, 420), sockets=page.both, concept=concept)
    page.seed(x, 640, WIDE)
    # the node grows by a row and a sentence for each concept
    page.graph.group("2. Erase", (x - 20, -74, WIDE + 40, 674))
    base, erased = page.columns({"Base": page.model, "Erased": (erase, 0)}, 0)
    page.compare(x, 790, base, erased)
    return page.graph.saved()


FIELDS = (
    ("CheckpointLoaderSimple", "ckpt_name", "checkpoint"), ("Prompt", "text", "prompt"),
    ("ErasureText", "concept", "concept"), ("ErasureText", "strength", "strength"),
)  # fmt: skip
"""What an app asks for: a node's title or type, its input, and what that is called there."""


def with_app(saved: dict[str, Any], opens: bool) -> dict[str, Any]:
    """A graph that the editor's App mode shows as fields and pictures; ``opens``: it opens as that."""
    nodes = {node.get("title") or node["type"]: node for node in saved["nodes"]}
    for title, name, label in FIELDS:
        for slot in nodes[title]["inputs"]:
            slot |= {"label": label} if slot["name"] == name != label else {}
    inputs = [[str(nodes[title]["id"]), name] for title, name, _ in FIELDS]
    outputs = [str(nodes[title]["id"]) for title in ("Base", "Erased")]
    saved["extra"] |= {"linearData": {"inputs": inputs, "outputs": outputs}} | ({"linearMode": True} if opens else {})
    return saved


def erase_three_concepts(object_info: dict[str, Any], world: World, slug: str) -> dict[str, Any]:
    """Several concepts in one solve, and a file of them."""
    page = Page(object_info, world, slug, [
        "**Choose your checkpoint**, and its picture size in Empty Latent Image.",
        "**Type the concepts** into Instant Erasure, one a line.",
        "**Run.** All of them are erased at once, and the erasure is saved in `output/erasures`.",
        "Change the prompt and run again: nothing is computed anew.",
    ])  # fmt: skip
    page.prompts()
    instant = instant_erasure(page)
    save_erasure(page, instant)
    page.seed(PICTURES, 0)
    erased = applied(page, 1, (instant, 0))
    base, after = page.columns({"Base": page.model, "Erased": (erased, 0)}, BELOW)
    page.compare(PICTURES, 140, base, after)
    return page.graph.saved()


def instant_erasure(page: Page) -> int:
    number = page.graph.node("ErasureInstant", (MIDDLE, 0, WIDE, 560), sockets=page.both, concepts=page.words.concept)
    page.graph.group("2. Make an erasure", (MIDDLE - 20, -74, WIDE + 40, 860))
    return number


SAVED_AT = (MIDDLE, 650, WIDE, 110)
"""Where and how large Save Erasure is, below the node that makes the erasure."""


def save_erasure(page: Page, erasure: int, place: tuple[int, int, int, int] = SAVED_AT) -> None:
    prefix = f"erasures/{page.words.file}"
    page.graph.node("ErasureSave", place, sockets={"erasure": (erasure, 0)}, filename_prefix=prefix)


def applied(page: Page, column: int, erasure: Socket, model: Socket | None = None, kind: str = "ErasureApply") -> int:
    """A node that puts an erasure on a model, above the column of its pictures."""
    place = (PICTURES + column * COLUMN, 0, COLUMN - 20, 180)
    return page.graph.node(kind, place, sockets={"model": model or page.model, "erasure": erasure})


def erase_with_saved_file(object_info: dict[str, Any], world: World, slug: str) -> dict[str, Any]:
    """Make a file once, and use it."""
    page = Page(object_info, world, slug, [
        "**Choose your checkpoint. Run**: the erasure is saved in `output/erasures`. Both pictures are still alike.",
        "**Switch on** Load Erasure and Apply Erasure: select both and press **Ctrl+B**. Press **R**, and choose the "
        "file.",
        "**Run again.** From now on these two nodes are all you need, in any graph with this checkpoint.",
    ])  # fmt: skip
    page.prompts()
    save_erasure(page, instant_erasure(page))
    load = page.graph.node("ErasureLoad", (PICTURES, 0, COLUMN - 20, 180), file=f"{page.words.file}_00001.safetensors")
    erased = applied(page, 1, (load, 0))
    page.switch_off(BYPASSED, load, erased)
    page.seed(PICTURES + 2 * COLUMN, 0)
    base, after = page.columns({"Base": page.model, "Erased": (erased, 0)}, BELOW)
    page.compare(PICTURES + 2 * COLUMN, 140, base, after)
    return page.graph.saved()


def train_erase_recover(object_info: dict[str, Any], world: World, slug: str) -> dict[str, Any]:
    """Learn, erase and recover, side by side."""
    page = Page(object_info, world, slug, [
        "**Choose your checkpoint**, and its picture size in Empty Latent Image.",
        "**Type the concept** into Train Erasure.",
        "**Run.** It trains once, which takes minutes, and draws one prompt and seed three times: as it was, erased, "
        "and recovered with the key.",
        "Change the prompt and run again: nothing is trained anew. The erasure is saved in `output/erasures`.",
    ])  # fmt: skip
    page.prompts()
    sockets = {**page.both, "vae": page.vae}
    train = page.graph.node("ErasureLearn", (MIDDLE, 0, WIDE, 630), sockets=sockets, concept=page.words.concept)
    page.graph.group("2. Learn to erase", (MIDDLE - 20, -74, WIDE + 40, 924))
    save_erasure(page, train, (MIDDLE, 680, WIDE, 110))
    page.seed(PICTURES, 0)
    erased = applied(page, 1, (train, 0))
    recovered = applied(page, 2, (train, 0), (erased, 0), "ErasureRecover")
    page.graph.nodes[-1]["size"][1] = 130
    models = {"Base": page.model, "Erased": (erased, 0), "Recovered with the key": (recovered, 0)}
    base, after, _ = page.columns(models, BELOW)
    page.compare(PICTURES + 2 * COLUMN, 180, base, after)
    return page.graph.saved()


def export_as_lora(object_info: dict[str, Any], world: World, slug: str) -> dict[str, Any]:
    """An erasure as an ordinary LoRA: the stock loader's picture beside ours."""
    page = Page(object_info, world, slug, [
        "**Choose your checkpoint. Run**: the LoRA is saved in `output/loras`.",
        "**Switch on** Load LoRA: select it and press **Ctrl+B**. Press **R**, and choose the file.",
        "**Run again**: it draws what Apply Erasure draws. The file needs no pack: ComfyUI loads it like any other "
        "LoRA.",
    ])  # fmt: skip
    page.prompts()
    instant = instant_erasure(page)
    using = {"model": page.model, "erasure": (instant, 0)}
    prefix = f"loras/{page.words.file}"
    page.graph.node("ErasureExportLora", (MIDDLE, 610, WIDE, 150), sockets=using, filename_prefix=prefix)
    page.seed(PICTURES, 0)
    erased = applied(page, 1, (instant, 0))
    lora = page.graph.node(
        "LoraLoaderModelOnly", (PICTURES + 2 * COLUMN, 0, COLUMN - 20, 110), "Load LoRA", {"model": page.model},
        lora_name=f"{page.words.file}_00001.safetensors", strength_model=1.0,
    )  # fmt: skip
    page.switch_off(BYPASSED, lora)
    models = {"Base": page.model, "Erased": (erased, 0), "Erased by Load LoRA": (lora, 0)}
    _, ours, stock = page.columns(models, BELOW)
    page.compare(PICTURES, 140, ours, stock)
    return page.graph.saved()


def measure_an_erasure(object_info: dict[str, Any], world: World, slug: str) -> dict[str, Any]:
    """An erasure, its file, Erasure Report with a card of it, and Stress Test on the erased model."""
    page = Page(object_info, world, slug, [
        "**Choose your checkpoint**, and its picture size in Erasure Report.",
        "**Type the concept** into Instant Erasure, and prompts into Erasure Report.",
        "**Run.** Pictures with the same prompts and noise, before and after; the erasure as a file in "
        "`output/erasures`; and a card to send, as a picture and a web page.",
        "Does it come back? Select Stress Test, unfold it, press **Ctrl+M** and run: this takes longer.",
    ])  # fmt: skip
    graph, words, narrow = page.graph, page.words, 250
    graph.group("1. Model", (LEFT - 20, 210, 360, 198))
    instant = graph.node("ErasureInstant", (MIDDLE, 0, WIDE, 860), sockets=page.both, concepts=words.concept)
    using = {"model": page.model, "erasure": (instant, 0)}
    erase = graph.node("ErasureApply", (PICTURES - 20, 0, narrow, 230), sockets=using)
    save_erasure(page, instant, (PICTURES - 20, 290, narrow, 150))
    graph.group("2. Make an erasure", (MIDDLE - 20, -74, WIDE + narrow + 60, 954))
    measured_at = PICTURES + narrow + 20
    size = words.checkpoint.size
    judge = {"judge": (graph.node(world.judge, (LEFT, 450, 320, 46)), 0)} if world.judge else {}
    sockets = {"model_before": page.model, "model_after": (erase, 0), "clip": page.clip, "vae": page.vae, **judge}
    drawing: dict[str, Any] = {"seed": SEED, "steps": STEPS, "cfg": words.checkpoint.cfg, "width": size, "height": size}
    report = graph.node(
        "ErasureReport", (measured_at, 0, 370, 860), sockets=sockets, **drawing, pictures=4,
        erase=f"{words.prompt} | {words.concept}", keep=words.more["keep"],
    )  # fmt: skip
    measured = object_info["ErasureReport"]["output_name"].index("measured")
    graph.node("ErasureCard", (measured_at + 390, 0, narrow, 560), sockets={"measured": (report, measured)})
    stress = graph.node(
        "ErasureStressTest", (measured_at + 390, 640, 440, 1100), sockets=sockets, **drawing, pictures=4,
        concept=words.concept, other_names=words.more["other_names"], among=words.more["among"],
    )  # fmt: skip
    graph.nodes[-1]["flags"]["collapsed"] = True
    page.switch_off(MUTED, stress)
    graph.group("3. Measure", (measured_at - 20, -74, narrow + 430, 954))
    return graph.saved()


@dataclass(frozen=True)
class Template:
    """``title``: the file's name, which is all that the editor's dialog says of it; ``slug``: the name elsewhere."""

    slug: str
    title: str
    graph: Callable[[dict[str, Any], World, str], dict[str, Any]]

    def make(self, object_info: dict[str, Any], world: World) -> dict[str, Any]:
        return self.graph(object_info, world, self.slug)


TEMPLATES = (
    Template("erase_by_text", "1 Erase by typing", by_typing),
    Template("erase_by_text_app", "1 Erase by typing (app)", by_typing),
    Template("erase_by_text_split_loaders", "1 Erase by typing (Z-Image)", by_typing_in_a_transformer),
    Template("erase_by_text_cfg_1", "1 Erase by typing (Z-Image-Turbo)", by_typing_in_a_transformer),
    Template("erase_a_style", "2 An artist's style", by_typing),
    Template("erase_a_character", "3 A character (SDXL)", by_typing),
    Template("erase_nudity", "4 Nudity to clothed person", by_typing),
    Template("erase_three_concepts", "5 Three things at once", erase_three_concepts),
    Template("erase_with_saved_file", "6 A saved file", erase_with_saved_file),
    Template("train_erase_recover", "7 Train with a key", train_erase_recover),
    Template("measure_an_erasure", "8 Measure and make a card", measure_an_erasure),
    Template("export_as_lora", "9 Export as a LoRA", export_as_lora),
)
