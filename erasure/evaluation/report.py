"""Models beside each other on the same prompts, noise and sampler: pictures, scores, a table.

The first model is the unedited one, and every other is read against it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean

import comfy.sample
import torch

from ..artifact import ErasureError
from ..concepts import Encoder
from ..texts.names import lines
from ..version import host_version, pack_version
from .grid import grid
from .judges import ClipJudge, Judge, try_out
from .metrics import Share, cosine, erasing, preserving, psnr

KS = (1, 3, 5)
"""The k of ESR-k and PSR-k, where there are more labels than that."""


@dataclass(frozen=True)
class Prompt:
    """A text to draw, what the judge should see in its picture, and whether that is to be erased."""

    text: str
    label: str
    erased: bool


@dataclass(frozen=True)
class Drawing:
    """How every picture is drawn."""

    seeds: tuple[int, ...]
    steps: int = 20
    cfg: float = 7.0
    sampler: str = "euler"
    scheduler: str = "normal"
    width: int = 512
    height: int = 512
    negative: str = ""


@dataclass(frozen=True)
class Row:
    """What one model did. Without a judge there are no shares; the first model has no likeness to itself.

    ``esr``, ``psr``: by k. ``psnr`` (dB, median) and ``clip_i`` (mean): kept prompts against the first model's pictures
    of the same noise. ``identical``: kept pictures that are the same to the bit. ``clip_score``: mean cosine of picture
    and text, times 100, on erased and on kept prompts.
    """

    name: str
    esr: Mapping[int, Share] = field(default_factory=dict)
    psr: Mapping[int, Share] = field(default_factory=dict)
    clip_score: Mapping[str, float] = field(default_factory=dict)
    clip_i: float | None = None
    psnr: float | None = None
    identical: Share | None = None


@dataclass(frozen=True)
class Report:
    """The rows, what they were drawn from, and the pictures of each, [prompts * seeds, h, w, 3].

    ``doubt``: what speaks against relying on the judge.
    """

    rows: Sequence[Row]
    prompts: Sequence[Prompt]
    drawing: Drawing
    pictures: Sequence[torch.Tensor]
    doubt: str = ""

    def grid(self) -> torch.Tensor:
        """All pictures in one, [1, h, w, 3]."""
        labels = [f"{'erase' if prompt.erased else 'keep'}: {prompt.text}" for prompt in self.prompts]
        return grid(labels, [row.name for row in self.rows], self.pictures)

    def text(self) -> str:
        """The table, one model a paragraph."""
        doubt = [self.doubt] if self.doubt else []
        return "\n".join([*doubt, *(line for row in self.rows for line in _said(row))])

    def json(self) -> str:
        """Everything but the pictures."""
        rows = [
            {
                "name": row.name,
                "esr": shares(row.esr), "psr": shares(row.psr),
                "clip_score": dict(row.clip_score), "clip_i": row.clip_i,
                "psnr": None if row.psnr == float("inf") else row.psnr,
                **shares({"identical": row.identical}),
            }
            for row in self.rows
        ]  # fmt: skip
        about = {"prompts": [asdict(p) for p in self.prompts], "drawing": asdict(self.drawing), "doubt": self.doubt}
        made_by = {"pack_version": pack_version(), "host_version": host_version()}
        return json.dumps({"rows": rows, **about, **made_by}, indent=1)


def shares(found: Mapping) -> dict:
    """Shares as plain values, None where there is none."""
    return {
        name: share and {"value": share.value, "hits": share.hits, "count": share.count, "interval": share.interval}
        for name, share in found.items()
    }


def _said(row: Row) -> list[str]:
    out = [f"ESR-{k} {share}" for k, share in row.esr.items()]
    out += [f"PSR-{k} {share}" for k, share in row.psr.items()]
    out += [f"CLIP score, {part} {value:.1f}" for part, value in row.clip_score.items()]
    if row.clip_i is not None:
        out.append(f"CLIP-I, kept {row.clip_i:.3f}")
    if row.identical is not None:
        out.append(f"PSNR, kept {row.psnr:.1f} dB; {row.identical.hits} of {row.identical.count} the same to the bit")
    return [f"{row.name}:", *(f"  {line}" for line in out)] if out else []


def read_prompts(erase: str, keep: str) -> list[Prompt]:
    """Prompts from two text fields, one a line: ``text`` or ``text | label``. Raises ErasureError without any."""
    found = []
    for field_text, erased in ((erase, True), (keep, False)):
        for line in lines(field_text):
            text, _, label = (part.strip() for part in line.partition("|"))
            found.append(Prompt(text, label or text, erased))
    if not found:
        raise ErasureError("There are no prompts: type at least one to erase or to keep, one a line.")
    both = {p.label for p in found if p.erased} & {p.label for p in found if not p.erased}
    if both:
        raise ErasureError(
            f"'{both.pop()}' is to be erased and to be kept: give one of the two another label behind a '|'."
        )
    return found


def labels_of(prompts: Sequence[Prompt]) -> list[str]:
    """Everything that the judge chooses from."""
    return list(dict.fromkeys(prompt.label for prompt in prompts))


def compare(
    models: Mapping[str, object],
    clip,
    vae,
    prompts: Sequence[Prompt],
    drawing: Drawing,
    judge: Judge | None = None,
    on_picture: Callable[[int, int, torch.Tensor], None] = lambda done, total, picture: None,
) -> Report:
    """Draws every prompt with every model and scores them; ``on_picture`` gets the pictures of each prompt."""
    doubt = try_out(judge, labels_of(prompts), drawing.width, drawing.height)
    encode = Encoder(clip)
    total, pictures = len(models) * len(prompts), []
    for m, model in enumerate(models.values()):
        drawn = []
        for p, prompt in enumerate(prompts):
            drawn.append(draw(model, vae, encode(prompt.text).cond, encode(drawing.negative).cond, drawing))
            on_picture(m * len(prompts) + p + 1, total, drawn[-1])
        pictures.append(torch.cat(drawn))
    rows = [
        score(name, shown, pictures[0] if m else None, prompts, drawing, judge)
        for m, (name, shown) in enumerate(zip(models, pictures, strict=True))
    ]
    return Report(rows, prompts, drawing, pictures, doubt)


def draw(model, vae, positive: list, negative: list, how: Drawing) -> torch.Tensor:
    """Pictures for the host's conditioning, one for each seed, [seeds, h, w, 3]; a seed's noise is the same in every
    batch."""
    latent_format = model.get_model_object("latent_format")
    ratio = getattr(latent_format, "spacial_downscale_ratio", 8)
    empty = torch.zeros(1, latent_format.latent_channels, how.height // ratio, how.width // ratio)
    noise = torch.cat([comfy.sample.prepare_noise(empty, seed) for seed in how.seeds])
    latents = comfy.sample.sample(
        model, noise, how.steps, how.cfg, how.sampler, how.scheduler, positive, negative,
        torch.zeros_like(noise), seed=how.seeds[0], disable_pbar=True,
    )  # fmt: skip
    return vae.decode(latents)[..., :3].float().cpu()


def score(
    name: str,
    pictures: torch.Tensor,
    before: torch.Tensor | None,
    prompts: Sequence[Prompt],
    drawing: Drawing,
    judge: Judge | None,
) -> Row:
    """One model's row; ``before``: the first model's pictures of the same prompts and noise."""
    each = [prompt for prompt in prompts for _ in drawing.seeds]
    gone = [i for i, prompt in enumerate(each) if prompt.erased]
    kept = [i for i, prompt in enumerate(each) if not prompt.erased]
    found: dict = {}
    if judge is not None:
        among = labels_of(prompts)
        ranks = judge.ranks(pictures, [prompt.label for prompt in each], among)
        ks = [k for k in KS if k < len(among)]
        found["esr"] = {k: erasing([ranks[i] for i in gone], k) for k in ks if gone}
        found["psr"] = {k: preserving([ranks[i] for i in kept], k) for k in ks if kept}
    if isinstance(judge, ClipJudge):
        found["clip_score"] = _clip_scores(judge, pictures, each, {"erased": gone, "kept": kept})
    if before is not None and kept:
        found |= _likeness(pictures[kept], before[kept], judge)
    return Row(name, **found)


def _clip_scores(
    judge: ClipJudge, pictures: torch.Tensor, each: Sequence[Prompt], parts: Mapping[str, list[int]]
) -> dict[str, float]:
    texts = torch.stack([judge.text(prompt.text) for prompt in each])
    scores = 100 * cosine(judge.pictures(pictures), texts)
    return {part: float(scores[places].mean()) for part, places in parts.items() if places}


def _likeness(pictures: torch.Tensor, before: torch.Tensor, judge: Judge | None) -> dict:
    apart = psnr(pictures, before)
    same = Share(sum(value == float("inf") for value in apart), len(apart))
    found = {"psnr": sorted(apart)[len(apart) // 2], "identical": same}
    if isinstance(judge, ClipJudge):
        found["clip_i"] = mean(cosine(judge.pictures(pictures), judge.pictures(before)).tolist())
    return found
