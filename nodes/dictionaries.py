"""Nodes of concept dictionaries: making one, loading one, and erasing with one."""

import hashlib
import json
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io, ui

from ..erasure import dictionaries, from_dictionary
from ..erasure.artifact import ErasureError
from ..erasure.dictionaries import Plan
from ..erasure.dictionary.autoencoder import Fit
from ..erasure.dictionary.files import load_dictionary, save_dictionary
from ..erasure.dictionary.picking import Picking
from ..erasure.dictionary.store import Recording
from ..erasure.evaluation.grid import grid
from ..erasure.from_dictionary import Drawing, Picked
from ..erasure.host.latents import latent_shape, to_pictures
from ..erasure.host.trajectories import Sampling
from ..erasure.parts.steering import CONDITIONAL, MODES, ROWS, Steering
from ..erasure.texts.names import plain, prompt_lines, short
from ..erasure.training.pictures import picture_size
from . import folders
from .checks import refusal, something_to_erase
from .files import FILE, new_path
from .messages import message_of, open_input_file, stamp
from .progress import Working
from .types import CATEGORY, KEPT, DictionarySocket, ErasureSocket, lenient, show, telling

KIND = "concept_dictionaries"
PREFIX = f"{KIND}/dictionary"
NONE_YET = "no dictionaries yet: make one with Train Concept Dictionary"
"""The only choice while there is no file."""


def register_folders() -> None:
    """Adds ``models/concept_dictionaries`` and ``output/concept_dictionaries`` to the host's folders."""
    folders.register_models(KIND, FILE)


def workshop(facts: object) -> Path:
    """The folder in which a recording lies until its dictionary is saved; the same for the same inputs."""
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return Path(folder_paths.get_user_directory(), "__concept_erasure", "recordings", name)


def sampling_inputs(steps: int) -> list[io.Input]:
    """How pictures are drawn that features are learned or picked by."""
    return [
        io.Int.Input("steps", default=steps, min=1, max=1000, advanced=True, tooltip="Sampling steps of each picture."),
        io.Float.Input("cfg", default=3.0, min=1.0, max=30.0, step=0.1, advanced=True,
                       tooltip="Guidance scale of the pictures."),
        io.Int.Input("width", default=0, min=0, max=8192, step=8, advanced=True,
                     tooltip="Width of the pictures in pixels. 0: what the model was made for."),
        io.Int.Input("height", default=0, min=0, max=8192, step=8, advanced=True,
                     tooltip="Height of the pictures in pixels. 0: what the model was made for."),
    ]  # fmt: skip


def sampling_from(model, steps: int, cfg: float, width: int, height: int) -> Sampling:
    side = picture_size(model)
    return Sampling(steps=steps, cfg=cfg, shape=latent_shape(model, width or side, height or side))


class ErasureTrainDictionary(io.ComfyNode):
    """MODEL + CLIP + prompts -> a concept dictionary, in a file and as an output."""

    @classmethod
    @lenient
    def define_schema(cls):
        return io.Schema(
            node_id="ErasureTrainDictionary",
            display_name="Train Concept Dictionary",
            category=CATEGORY,
            description="Draws prompts, looks at what some blocks of the model give out, and learns a dictionary of "
            "features from it (a sparse autoencoder, SAeUron). Made once for a model, it erases any number of concepts "
            "without further training: see Dictionary Erasure. Saved to output/concept_dictionaries.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["SAeUron", "sparse autoencoder", "SAE", "features", "train", "unlearn", "erase"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to learn the features of. It stays unchanged."),
                io.Clip.Input("clip", tooltip="The CLIP that belongs to the model."),
                io.String.Input(
                    "prompts", default="", multiline=True, placeholder="what to draw, one prompt a line",
                    tooltip="What the model draws, one prompt a line; they take turns. Name all that you may want to "
                    "erase, and much else beside it: features are found for what the pictures show.",
                ),
                io.Int.Input("total_pictures", default=1000, min=1, max=1000000,
                             tooltip="So many pictures are drawn and looked at. More make better features."),
                io.String.Input(
                    "filename_prefix", default=PREFIX,
                    tooltip="Where in the output folder, and how the name begins; a number is added.",
                ),
                io.String.Input(
                    "blocks", default="", multiline=True, advanced=True, placeholder="empty: found for you",
                    tooltip="Blocks whose features are learned, one a line, such as 'output 4' or 'middle'. Empty: the "
                    "one that was published for Stable Diffusion (output 4). More erase better, and a dictionary of "
                    "them is larger. A name that is none has the node say all.",
                ),
                io.Int.Input("active", default=32, min=1, max=1024, advanced=True,
                             tooltip="Features that are active at a time, on average."),
                io.Int.Input("expansion", default=16, min=1, max=128, advanced=True,
                             tooltip="Features for each number that a block gives out at a place: 16 makes 20,480 for "
                             "Stable Diffusion."),
                io.Int.Input("epochs", default=5, min=1, max=1000, advanced=True,
                             tooltip="How often all that was recorded is learned from."),
                io.Float.Input("lr", default=4e-4, min=1e-6, max=1.0, step=1e-6, advanced=True,
                               tooltip="Learning rate."),
                io.Int.Input("vectors", default=1000000, min=1000, max=1000000000, advanced=True,
                             tooltip="So many places of all pictures are recorded for each block, chosen at random. A "
                             "million take 2.6 GB on the disk for Stable Diffusion, until the dictionary is saved."),
                *sampling_inputs(20),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=False,
                             tooltip="Same seed and settings, same dictionary."),
            ],
            outputs=[DictionarySocket.Output(display_name="dictionary", tooltip="For Dictionary Erasure.")],
        )  # fmt: skip

    @classmethod
    @telling
    def execute(
        cls, model, clip, prompts, total_pictures, filename_prefix, blocks, active, expansion, epochs, lr, vectors,
        steps, cfg, width, height, seed,
    ) -> io.NodeOutput:  # fmt: skip
        wanted = tuple(line.strip() for line in blocks.splitlines() if line.strip())
        sampling = sampling_from(model, steps, cfg, width, height)
        fit = Fit(active, lr, epochs=epochs, seed=seed)
        plan = Plan(total_pictures, expansion=expansion, vectors=vectors, blocks=wanted, sampling=sampling, fit=fit)
        path, name = new_path(filename_prefix, FILE, kinds=(KIND,))
        file = name + FILE
        texts, working = prompt_lines(prompts), Working(cls)
        folder = workshop(dictionaries.facts_of(model, texts, plan, wanted))
        try:
            dictionary = dictionaries.train_dictionary(model, clip, texts, plan, folder, working)
        except ErasureError:
            raise
        except BaseException:
            show(cls, "Ended early. Run it again with the same inputs, and it goes on where it stopped.")
            raise
        save_dictionary(dictionary, path + FILE)
        Recording.discard_at(folder)
        return io.NodeOutput(dictionary, ui=show(cls, "\n".join([*dictionary.lines(), f"Saved {file}."])))


class ErasureLoadDictionary(io.ComfyNode):
    """File -> a concept dictionary."""

    @classmethod
    @lenient
    def define_schema(cls):
        return io.Schema(
            node_id="ErasureLoadDictionary",
            display_name="Load Concept Dictionary",
            category=CATEGORY,
            description="Loads a concept dictionary from models/concept_dictionaries or output/concept_dictionaries.",
            hidden=[io.Hidden.unique_id],
            **KEPT,
            search_aliases=["SAeUron", "sparse autoencoder", "SAE", "open dictionary"],
            inputs=[
                io.Combo.Input(
                    "file", options=folders.newest_first(KIND) or [NONE_YET],
                    tooltip="A .safetensors file in models/concept_dictionaries or output/concept_dictionaries; press "
                    "R after putting one there.",
                )
            ],
            outputs=[DictionarySocket.Output(display_name="dictionary", tooltip="For Dictionary Erasure.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, file=None):
        return folders.accepted(cls, missing(file))

    @classmethod
    def fingerprint_inputs(cls, file):
        return stamp(KIND, file)

    @classmethod
    @telling
    def execute(cls, file) -> io.NodeOutput:
        if text := missing(file):
            raise ErasureError(text)
        dictionary = load_dictionary(folder_paths.get_full_path_or_raise(KIND, file))
        about = f"Made on a {dictionary.about.family} model from {dictionary.about.pictures} pictures."
        return io.NodeOutput(dictionary, ui=show(cls, "\n".join([about, *dictionary.lines()])))


def missing(file: str | None) -> str:
    """What to say of a choice that is no file; empty for one that is, or is not known yet."""
    if file == NONE_YET:
        return "There is no concept dictionary yet: make one with Train Concept Dictionary, and choose it."
    text = (
        f"There is no concept dictionary '{file}' in models/concept_dictionaries: make one with Train Concept "
        "Dictionary, or put a file there, and choose it."
    )
    return folders.missing(KIND, file, text)


class ErasureFromDictionary(io.ComfyNode):
    """MODEL + CLIP + a concept dictionary + texts -> ERASURE."""

    @classmethod
    @lenient
    def define_schema(cls):
        return io.Schema(
            node_id="ErasureFromDictionary",
            display_name="Dictionary Erasure",
            category=CATEGORY,
            description="Erases concepts by the features of a concept dictionary that they excite (SAeUron). Nothing "
            "is trained: a few pictures are drawn to find the features. Shows the pictures that excite each of them "
            "most.",
            hidden=[io.Hidden.unique_id],
            **KEPT,
            search_aliases=["SAeUron", "sparse autoencoder", "SAE", "steering", "features", "unlearn", "erase"],
            inputs=[
                io.Model.Input("model", tooltip="The model that the dictionary was made on."),
                io.Clip.Input("clip", tooltip="The CLIP that belongs to the model."),
                DictionarySocket.Input("dictionary",
                                       tooltip="From Train Concept Dictionary or Load Concept Dictionary."),
                io.String.Input(
                    "concept", default="", multiline=True, placeholder="what to erase, one a line, e.g. Van Gogh",
                    tooltip="What to erase, one concept a line or with commas. Several cost a list of features more.",
                ),
                io.String.Input(
                    "preserve", default="", multiline=True,
                    placeholder="what must stay",
                    tooltip="What features are compared with, one a line or with commas: things close to the concept. "
                    "Empty: the prompts that the dictionary was made with and that do not name the concept.",
                ),
                io.Combo.Input(
                    "mode", options=list(MODES), default=MODES[0],
                    tooltip="negative: the concept's features are turned around, as published. replace: they only show "
                    "where the concept is, and that place gets what is beside it; it erases less, and leaves shapeless "
                    "things.",
                ),
                io.Float.Input("multiplier", default=-1.0, min=-100.0, max=0.0, step=0.1,
                               tooltip="How far features are turned around, for 'negative': published are -1 to -30. "
                               "Too much spoils the picture."),
                io.Int.Input("features", default=4, min=1, max=256,
                             tooltip="Features of each concept at most, at each noise level and in each block; those "
                             "that other texts excite half as much are left out."),
                io.Combo.Input("rows", options=list(ROWS), default=CONDITIONAL, advanced=True,
                               tooltip="conditional: the prompt alone is steered, which erases better. both: the "
                               "negative prompt, too, as published."),
                io.Int.Input("pictures_each", default=16, min=2, max=256, advanced=True,
                             tooltip="Pictures drawn for each concept to find its features by; twice as many for all "
                             "else together."),
                *sampling_inputs(10),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=False,
                             tooltip="Same seed and settings, same features."),
                io.Vae.Input("vae", optional=True,
                             tooltip="With it, the node shows the pictures that excite each feature most."),
            ],
            outputs=[
                ErasureSocket.Output(display_name="erasure", tooltip="For Apply Erasure and Save Erasure."),
                io.Image.Output(display_name="sheet",
                                tooltip="A row for each feature: the pictures that excite it most."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, concept=None):
        return refusal(cls, something_to_erase, concept)

    @classmethod
    @telling
    def execute(
        cls, model, clip, dictionary, concept, preserve, mode, multiplier, features, rows, pictures_each, steps, cfg,
        width, height, seed, vae=None,
    ) -> io.NodeOutput:  # fmt: skip
        sampling = sampling_from(model, steps, cfg, width, height)
        how = Picking(features, multiplier, mode, rows)
        erasure, picked = from_dictionary.erase_with_dictionary(
            model, clip, dictionary, concept, preserve, how, Drawing(pictures_each, sampling, seed), Working(cls),
            open_input_file,
        )  # fmt: skip
        features = sum(len(part.features) for part in erasure.parts if isinstance(part, Steering))
        lines = [message_of(erasure), f"{features} features; {erasure.bytes() / 1e3:.0f} kB."]
        text = show(cls, "\n".join(lines)).as_dict()
        sheet = sheet_of(model, vae, picked)
        shown = ui.PreviewImage(sheet, cls=cls).as_dict() if vae is not None else {}
        return io.NodeOutput(erasure, sheet, ui={**shown, **text})


def sheet_of(model, vae, picked: list[Picked]) -> torch.Tensor:
    """The pictures that excite each feature most, a row for each; an empty picture without a VAE."""
    if vae is None:
        return torch.zeros(1, 64, 64, 3)
    out = model.model.latent_format.process_out
    rows = [to_pictures(vae, out(one.latents)) for one in picked]
    columns = [torch.stack(pictures) for pictures in zip(*rows, strict=True)]
    labels = [f"{short(plain(one.concept))}: feature {one.feature}" for one in picked]
    return grid(labels, [str(i + 1) for i in range(len(columns))], columns)


NODES = [ErasureTrainDictionary, ErasureLoadDictionary, ErasureFromDictionary]
