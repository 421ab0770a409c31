"""Models beside each other on the same prompts, noise and sampler: pictures, scores, a table.

The first model is the unedited one, and every other is read against it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean

import folder_paths
import torch

from ..artifact import ErasureError
from ..protocols import Clip, Model, Vae
from ..texts.encoder import Encoder
from ..texts.names import is_form_of, prompt_lines, read_name
from ..version import host_version, pack_version
from .diffusion_judge import DiffusionJudge
from .drawing import Drawing, draw
from .grid import grid, shrunk
from .judges import ClipJudge, Judge, name_of, try_out
from .metrics import Share, cosine, erasing, preserving, psnr
from .subject import Subject
from .wording import NOT_COUNTED, ONE_LABEL, accuracy, sentences

KS = (1, 3, 5)
"""The k of ESR-k and PSR-k, where there are more labels than that."""
HELD = 2**28
"""Bytes of pictures that wait for the judge."""


@dataclass(frozen=True)
class Prompt:
    """A text to draw, what the judge should see in its picture, and whether that is to be erased."""

    text: str
    label: str
    erased: bool


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


LEGEND = (
    "ESR-k: the share of its pictures in which the concept is not among the judge's first k labels; PSR-k: the share "
    "of the others in which what was asked for is. In brackets: the 95 % interval."
)


@dataclass(frozen=True)
class Report:
    """The rows, what they were drawn from, and the pictures of each, [prompts * seeds, h, w, 3], shrunk for the grid.

    ``doubt``: what speaks against relying on the judge; ``judge``: who that is, in words; ``uncounted``: why nothing
    was counted; ``subject``: what was measured.
    """

    rows: Sequence[Row]
    prompts: Sequence[Prompt]
    drawing: Drawing
    pictures: Sequence[torch.Tensor]
    doubt: str = ""
    judge: str = ""
    uncounted: str = ""
    subject: Subject = field(default_factory=Subject)

    def grid(self) -> torch.Tensor:
        """All pictures, [sheets, h, w, 3]."""
        labels = [f"{'erase' if prompt.erased else 'keep'}: {prompt.text}" for prompt in self.prompts]
        return grid(labels, [row.name for row in self.rows], self.pictures)

    def text(self) -> str:
        """In plain words first; then the figures, one model a paragraph, the unedited one last."""
        lines = [line for row in (*self.rows[1:], self.rows[0]) for line in figures(row)]
        legend = [LEGEND] if self.rows[0].esr or self.rows[0].psr else []
        return "\n".join([*self.sentences(), *legend, *lines])

    def sentences(self) -> list[str]:
        """The verdict, who counted, and how like before the kept pictures are."""
        return sentences(self.rows, self.judge, self.doubt, self.uncounted)

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
        judged = {"verdict": self.sentences(), "judge": self.judge, **shares({"accuracy": accuracy(self.rows[0])})}
        made_by = {"pack_version": pack_version(), "host_version": host_version(), "subject": asdict(self.subject)}
        return json.dumps({**judged, "rows": rows, **about, **made_by}, indent=1, ensure_ascii=False)


def shares(found: Mapping) -> dict:
    """Shares as plain values, None where there is none."""
    return {
        name: share and {"value": share.value, "hits": share.hits, "count": share.count, "interval": share.interval}
        for name, share in found.items()
    }


def figures(row: Row) -> list[str]:
    """A model's figures with their intervals, below its name."""
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
        for line in prompt_lines(field_text):
            text, _, label = (part.strip() for part in line.partition("|"))
            found.append(Prompt(text, read_name(label).text or label or text, erased))
    if not found:
        raise ErasureError("There are no prompts: type at least one to erase or to keep, one a line.")
    both = {p.label for p in found if p.erased} & {p.label for p in found if not p.erased}
    if both:
        raise ErasureError(
            f"'{both.pop()}' is to be erased and to be kept: give one of the two another label behind a '|'."
        )
    return found


def labels_of(prompts: Sequence[Prompt], also: Sequence[str] = ()) -> list[str]:
    """Everything that the judge chooses from: what is erased, ``also`` what may take its place, then what is kept."""
    erased = [prompt.label for prompt in prompts if prompt.erased]
    kept = [prompt.label for prompt in prompts if not prompt.erased]
    new = [label for label in also if not any(is_form_of(label, other) for other in (*erased, *kept))]
    return list(dict.fromkeys([*erased, *new, *kept]))


def choices(
    judge: Judge | None, prompts: Sequence[Prompt], targets: Sequence[str]
) -> tuple[Judge | None, list[str], str]:
    """The judge, what it chooses from, and why nothing is counted, if so.

    ``targets``, what erasures aim at, are among the labels of judges that know every label.
    """
    among = labels_of(prompts, targets if isinstance(judge, (ClipJudge, DiffusionJudge)) else ())
    if isinstance(judge, DiffusionJudge) and len(among) < 2:
        return None, among, ONE_LABEL.format(among[0])
    return judge, among, NOT_COUNTED if judge is None else ""


def compare(
    models: Mapping[str, Model],
    clip: Clip,
    vae: Vae,
    prompts: Sequence[Prompt],
    drawing: Drawing,
    judge: Judge | None = None,
    on_picture: Callable[[int, int, torch.Tensor], None] = lambda done, total, picture: None,
    subject: Subject | None = None,
) -> Report:
    """Draws every prompt with every model and scores them; ``on_picture`` gets the pictures of each prompt.

    What the erasures of ``subject`` aim at is among the labels of judges that know every label.
    Memory does not grow with the number of prompts: pictures are scored ``HELD`` bytes at a time and then shrunk to
    what the grid shows, and those that others are measured against wait in the host's temporary folder.
    """
    subject = subject or Subject()
    judge, among, uncounted = choices(judge, prompts, subject.targets)
    doubt = try_out(judge, among, drawing.width, drawing.height)
    encode = Encoder(clip)
    total, pictures, rows = len(models) * len(prompts), [], []
    with Shelf() as shelf:
        for m, (name, model) in enumerate(models.items()):
            scores, drawn = Scores(among, judge), []
            for p, prompt in enumerate(prompts):
                shown = draw(model, vae, encode(prompt.text).cond, encode(drawing.negative).cond, drawing)
                before = None
                if not prompt.erased and m == 0 and len(models) > 1:
                    shelf.put(p, shown)
                elif not prompt.erased and m > 0:
                    before = shelf.get(p)
                scores.add(prompt, shown, before)
                drawn.append(shrunk(shown, total * len(drawing.seeds)))
                on_picture(m * len(prompts) + p + 1, total, shown)
            pictures.append(torch.cat(drawn))
            rows.append(scores.row(name))
    return Report(rows, prompts, drawing, pictures, doubt, name_of(judge), uncounted, subject)


class Shelf:
    """Pictures that wait in files, as they are to the bit; gone with the ``with`` block."""

    def __enter__(self) -> Shelf:
        os.makedirs(folder_paths.get_temp_directory(), exist_ok=True)
        self.folder = tempfile.TemporaryDirectory(dir=folder_paths.get_temp_directory(), prefix="erasure_report_")
        return self

    def __exit__(self, *error: object) -> None:
        self.folder.cleanup()

    def put(self, number: int, pictures: torch.Tensor) -> None:
        """Raises ErasureError when there is no room."""
        try:
            torch.save(pictures, self._file(number))
        except (OSError, RuntimeError) as error:
            raise ErasureError(
                "The pictures to compare with cannot be kept in the temporary folder: make room on its disk, or draw "
                "fewer or smaller pictures."
            ) from error

    def get(self, number: int) -> torch.Tensor:
        """The pictures that were put under a number."""
        return torch.load(self._file(number), weights_only=True)

    def _file(self, number: int) -> Path:
        return Path(self.folder.name, f"{number}.pt")


class Scores:
    """What the pictures of one model show, counted as they come; the judge looks at ``HELD`` bytes at a time, because
    the host may have to make room for it."""

    def __init__(self, among: Sequence[str], judge: Judge | None):
        self.among, self.judge = among, judge
        self.waiting: list[tuple[Prompt, torch.Tensor, torch.Tensor | None]] = []
        self.ranks: dict[bool, list[int]] = {True: [], False: []}
        self.clip_scores: dict[bool, list[float]] = {True: [], False: []}
        self.alike: list[float] = []
        self.apart: list[float] = []

    def add(self, prompt: Prompt, pictures: torch.Tensor, before: torch.Tensor | None) -> None:
        """Takes a prompt's pictures; ``before``: the first model's of the same noise, if they are to be compared."""
        if before is not None:
            self.apart += psnr(pictures, before)
        if self.judge is not None:
            self.waiting.append((prompt, pictures, before))
            if sum(shown.nbytes for _, shown, _ in self.waiting) >= HELD:
                self._look()

    def row(self, name: str) -> Row:
        """All that was counted."""
        self._look()
        found: dict = {}
        if self.judge is not None:
            ks = [k for k in KS if k < len(self.among)]
            gone, kept = self.ranks[True], self.ranks[False]
            found["esr"] = {k: erasing(gone, k) for k in ks if gone}
            found["psr"] = {k: preserving(kept, k) for k in ks if kept}
        parts = {"erased": self.clip_scores[True], "kept": self.clip_scores[False]}
        found["clip_score"] = {part: mean(values) for part, values in parts.items() if values}
        if self.apart:
            found["psnr"] = sorted(self.apart)[len(self.apart) // 2]
            found["identical"] = Share(sum(value == float("inf") for value in self.apart), len(self.apart))
        if self.alike:
            found["clip_i"] = mean(self.alike)
        return Row(name, **found)

    def _look(self) -> None:
        """The judge looks at what waits."""
        if not self.waiting or self.judge is None:
            return
        each = [prompt for prompt, shown, _ in self.waiting for _ in shown]
        pictures = torch.cat([shown for _, shown, _ in self.waiting])
        more = {"texts": [prompt.text for prompt in each]} if isinstance(self.judge, DiffusionJudge) else {}
        ranks = self.judge.ranks(pictures, [prompt.label for prompt in each], self.among, **more)
        for prompt, rank in zip(each, ranks, strict=True):
            self.ranks[prompt.erased].append(rank)
        if isinstance(self.judge, ClipJudge):
            self._look_with_clip(self.judge, each, pictures)
        self.waiting = []

    def _look_with_clip(self, judge: ClipJudge, each: Sequence[Prompt], pictures: torch.Tensor) -> None:
        shown = judge.pictures(pictures)
        values = 100 * cosine(shown, torch.stack([judge.text(prompt.text) for prompt in each]))
        for prompt, value in zip(each, values.tolist(), strict=True):
            self.clip_scores[prompt.erased].append(value)
        compared = [before is not None for _, part, before in self.waiting for _ in part]
        if any(compared):
            before = judge.pictures(torch.cat([before for _, _, before in self.waiting if before is not None]))
            self.alike += cosine(shown[torch.tensor(compared)], before).tolist()
