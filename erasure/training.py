"""The loop: one optimiser loop for every learned method.

A method is a list of *phases*, each a loss that trains the prompt or the delta; one step runs every phase once. The
frozen teacher is the same network with the delta off, never a second copy.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import comfy.ldm.modules.attention as host_attention
import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import nn
from torch.utils.checkpoint import checkpoint

from . import attach
from .artifact import ErasureError, PromptTensors
from .attention import AttentionMaps
from .choice import Choice, Mixture, Soft
from .concepts import Encoder, Text
from .deltas import Delta, Mask
from .objectives import distance, negative_guidance
from .prompt import ErasurePrompt
from .settings import Settings
from .trajectories import Trajectory, sample_trajectory

log = logging.getLogger("concept_erasure")
NO_GRADIENT = ("modified by an inplace operation", "Inference tensors cannot be saved")
"""What torch says where a patch of the host has no backward pass."""
TRAJECTORIES = 4
"""How many recent trajectories losses draw from."""


@dataclass(frozen=True)
class Phrase:
    """A text with the concept's ``name`` in it, the same without (``neutral``), and with the anchor in its place."""

    text: Text
    neutral: Text
    anchor: Text | None = None
    name: str = ""

    @property
    def replacement(self) -> Text:
        """The same text with what is to take the concept's place: the anchor, or nothing."""
        return self.anchor or self.neutral


@dataclass(frozen=True)
class Batch:
    """Latents z [b, c, h, w] at noise levels sigma [b], and the phrase that each row was drawn for."""

    z: torch.Tensor
    sigma: torch.Tensor
    phrases: list

    @property
    def texts(self) -> list[Text]:
        return [p.text if isinstance(p, Phrase) else p for p in self.phrases]


@dataclass(frozen=True)
class Phase:
    """One kind of update: ``loss(run)`` with gradients for ``trains``: ``prompt``, ``delta`` or a choice's name."""

    name: str
    trains: str
    loss: Callable[[Run], torch.Tensor]


class Method:
    """What a file in ``methods`` provides: an update of the weights alone, where it says nothing else.

    ``role``: of the erasure prompt, or empty without one. ``changes``: what happens to the weights: ``nothing``, they
    are ``added`` to, or some are ``pruned``. ``targets``: whether the concept's target is a learned choice.
    ``settings``: what the recommended preset does differently for this method.
    """

    role: str = ""
    changes: str = "added"
    targets: bool = False
    settings: Mapping[str, Any] = {}

    def phases(self, settings: Settings) -> Sequence[Phase]:
        """What one step does, in order."""
        raise NotImplementedError


class Run:
    """What a method sees while it trains: batches of z_t and predictions of the original and the edited model."""

    def __init__(
        self,
        model,
        encode: Encoder,
        phrases: Sequence[Phrase],
        kept: Sequence[Text],
        prompt: ErasurePrompt | None,
        attached: PromptTensors | None,
        delta: Delta | Mask | None,
        choices: Mapping[str, Choice | Soft],
        settings: Settings,
    ):
        self.model, self.encode, self.settings = model, encode, settings
        self.phrases, self.kept = list(phrases), list(kept)
        self.prompt, self.attached, self.delta, self.choices = prompt, attached, delta, dict(choices)
        self.average = copy.deepcopy(delta) if settings.average > 0 else None
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.device = model.load_device
        self.pool: list[tuple[Trajectory, list]] = []
        self.changes: dict[str, torch.Tensor] = {}
        self._conds: dict[str, dict[str, torch.Tensor]] = {}
        self._load()

    def _load(self) -> None:
        comfy.model_management.load_models_gpu([self.model], force_full_load=True)
        inner = self.model.model
        self.base = {n: _autograd_safe(t) for n, t in [*inner.named_parameters(), *inner.named_buffers()]}
        halves = (inner.manual_cast_dtype or inner.get_dtype()) == torch.float16
        halves &= self.device.type != "mps"  # which has no scaler
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=halves)
        for module in (*self.learned.values(), self.average):
            if module is not None:
                module.to(self.device)

    @property
    def learned(self) -> dict[str, nn.Module]:
        """What phases can train, by name."""
        found = {"prompt": self.prompt, "delta": self.delta, **self.choices}
        return {name: module for name, module in found.items() if module is not None}

    @property
    def result(self) -> Delta | Mask | None:
        """The delta that an erasure takes: the average over steps, where there is one."""
        return self.average or self.delta

    # -- what losses are made of ------------------------------------------------------------------------------------

    def concept_batch(self) -> Batch:
        """Latents drawn for phrases of the concept."""
        return self._draw(lambda row: isinstance(row, Phrase))

    def kept_batch(self) -> Batch:
        """Latents drawn for texts of the preserve set."""
        return self._draw(lambda row: not isinstance(row, Phrase))

    def chosen(self, name: str) -> Mixture:
        """A draw of one of the run's choices."""
        choice = self.choices[name]
        assert isinstance(choice, Choice)
        return choice.draw(self.generator)

    def attention_to_concept(self, batch: Batch) -> list[torch.Tensor]:
        """Attention [heads, queries, tokens of the name] that every layer of the edited model pays to the concept, for
        every row."""
        maps = AttentionMaps()
        self._predict(batch, batch.texts, prompt=False, maps=maps)
        spans = [self._span(phrase) for phrase in batch.phrases]
        return [row[..., span] for layer in maps.maps for row, span in zip(layer, spans, strict=True)]

    def _span(self, phrase: Phrase) -> slice:
        first = self.encode.place(phrase.text.text, phrase.name)
        return slice(first, first + len(self.encode.name_tokens(phrase.name)))

    def original(self, batch: Batch) -> torch.Tensor:
        """Noise that the frozen model predicts for the batch's own texts, [b, c, h, w]; no gradients."""
        return self._originals(batch, batch.texts)[0]

    def edited(self, batch: Batch, prompt: bool) -> torch.Tensor:
        """Noise that the edited model predicts for the batch's own texts, with or without the erasure prompt."""
        return self._predict(batch, batch.texts, prompt)

    def original_and_target(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """What the frozen model predicts for the concept, and where that is moved: away from the concept, or onto
        what takes its place. No gradients."""
        if self.settings.target != "empty prompt":
            original, target = self._originals(batch, batch.texts, [p.anchor for p in batch.phrases])
            return original, target
        original, neutral = self._originals(batch, batch.texts, [p.neutral for p in batch.phrases])
        return original, negative_guidance(neutral, original, self.settings.eta)

    def original_under(
        self, batch: Batch, *texts: Sequence[Text | Mixture | Soft], learning: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """What the frozen model predicts for the same latents under other texts, one a row.

        No gradients, but with ``learning`` those of mixtures.
        """
        return self._originals(batch, *texts, learning=learning)

    def edited_under(self, batch: Batch, texts: Sequence[Text | Mixture | Soft]) -> torch.Tensor:
        """What the edited model, without the prompt, predicts for the same latents under other texts."""
        return self._predict(batch, texts, prompt=False)

    def distance(self, prediction: torch.Tensor, target: torch.Tensor, batch: Batch) -> torch.Tensor:
        return distance(prediction, target, batch.sigma, self.settings.space)

    # -- how they are made ------------------------------------------------------------------------------------------

    def _originals(
        self, batch: Batch, *texts: Sequence[Text | Mixture | Soft], learning: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """The frozen model's predictions for the same latents under several texts, in one call of the network."""
        wide = Batch(batch.z.repeat(len(texts), 1, 1, 1), batch.sigma.repeat(len(texts)), [])
        rows = [text for some in texts for text in some]
        # not checkpointed: backward would run the layers again with the edited weights, outside of these
        with torch.set_grad_enabled(learning and torch.is_grad_enabled()):
            return self._with_weights(
                self.base, lambda: self._predict(wide, rows, prompt=False, checkpointed=False)
            ).chunk(len(texts))

    def _draw(self, wanted: Callable) -> Batch:
        """Rows of the pooled trajectories that were sampled for wanted texts."""
        places = [(t, r) for t, (_, rows) in enumerate(self.pool) for r, row in enumerate(rows) if wanted(row)]
        z, sigma, phrases = [], [], []
        for i in torch.randint(len(places), (self.settings.batch,), generator=self.generator).tolist():
            trajectory, rows = self.pool[places[i][0]]
            step = int(torch.randint(len(trajectory.sigmas), (1,), generator=self.generator))
            z.append(trajectory.latents[step, places[i][1]])
            sigma.append(trajectory.sigmas[step])
            phrases.append(rows[places[i][1]])
        return Batch(torch.stack(z), torch.stack(sigma).to(z[0].device), phrases)

    def sample(self) -> None:
        """Adds one trajectory, drawn without the prompt, to the pool; the oldest one leaves."""
        runs = max(4, self.settings.batch)
        rows: list = [self._pick(self.phrases) for _ in range(runs)]
        if self.settings.preserve_weight > 0:
            rows += [self._pick(self.kept) for _ in range(runs)]
        texts = [self._drawn_for(row) for row in rows]
        positive, negative = _rows_as_conditioning(texts), self.encode("").cond
        with torch.no_grad():
            drawn_by = {"original": None, "edited": self.delta, "average": self.average or self.delta}
            weights = self._weights(drawn_by[self.settings.drawn_by])
            trajectory = self._with_weights(
                weights,
                lambda: sample_trajectory(
                    self.model, positive, negative, self.settings.sampling, len(rows), self.generator
                ),
            )
        self.pool = [*self.pool, (trajectory, rows)][-TRAJECTORIES:]

    def _drawn_for(self, row: Phrase | Text) -> Text:
        if not isinstance(row, Phrase):
            return row
        return row.text if self.settings.drawn_for == "concept" else row.replacement

    def follow(self) -> None:
        """Moves the averaged delta a little towards the one that learns."""
        if self.average is not None and self.delta is not None:
            with torch.no_grad():
                for slow, fast in zip(self.average.parameters(), self.delta.parameters(), strict=True):
                    slow.lerp_(fast, 1 - self.settings.average)

    def show(self, preview: Callable, edited: bool) -> None:
        """Draws the concept, always from the same noise; learning sees nothing of it."""
        model = self.model
        if edited and self.prompt is not None and self.attached is not None and self.attached.role == "eraser":
            model = attach.with_prompt(model, self.prompt.at_rest_like(self.attached))
        generator = torch.Generator().manual_seed(self.settings.seed)
        positive, negative = self.phrases[0].text.cond, self.encode("").cond
        with torch.no_grad():
            self._with_weights(
                self._weights(self.result if edited else None),
                lambda: sample_trajectory(model, positive, negative, self.settings.sampling, 1, generator, preview),
            )

    def _pick(self, things: Sequence):
        return things[int(torch.randint(len(things), (1,), generator=self.generator))]

    def _weights(self, delta: Delta | Mask | None) -> dict[str, torch.Tensor]:
        """The host's weights with a delta, as it stands, added."""
        if delta is None:
            return self.base
        changes = delta.changes()
        return self.base | {n: (self.base[n].float() + c).to(self.base[n].dtype) for n, c in changes.items()}

    def learn(self, phase: Phase) -> float:
        """One loss of one phase, and its gradients, times the scale of ``scaler``; returns the loss."""

        def forward_and_backward() -> float:
            loss = phase.loss(self)
            if torch.isfinite(loss) and loss.requires_grad:  # it does not while the gate is closed for every row
                # inside the scope, because checkpointed layers are run once more here
                self.scaler.scale(loss).backward()
            return float(loss.detach())

        with torch.set_grad_enabled(phase.trains == "delta"):
            weights = self._weights(self.delta)
        try:
            return self._with_weights(weights, forward_and_backward)
        except RuntimeError as error:
            if not any(words in str(error) for words in NO_GRADIENT):
                raise
            raise ErasureError(
                "A node in front of this one patches the model in a way that cannot be learned through (FreeU V2, Load "
                "Hypernetwork, …): connect the model that comes before it."
            ) from error

    def step(self, optimiser: torch.optim.Optimizer) -> None:
        """Takes the step, unless there are no gradients, or half precision made some of them infinite."""
        if any(p.grad is not None for group in optimiser.param_groups for p in group["params"]):
            self.scaler.step(optimiser)
            self.scaler.update()

    def _with_weights(self, weights: dict[str, torch.Tensor], function: Callable):
        """Calls ``function`` while the host's module computes with these tensors instead of its own."""
        scope = _Scope(self.model.model)
        return torch.func.functional_call(scope, {f"model.{n}": w for n, w in weights.items()}, (function,))

    def _predict(
        self, batch: Batch, texts: Sequence[Text | Mixture | Soft], prompt: bool, maps: AttentionMaps | None = None,
        checkpointed: bool = True,
    ) -> torch.Tensor:  # fmt: skip
        conds = [self._cond(text) for text in texts]
        joined = {name: torch.cat(as_long([c[name] for c in conds])) for name in conds[0]}
        options = self._options(batch, checkpointed and self.settings.checkpointing)
        if maps is not None:
            attach.add_patch(options, maps.patch)
            options["optimized_attention_override"] = lambda _, *a, **o: maps.attention(
                host_attention.attention_pytorch, *a, **o
            )
        if prompt and self.prompt is not None and self.attached is not None:
            attach.erase_prompt_live(options, self.attached, self.prompt.keys, self.prompt.values)
        denoised = self.model.model.apply_model(batch.z, batch.sigma, transformer_options=options, **joined)
        return (batch.z - denoised) / batch.sigma.view(-1, 1, 1, 1)

    def _options(self, batch: Batch, checkpointed: bool) -> dict:
        """Transformer options as the host would build them, with the MODEL's own patches in front of ours."""
        options = comfy.model_patcher.create_model_options_clone(self.model.model_options)["transformer_options"]
        for attachment in attach.attachments(self.model):
            attach.add_patch(options, attachment.patch(self.model.get_model_object("model_sampling")))
        options |= {"sigmas": batch.sigma, "cond_or_uncond": [0], "uuids": [], "sample_sigmas": batch.sigma}
        options["optimized_attention_override"] = _differentiable_attention
        if checkpointed and torch.is_grad_enabled():
            options["patches"] = {**options.get("patches", {}), "forward_timestep_embed_patch": _CHECKPOINTED}
        return options

    def _cond(self, text: Text | Mixture | Soft) -> dict[str, torch.Tensor]:
        """What the host feeds its network for a text, one row of each: cross-attention context, pooled text, …"""
        if isinstance(text, Mixture):
            parts = [self._cond(part) for part in text.texts]
            weights = text.weights.to(self.device)
            alike = {name: as_long([part[name] for part in parts]) for name in parts[0]}
            return {name: sum(w * row for w, row in zip(weights, alike[name], strict=True)) for name in alike}
        if isinstance(text, Soft):
            found = self._cond(text.text)
            return found | {"c_crossattn": text.within(found["c_crossattn"])}
        if text.text not in self._conds:
            noise = torch.zeros(1, *self.settings.sampling.shape, device=self.device)
            conds = comfy.sampler_helpers.convert_cond(text.cond)
            conds = comfy.samplers.encode_model_conds(
                self.model.model.extra_conds, conds, noise, self.device, "positive", latent_image=noise
            )
            entries = conds[0]["model_conds"].items()
            rows = {name: entry.process_cond(batch_size=1, area=None).cond for name, entry in entries}
            self._conds[text.text] = {n: r.to(self.device) for n, r in rows.items() if isinstance(r, torch.Tensor)}
        return self._conds[text.text]


class _Scope(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, function: Callable):
        return function()


def _autograd_safe(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as a tensor that autograd accepts; those made in inference mode are refused by it."""
    if not tensor.is_inference():
        return tensor.detach()
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


def _differentiable_attention(_, *arguments, **options):
    """Pins the one attention of the host that is sure to have a backward pass."""
    return host_attention.attention_pytorch(*arguments, **options)


def _checkpoint_transformer(layer, x, emb, context, options, *rest):
    now = dict(options)  # the host changes them as it goes, and the second run, in backward, must see these
    return checkpoint(lambda h: layer(h, context, dict(now)), x, use_reentrant=False)


def _checkpoint_residual(layer, x, emb, context, options, *rest):
    return checkpoint(layer, x, emb, use_reentrant=False)


_CHECKPOINTED = [(SpatialTransformer, _checkpoint_transformer), (ResBlock, _checkpoint_residual)]


def _rows_as_conditioning(texts: Sequence[Text]) -> list:
    """One conditioning entry of the host whose batch rows are different texts."""
    extra = dict(texts[0].cond[0][1])
    for name, value in extra.items():
        if isinstance(value, torch.Tensor):
            extra[name] = torch.cat(as_long([t.cond[0][1][name] for t in texts]))
    return [[torch.cat(as_long([t.cond[0][0] for t in texts])), extra]]


def as_long(rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Contexts [1, n, d] repeated until all have the same n, as the host does: all keys alike are only said again.

    What has no such axis (pooled text, sizes) comes back as it is.
    """
    if rows[0].ndim != 3:
        return list(rows)
    longest = math.lcm(*(row.shape[1] for row in rows))
    return [row.repeat(1, longest // row.shape[1], 1) for row in rows]


@dataclass
class Progress:
    """How training went: one loss a step, and why it stopped early, if it did."""

    losses: list[float] = field(default_factory=list)
    stopped: str = ""


def begun(phases: Sequence[Phase], step: int, settings: Settings) -> Sequence[Phase]:
    """The phases that a step does: those of the prompt alone at first, where the settings ask for it."""
    if step >= settings.prompt_first * settings.steps:
        return phases
    return [phase for phase in phases if phase.trains == "prompt"] or phases


class Preview(Protocol):
    """Who wants to see the concept: the host's sampler callbacks (step, x0, x, total) of runs that draw it."""

    def before(self, step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None: ...

    def after(self, step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None: ...


def train(
    run: Run,
    phases: Sequence[Phase],
    progress: Progress,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    preview: Preview | None = None,
) -> None:
    """Trains the run's prompt and delta in place for ``run.settings.steps`` steps, one of every phase a step.

    A loss that is not finite ends it with the last good state restored and ``progress.stopped`` saying so; before
    any good state there is ErasureError. Interrupts of the host pass through, with everything learned so far in place.
    """
    s = run.settings
    optimisers = {name: torch.optim.Adam(_groups(module, name, s)) for name, module in run.learned.items()}
    full = {name: [group["lr"] for group in o.param_groups] for name, o in optimisers.items()}
    good = _state(run)
    if preview is not None:
        run.show(preview.before, edited=False)
    for step in range(s.steps):
        comfy.model_management.throw_exception_if_processing_interrupted()
        if step % s.refresh == 0:
            run.sample()
            if preview is not None:
                run.show(preview.after, edited=True)
        for name, optimiser in optimisers.items():
            for group, rate in zip(optimiser.param_groups, full[name], strict=True):
                group["lr"] = rate * share_of_rate(step, s.steps, s.lr_decay)
        losses: list[float] = []
        now = _state(run) if step % 20 == 0 else None
        for phase in begun(phases, step, s):
            optimisers[phase.trains].zero_grad()
            losses.append(run.learn(phase))
            if not _finite(losses[-1]):
                return _stop(run, progress, good, step)
            run.step(optimisers[phase.trains])
        run.follow()
        progress.losses.append(sum(losses))
        good = now or good  # only now is it known that losses can be computed from it
        on_step(step + 1, progress.losses[-1])


def _groups(module: nn.Module, name: str, settings: Settings) -> list[dict]:
    if isinstance(module, Delta | Mask):
        return module.groups(settings.weight_lr, settings.width)
    rate = settings.prompt_lr if name == "prompt" else settings.choice_lr
    return [{"params": list(module.parameters()), "lr": rate}]


def share_of_rate(step: int, steps: int, decay: float) -> float:
    """What is left of the learning rate at a step: 1, and over the last ``decay`` share of the steps a line to 0."""
    return min(1.0, (1 - step / steps) / decay) if decay > 0 else 1.0


def _finite(loss: float) -> bool:
    return loss == loss and abs(loss) != float("inf")


def _state(run: Run) -> dict[str, torch.Tensor]:
    modules = run.learned | ({} if run.average is None else {"average": run.average})
    return {f"{m}.{k}": v.detach().clone() for m, module in modules.items() for k, v in module.state_dict().items()}


def _stop(run: Run, progress: Progress, good: dict[str, torch.Tensor], step: int) -> None:
    advice = "lower the learning rates, or load the checkpoint in fp32 or bf16"
    if not progress.losses:
        raise ErasureError(f"The loss is not a number from the first step on, so nothing was learned: {advice}.")
    for name, module in {**run.learned, "average": run.average}.items():
        if module is not None:
            module.load_state_dict({k.removeprefix(f"{name}."): v for k, v in good.items() if k.startswith(f"{name}.")})
    progress.stopped = f"The loss stopped being a number at step {step + 1}; the last good state was kept: {advice}."
    log.warning(progress.stopped)
