"""What the templates are filled in with: for people's checkpoints, and for the toy world's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from toyworld.world import SHAPES

from . import shared

TOY_SIZE = 64


@dataclass(frozen=True)
class Part:
    """A file beside a model's own, and where the editor can download it."""

    file: str
    url: str


@dataclass(frozen=True)
class Checkpoint:
    """A model file, where the editor can download it, and what it draws: pixels of an edge, guidance, how many.

    ``encoder``, ``kind`` and ``vae``: its text encoder, what Load CLIP calls that, and its VAE, where the file has
    neither.
    """

    file: str
    url: str
    size: int
    cfg: float
    batch: int = 4
    steps: int = 20
    sampler: str = "euler"
    scheduler: str = "normal"
    encoder: Part | None = None
    kind: str = ""
    vae: Part | None = None


SD15 = Checkpoint(
    "v1-5-pruned-emaonly-fp16.safetensors",
    "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
    "v1-5-pruned-emaonly-fp16.safetensors?download=true",
    512, 7.0,
)  # fmt: skip
SDXL = Checkpoint(
    "sd_xl_base_1.0.safetensors",
    "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors"
    "?download=true",
    1024, 7.0, 2,
)  # fmt: skip
COMFY_ORG = "https://huggingface.co/Comfy-Org"
TURBO_FILES = f"{COMFY_ORG}/z_image_turbo/resolve/main/split_files"
Z_IMAGE = Checkpoint(
    "z_image_bf16.safetensors",
    f"{COMFY_ORG}/z_image/resolve/main/split_files/diffusion_models/z_image_bf16.safetensors",
    1024, 4.0, 1, 25, "res_multistep", "simple",
    Part("qwen_3_4b.safetensors", f"{TURBO_FILES}/text_encoders/qwen_3_4b.safetensors"), "lumina2",
    Part("ae.safetensors", f"{TURBO_FILES}/vae/ae.safetensors"),
)  # fmt: skip
Z_IMAGE_TURBO = replace(
    Z_IMAGE,
    file="z_image_turbo_bf16.safetensors",
    url=f"{TURBO_FILES}/diffusion_models/z_image_turbo_bf16.safetensors",
    cfg=1.0,
    steps=8,
)
TOY = Checkpoint("toyworld.safetensors", "", TOY_SIZE, 4.5)
TOY_FLUX = Checkpoint("toyworld_flux.safetensors", "", TOY_SIZE, 4.5, scheduler="simple")


@dataclass(frozen=True)
class Words:
    """What a graph is filled in with. ``file``: what its file is called; ``kept``: the prompt of the thumbnail's second
    row; ``more``: further fields, by their name on the node."""

    concept: str
    prompt: str
    checkpoint: Checkpoint = SD15
    file: str = "erasure"
    kept: str = ""
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class World:
    """Where a world's templates lie, and their words, by slug. ``judge``: a node that counts in its pictures."""

    folder: Path
    words: Mapping[str, Words]
    judge: str = ""


DOG = Words("dog", "a photo of a dog on a beach", file="dog")
ONE_DOG = replace(DOG, checkpoint=replace(SD15, batch=1))
VAN_GOGH = Words("Van Gogh -> painting", "a village at night, in the style of Van Gogh", file="van_gogh")
PEOPLE = World(
    shared.PACK / "workflows",
    {
        "erase_by_text": DOG,
        "erase_by_text_app": ONE_DOG,
        "erase_by_text_split_loaders": replace(DOG, checkpoint=Z_IMAGE),
        "erase_by_text_cfg_1": replace(DOG, checkpoint=Z_IMAGE_TURBO),
        "erase_a_style": VAN_GOGH,
        "erase_a_character": Words("Sherlock Holmes -> a man", "Sherlock Holmes in a street in London", SDXL),
        "erase_nudity": Words(
            "nude -> a clothed person\nnaked -> a clothed person\nnudity -> a clothed person",
            "an oil painting of a nude woman in a garden",
        ),
        "erase_three_concepts": Words(
            "dog\numbrella\nbicycle", "a photo of a dog with an umbrella, next to a bicycle", file="three_things"
        ),
        "erase_with_saved_file": VAN_GOGH,
        "train_erase_recover": VAN_GOGH,
        "measure_an_erasure": Words(
            "dog", "a photo of a dog on a beach", file="dog",
            more={
                "keep": "a photo of a cat on a sofa | cat\na photo of a horse in a field | horse\n"
                "a photo of a red car | car",
                "other_names": "a photo of a puppy\na photo of a poodle", "among": "dog\ncat\nhorse\ncar",
            },
        ),
        "export_as_lora": DOG,
    },
)  # fmt: skip
CIRCLE = Words("circle", "a red circle on a striped background", TOY, "circle", "a blue star on a dotted background")
_KEPT = [f"a red {name} on a striped background | {name}" for name in SHAPES if name != "circle"][:3]
TOY_WORLD = World(
    shared.PACK / "toyworld" / "node" / "workflows",
    {
        "erase_by_text": CIRCLE,
        "erase_by_text_app": replace(CIRCLE, checkpoint=replace(TOY, batch=1)),
        "erase_by_text_split_loaders": replace(CIRCLE, checkpoint=TOY_FLUX),
        "erase_by_text_cfg_1": Words(
            "heart", "a purple heart on a checked background", replace(TOY_FLUX, cfg=1.0, steps=8), "heart",
            "a blue star on a dotted background",
        ),
        "erase_a_style": Words(
            "striped -> dotted", "a red circle on a striped background", TOY, "striped",
            "a blue star on a plain background",
        ),
        "erase_a_character": Words(
            "heart -> square", "a purple heart on a checked background", TOY, "heart",
            "a blue star on a dotted background",
        ),
        "erase_nudity": Words(
            "star -> square\nsparkle -> square", "a blue star on a dotted background", TOY, "star",
            "a red circle on a striped background",
        ),
        "erase_three_concepts": Words(
            "circle\nstar\ntriangle", "a red circle on a striped background", TOY, "three_things",
            "a purple heart on a checked background",
        ),
        "erase_with_saved_file": CIRCLE,
        "train_erase_recover": CIRCLE,
        "measure_an_erasure": Words(
            "circle", CIRCLE.prompt, TOY, "circle",
            more={
                "keep": "\n".join(_KEPT), "other_names": f"a red {SHAPES['circle']}", "among": "\n".join(SHAPES),
            },
        ),
        "export_as_lora": CIRCLE,
    },
    judge="ToyWorldJudge",
)  # fmt: skip
WORLDS = (PEOPLE, TOY_WORLD)
