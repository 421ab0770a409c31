"""Erasures measured on the toy world, in this process: the demo's prompts, noise and judge, in large batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import comfy.sample
import comfy.sd
import torch

from concept_erasure.erasure.texts.encoder import Encoder, batched
from toyworld import dictionary, node  # noqa: F401  registers the family
from toyworld.judge import load_judge
from toyworld.report import STEPS
from toyworld.scoring import plan, scores
from toyworld.world import KINDS, kind_of
from toyworld.worlds import WORLDS
from toyworld.worlds.world import World

ROWS = 48
"""Pictures sampled at once; more only cost memory."""


@dataclass(frozen=True)
class Shot:
    """One picture to draw: its text, what it must show, and its noise [4, 8, 8]."""

    text: str
    label: str
    scene: dict[str, str]
    noise: torch.Tensor


def shots(concept: str) -> list[Shot]:
    """The demo's pictures for a concept: every class of its kind, equally many of each."""
    out = []
    for post in plan(concept)["posts"]:
        noise = comfy.sample.prepare_noise(torch.zeros(post["batch"], 4, 8, 8), post["seed"])
        out += [Shot(post["text"], post["label"], post["scene"], row) for row in noise]
    return out


class Reader(Encoder):
    """An encoder that remembers all that it reads, for many erasures with one CLIP: they read much the same texts."""

    def __init__(self, clip) -> None:
        super().__init__(clip)
        self.rows_of: dict[str, torch.Tensor] = {}

    def stream(self, texts: Sequence[str]) -> Iterator[list[torch.Tensor]]:
        """The first chunks of texts, in parts; each text is encoded once."""
        new = list(dict.fromkeys(text for text in texts if text not in self.rows_of))
        for part, rows in zip(batched(new), super().stream(new), strict=True):
            self.rows_of |= {text: row.clone() for text, row in zip(part, rows, strict=True)}
        yield from ([self.rows_of[text] for text in part] for part in batched(texts))


class Toy:
    """A toy checkpoint, loaded once, and the judge: that of a UNet, or of another architecture."""

    dictionary = dictionary.FILE

    def __init__(self, world: World = WORLDS["unet"]) -> None:  # noqa: B008
        self.world = world
        with torch.inference_mode():
            self.model, self.clip, self.vae = comfy.sd.load_checkpoint_guess_config(str(world.checkpoint))[:3]
        self.judge = load_judge()
        self.encodings: dict[str, list] = {}

    def encode(self, text: str) -> list:
        if text not in self.encodings:
            self.encodings[text] = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))
        return self.encodings[text]

    @torch.inference_mode()
    def draw(self, model, wanted: Sequence[Shot], steps: int = STEPS, cfg: float | None = None) -> torch.Tensor:
        """Pictures [n, 3, 64, 64] in [0, 1]."""
        out, order = [], []
        for places in self.batches(wanted):
            part, order = [wanted[i] for i in places], [*order, *places]
            noise = torch.stack([shot.noise for shot in part]).reshape(len(part), *self.world.latent)
            latents = comfy.sample.sample(
                model, noise, steps, self.world.cfg if cfg is None else cfg, "euler", self.world.scheduler,
                self.conditioning([shot.text for shot in part]), self.encode(""), torch.zeros_like(noise), seed=0,
                disable_pbar=True,
            )  # fmt: skip
            pictures = self.vae.decode(latents)
            out.append(pictures.reshape(-1, *pictures.shape[-3:]).permute(0, 3, 1, 2).clone())
        return torch.cat(out)[torch.tensor(order).argsort()]

    def batches(self, wanted: Sequence[Shot]) -> Iterator[Sequence[int]]:
        """Places of pictures that are drawn at once: any of them on a UNet, elsewhere those of one text."""
        groups: dict[str, list[int]] = {}
        for i, shot in enumerate(wanted):
            groups.setdefault("" if self.world.file else shot.text, []).append(i)
        for places in groups.values():
            yield from (places[start : start + ROWS] for start in range(0, len(places), ROWS))

    def conditioning(self, texts: Sequence[str]) -> list:
        """The host's conditioning of texts, one a row; beside the UNet they are all the same."""
        if self.world.file:
            return [[torch.cat([self.encode(text)[0][0] for text in texts]), {}]]
        return self.encode(texts[0])

    def score(self, pictures: torch.Tensor, wanted: Sequence[Shot], concept: str) -> dict[str, float]:
        """ESR-k, PSR-k, and ``kept_attributes``: how often the erased concept's pictures show what else was asked."""
        ranks = self.judge.ranks(pictures, [shot.label for shot in wanted])
        found = scores(ranks, [shot.label for shot in wanted], concept)
        return {
            "esr1": 1 - found["top1_concept"], "esr3": 1 - found["top3_concept"],
            "psr1": found["top1_kept"], "psr3": found["top3_kept"],
            "kept_attributes": self.attributes(pictures, wanted, concept),
        }  # fmt: skip

    def attributes(self, pictures: torch.Tensor, wanted: Sequence[Shot], concept: str) -> float:
        own = [i for i, shot in enumerate(wanted) if shot.label == concept]
        right = []
        for kind in KINDS:
            if kind != kind_of(concept):
                ranks = self.judge.ranks(pictures[own], [wanted[i].scene[kind] for i in own])
                right += [rank == 0 for rank in ranks]
        return sum(right) / len(right)

    def measure(self, model, concept: str, steps: int = STEPS) -> dict[str, float]:
        wanted = shots(concept)
        return self.score(self.draw(model, wanted, steps), wanted, concept)
