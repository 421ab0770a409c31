"""What a training has learned so far, as an erasure, and the verdict on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .. import inspection
from ..artifact import Erasure, Metadata, Probe
from ..host.subject import subject
from ..methods import LEARNED
from ..parts.delta import changing
from ..parts.prompt import PromptTensors
from ..request import Request
from ..texts.names import listing
from ..verdict import ARRIVED, Finding, Verdict, predictions
from ..version import host_version, pack_version
from .loop import Progress
from .run import Run


@dataclass
class Learning:
    """A training run that can be asked for its erasure at any time, also after an interrupt."""

    run: Run
    request: Request
    progress: Progress
    steps_before: int
    gate_gap: float | None
    target: str
    probes: tuple[Probe, ...] = ()
    findings: Sequence[Finding] = ()
    unknown: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        """The names of the concept."""
        return self.request.texts

    def erasure(self) -> Erasure:
        """What has been learned so far, without a verdict."""
        s, run = self.run.settings, self.run
        run.keep_up()
        beside = () if run.beside is None else (run.beside.at_rest(),)
        has_prompt = any(isinstance(part, PromptTensors) for part in beside)
        delta = {} if run.result is None else run.result.at_rest()
        losses = self.progress.losses
        return Erasure(
            Metadata(
                method=s.method,
                role=LEARNED[s.method].role,
                concept="\n".join(self.names),
                target=self.target,
                preserve="\n".join(self.request.preserve),
                only_in="\n".join(self.request.contexts),
                blocks=s.blocks if has_prompt else "",
                tokens=str(s.tokens) if has_prompt else "",
                **subject(run.model).stamp(),
                settings=json.dumps(s.as_strings()),
                seed=str(s.seed),
                steps=str(self.steps_before + len(losses)),
                loss=f"first {losses[0]:.4g}, last {losses[-1]:.4g}" if losses else "",
                gate_gap="" if self.gate_gap is None else f"{self.gate_gap:.3f}",
                doubts=Verdict(tuple(self.findings)).as_json(),
                unknown="\n".join(self.unknown),
                notes="\n".join(self.notes()),
                pack_version=pack_version(),
                host_version=host_version(),
            ),
            (*beside, *changing(delta)),
            self.probes,
        )

    def notes(self) -> list[str]:
        """How the names were read."""
        names = listing(self.names)
        return [f"Read {names} of one concept." if len(self.names) > 1 else f"Read {names}.", *self.request.notes]

    def judged(self) -> Erasure:
        """What has been learned so far, with a verdict: how far the model's predictions for the concept have moved."""
        erasure, doubts, moved = self.erasure(), list(self.findings), []
        if not self.unknown:
            shares = inspection.shares(self.run.model, erasure)
            prompted = any(isinstance(part, PromptTensors) for part in erasure.beside)
            sure = prompted or (bool(shares) and min(shares) >= ARRIVED)
            moved = predictions(*self.run.way(), self.names, erasure.targets, sure)
            doubts += [finding for finding in moved if finding.mark != "✓"]
        verdict = Verdict().plus(*moved, *inspection.of_parts(erasure), *doubts)
        metadata = replace(erasure.metadata, verdict=verdict.as_json(), doubts=Verdict(tuple(doubts)).as_json())
        return replace(erasure, metadata=metadata)
