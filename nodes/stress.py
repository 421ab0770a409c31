"""The node that asks an erased model for its concept in ways that it was not erased by."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from comfy_api.latest import io
from safetensors.torch import save_file

from ..erasure.artifact import ErasureError
from ..erasure.evaluation.attacks import ATTACKS, USUAL, Budget, Concept, Search
from ..erasure.evaluation.diffusion_judge import DiffusionJudge
from ..erasure.evaluation.stress import Moment, check_names, stress
from ..erasure.request import check_reads
from ..erasure.texts.names import prompt_lines, read_field
from .checks import refusal
from .files import new_path
from .messages import open_input_file
from .progress import Working
from .report import (
    OUTPUTS,
    before_and_after_inputs,
    count_input,
    drawing_from,
    drawing_inputs,
    finished,
    judge_from,
    judge_inputs,
    prefix_from,
)
from .types import CATEGORY, lenient, telling


class ErasureStressTest(io.ComfyNode):
    """MODEL before + MODEL after + concept -> how often attacks bring the concept back."""

    @classmethod
    @lenient
    def define_schema(cls):
        return io.Schema(
            node_id="ErasureStressTest",
            display_name="Stress Test",
            category=CATEGORY,
            description="Asks the erased model for the concept in ways that it was not erased by: other names, its "
            "direction in the text encoder, searched tokens, a learned prompt, a few steps of retraining. Counts how "
            "often it comes back, beside the unedited model, and shows a traffic light for each.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["attack", "red team", "robustness", "Ring-A-Bell", "UnlearnDiffAtk", "adversarial prompt"],
            is_output_node=True,
            inputs=[
                *before_and_after_inputs(),
                io.String.Input(
                    "concept", default="", multiline=True, placeholder="what was erased, e.g. Van Gogh",
                    tooltip="The names that were erased, one a line; the judge looks for the first.",
                ),
                io.String.Input(
                    "other_names", default="", multiline=True, placeholder="its other names, one a line",
                    tooltip="Prompts that ask for the concept in other words: synonyms, descriptions, other languages, "
                    "one a line.",
                ),
                io.String.Input(
                    "among", default="", multiline=True, placeholder="what a picture could show instead, one a line",
                    tooltip="For the judge: what else a picture can show, one label a line. Things like the concept "
                    "make it strict.",
                ),
                *drawing_inputs("erasures/stress", pictures=4),  # fewer can prove nothing
                *(io.Boolean.Input(_socket(name), default=True, advanced=True, tooltip=_told(name))
                  for name in USUAL if name not in LATER),
                io.Float.Input("strength", default=3.0, min=0.1, max=10.0, step=0.1, advanced=True,
                               tooltip="The largest multiple of the concept's direction that is added to texts; a "
                               "third and two thirds of it are tried, too."),
                io.Int.Input("search_tokens", default=8, min=1, max=64, advanced=True,
                             tooltip="Tokens of the searched prompt."),
                io.Int.Input("search_tried", default=2000, min=64, max=100000, advanced=True,
                             tooltip="So many of the text encoder's tokens are tried one by one; 50000 is all."),
                io.Int.Input("search_generations", default=25, min=0, max=10000, advanced=True,
                             tooltip="Rounds of combining the best ones, 40 texts each."),
                io.Int.Input("learned_tokens", default=8, min=1, max=64, advanced=True,
                             tooltip="Tokens of the learned prompt."),
                io.Int.Input("learned_steps", default=60, min=1, max=100000, advanced=True,
                             tooltip="Steps of learning it, batch 8."),
                io.Int.Input("relearning_steps", default=10, min=1, max=100000, advanced=True,
                             tooltip="Steps of retraining the model's keys and values, batch 8."),
                *judge_inputs(),
                *(io.Boolean.Input(_socket(name), default=True, advanced=True, tooltip=_told(name))
                  for name in LATER),
                count_input(),
                *(io.Boolean.Input(_socket(name), default=False, advanced=True, tooltip=_told(name))
                  for name in ATTACKS if name not in (*USUAL, *LAST)),
                io.Boolean.Input("controls", default=False, advanced=True,
                                 tooltip="Run attacks that learn on a model that can read no text as well, which takes "
                                 "twice as long: what comes back there says nothing about the erasure."),
                io.Boolean.Input("save_embedding", default=False, advanced=True,
                                 tooltip="Save the word of the attack 'learned embedding' as an embedding file, beside "
                                 "the scores."),
                *(io.Boolean.Input(_socket(name), default=False, advanced=True, tooltip=_told(name))
                  for name in LAST),
            ],
            outputs=OUTPUTS,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, concept=None):
        return refusal(cls, lambda text: check_names(labels_in(text)), concept)

    @classmethod
    @telling
    def execute(cls, model_before, model_after, clip, vae, concept, other_names, among, **how) -> io.NodeOutput:
        tests = [name for name in ATTACKS if how.pop(_socket(name), True)]
        if not tests:
            raise ErasureError("No attack is chosen: switch at least one on.")
        check_reads(clip, model_before, model_after)
        budget = budget_from(how)
        saves = how.pop("save_embedding")
        judge = judge_from(how, lambda: DiffusionJudge(model_before, clip, vae))
        prefix, drawing = prefix_from(how), drawing_from(how)
        aim = Concept(labels_in(concept), prompt_lines(other_names), labels_in(among))
        working = Working(cls)

        def on_moment(now: Moment) -> None:
            text = f"Attack {now.number} of {now.of}: {now.attack.title}. {now.attack.deed}"
            working(text, now.done, now.total, now.pictures)

        result = stress(model_before, model_after, clip, vae, aim, drawing, tests, budget, judge, on_moment)
        notes = [save_embedding(trial.vectors, prefix) for trial in result.trials if saves and trial.vectors]
        return finished(cls, replace(result, notes=notes), prefix, working.bar)


def save_embedding(vectors: Mapping[str, torch.Tensor], prefix: str) -> str:
    """Writes a learned word under the next free number of a prefix; returns where it is, in a sentence."""
    path, name = (place + ".safetensors" for place in new_path(f"{prefix}_embedding", ".safetensors"))
    try:
        save_file(dict(vectors), path)
    except OSError as error:
        raise ErasureError(
            f"The embedding cannot be saved to {name} ({error.strerror}): choose another filename_prefix."
        ) from error
    return f"The learned embedding is in {name}: to use it, move it to models/embeddings."


def labels_in(text: str) -> list[str]:
    return read_field(text, open_input_file).texts


def budget_from(how: dict) -> Budget:
    """What attacks may spend by a node's inputs, which are taken out; the seed stays."""
    top = how.pop("strength")
    search = Search(
        tokens=how.pop("search_tokens"), tried=how.pop("search_tried"), generations=how.pop("search_generations"),
        seed=how["seed"],
    )  # fmt: skip
    strengths = [top / 3, top * 2 / 3, top]
    tokens, steps, again = (how.pop(name) for name in ("learned_tokens", "learned_steps", "relearning_steps"))
    return Budget(strengths, search, tokens, steps, again, controls=how.pop("controls"))


LATER, LAST = ("behind tags",), ("inversion",)
"""Attacks whose inputs came after others: their places are behind what was there then."""


def _told(attack: str) -> str:
    return f"Run the attack '{attack}'. {ATTACKS[attack].deed}"


def _socket(attack: str) -> str:
    return "run_" + attack.replace(" ", "_")


NODES = [ErasureStressTest]
