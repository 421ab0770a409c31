"""Methods that the pack does not offer, in the same tables: MACE's joint solve and SPM's gate, as their papers say.

Both are made of the pack's own parts, so that rates, phrases and pictures are those of every other row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from concept_erasure.erasure import instant, learning
from concept_erasure.erasure.artifact import Erasure, Full
from concept_erasure.erasure.choosing import choose_texts
from concept_erasure.erasure.closed_form.joining import filters
from concept_erasure.erasure.closed_form.problem import Scales, together
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.instant import Instant
from concept_erasure.erasure.methods import preset_for
from concept_erasure.erasure.parts.delta import DeltaTensors, add, changing
from concept_erasure.erasure.phrased import phrases
from concept_erasure.erasure.posing import aligned, pose
from concept_erasure.erasure.request import read_request
from concept_erasure.erasure.texts.encoder import Encoder
from concept_erasure.erasure.training.pictures import with_sampling
from concept_erasure.erasure.training.settings import Settings

from .toy import Shot, Toy

RESTEERING = replace(
    preset_for("recommended", "forget-me-not"), weights="keys+values", rank=1, steps=50, down_start="random"
)
"""No layer is to look at the concept's name, by a change of rank one: MACE's second stage, without its masks, which a
segmenter draws."""


@dataclass(frozen=True)
class Mace:
    """MACE (Lu et al., arXiv 2403.06135), in three stages.

    First the words around a name are sent, in closed form, to where they are without it. Then a change of rank one for
    each name takes the attention off it. Last all of them are made one by least squares: on the phrases of each name
    the result is to do what that name's own change does, and on what is preserved what the unedited model does.
    """

    settings: Settings = RESTEERING
    scales: Scales = Scales()

    def erasure(self, world: Toy, concepts: str, kept: str, seed: int) -> Erasure:
        model, how = world.model, Instant(scales=self.scales)
        with torch.inference_mode(False), torch.no_grad():
            encode = Encoder(world.clip)
            request = read_request(model, encode, concepts, kept)
            texts = choose_texts(encode, request, how)
            weights = attach.weights_now(model, subject(model).weights("keys+values"))
            problem = pose(encode, texts, weights, how)
            moved = [around(encode, phrases(texts), *pair) for pair in zip(texts.names, texts.targets, strict=True)]
            around_names = replace(problem, moves=together([(source[1:], goal[1:]) for source, goal in moved]))
            first = instant.solve(around_names, weights, {}, how)
            # for its names, targets and probes; its change of the weights is not used
            result = instant.erase_instantly(model, world.clip, concepts, kept, how)
        edited = attach.erase(model, replace(result, parts=changing(first)))
        settings = replace(with_sampling(self.settings, shape=tuple(world.world.latent)), seed=seed)
        with learning.gradients():
            own = [
                learning.learn(learning.prepare(edited, world.clip, name, kept, settings)).delta for name in texts.names
            ]
        changes = [
            {name: Full(add([(part[name], 1.0) for part in (first, delta) if name in part]).dense()) for name in first}
            for delta in own
        ]
        sources = [source / len(source) ** 0.5 for source, _ in moved]
        held = filters(sources, problem.preserved(self.scales), self.scales.erase)
        parts = [{name: one(change) for name, change in own.items()} for one, own in zip(held, changes, strict=True)]
        return replace(result, parts=DeltaTensors.combined([(DeltaTensors(part), 1.0) for part in parts]))


def around(encode: Encoder, templates: Sequence[str], name: str, target: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodings of phrases from a name's last token on, and of the same phrases with another name: [n, d] each."""
    pairs = [aligned(encode, template, name, target) for template in encode.fitting(templates, name, target)]
    source, goal = (torch.cat([pair[side] for pair in pairs]) for side in (0, 1))
    return source, goal


# ---------------------------------------------------------------- SPM

ADAPTER = replace(preset_for("recommended", "esd"), rank=1, down_start="random", preserve_weight=2.0, in_context=True)
"""ESD's loss with one on what is preserved, by adapters of rank one, as SPM learns them."""


@dataclass(frozen=True)
class Spm:
    """SPM (Lyu et al., arXiv 2312.16145): adapters of rank one, each at a strength that the prompt decides."""

    settings: Settings = ADAPTER

    def erasure(self, world: Toy, concepts: str, kept: str, seed: int) -> Erasure:
        settings = replace(with_sampling(self.settings, shape=tuple(world.world.latent)), seed=seed)
        with learning.gradients():
            return learning.learn(learning.prepare(world.model, world.clip, concepts, kept, settings))


@dataclass(frozen=True)
class Gated:
    """A MODEL whose erasure acts as much as a prompt is like one of the erased names."""

    world: Toy
    erasure: Erasure
    names: Sequence[str]
    strength: float = 1.0

    def acts(self, text: str) -> float:
        """The larger of the cosine of the encodings and the share of a name's tokens that the prompt has, to 0.01."""
        return round(max(likeness(self.world, text, name) for name in self.names), 2)

    def draw(self, wanted: Sequence[Shot], steps: int) -> torch.Tensor:
        """Pictures [n, 3, h, w] in [0, 1]; prompts of one strength together."""
        groups: dict[float, list[int]] = {}
        for i, shot in enumerate(wanted):
            groups.setdefault(self.acts(shot.text), []).append(i)
        drawn: dict[int, torch.Tensor] = {}
        for acts, places in groups.items():
            model = attach.erase(self.world.model, self.erasure, acts * self.strength)
            drawn |= zip(places, self.world.draw(model, [wanted[i] for i in places], steps), strict=True)
        return torch.stack([drawn[i] for i in range(len(wanted))])


def likeness(world: Toy, text: str, name: str) -> float:
    """How like a prompt is to a name, 0 to 1."""
    prompt, own = (world.encode(one)[0][0].flatten() for one in (text, name))
    length = min(len(prompt), len(own))
    cosine = float(torch.cosine_similarity(prompt[:length], own[:length], dim=0))
    said, tokens = (words(world, one) for one in (text, name))
    return max(0.0, cosine, len(said & tokens) / len(tokens))


def words(world: Toy, text: str) -> set[int]:
    """The tokens that say a text: those that the empty prompt does not have."""
    empty, own = (
        {token[0] for chunks in world.clip.tokenize(one).values() for chunk in chunks for token in chunk}
        for one in ("", text)
    )
    return own - empty
