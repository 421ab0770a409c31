"""Trains the UNet and its text encoder together on latents and captions, and writes the checkpoint.

The objective is that of a v-prediction model: at a noise level sigma, x = clean + sigma * noise,

    v = (noise - sigma * clean) / sqrt(sigma^2 + 1),   loss = mean (v_predicted - v)^2.

Beside it heads read from each caption's end token what it says, which a real text encoder has learned before.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import comfy.ops
import torch
import torch.nn.functional as F
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_sampling import ModelSamplingDiscrete
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from toyworld.node.families.drawn import NETWORK, TEXT_CONFIG
from toyworld.train import DEVICE, differentiable_attention, half_precision, save_half, sd1_state

from . import spoken, vae
from .fetch import HERE, WORK
from .keeping import Recorded, State, adamw, record
from .spoken import END, START, Vocabulary

SEED = 20630
STEPS, BATCH, RATE = 40_000, 256, 8e-4
WARM, COOLING = 500, 0.25
"""Steps until the learning rate is full, and the last share of all steps in which it falls."""
SPOKEN = 0.05
"""Weight of the loss of what the text encoder names."""
AVERAGE_EVERY, DECAY = 10, 0.995
"""Steps between two updates of the moving average, and how much of it each keeps."""
WATCH_EVERY = 10_000
WARM_UP, TIMED, IN_STEPS = 20, 200, 0.93
"""Steps that are not timed, steps that are, and the share of the time that goes into steps and not into looks."""
CHECKPOINT = HERE / "drawnworld.safetensors"
PREVIEW = WORK / "drawnworld.safetensors"


def text_model(vocabulary: Vocabulary) -> CLIPTextModel:
    """A trainable CLIP text model: the host's own adds in place and cannot be trained through."""
    config = {**TEXT_CONFIG, "vocab_size": len(vocabulary.used), "attn_implementation": "sdpa"}
    config |= {"bos_token_id": vocabulary.compact[START], "eos_token_id": vocabulary.compact[END]}
    return CLIPTextModel(CLIPTextConfig(**config, pad_token_id=vocabulary.compact[END]))


def unet_model() -> UNetModel:
    """The host's UNet with ordinary initial weights (the host's layers skip theirs) and silent last layers."""
    net = UNetModel(**NETWORK, operations=comfy.ops.disable_weight_init)
    for module in net.modules():
        for layer in (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm):
            if isinstance(module, layer):
                layer.reset_parameters(module)
    for name, parameter in net.named_parameters():
        if name.startswith("out.2.") or ".out_layers.3." in name or name.endswith(("proj_out.weight", "proj_out.bias")):
            nn.init.zeros_(parameter)
    return net


class Naming(nn.Module):
    """Heads that read from a caption's end token what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(TEXT_CONFIG["hidden_size"], size) for size in spoken.SIZES)

    def loss(self, ends: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy over the heads; ends [b, d], labels [b, heads]."""
        each = [F.cross_entropy(head(ends.float()), labels[:, i]) for i, head in enumerate(self.heads)]
        return torch.stack(each).sum()


class Average:
    """Exponential moving average of parameters, with a warm-up so that early steps are forgotten."""

    def __init__(self, module: nn.Module):
        self.count = 0
        self.values = {k: v.detach().clone() for k, v in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.count += 1
        decay = min(DECAY, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(list(self.values.values()), list(module.parameters()), 1 - decay)

    def state_dict(self) -> dict:
        return {"values": self.values, "count": self.count}

    def load_state_dict(self, state: dict) -> None:
        self.values, self.count = state["values"], state["count"]


def rate(step: int, steps: int) -> float:
    """Learning rate: a warm-up, a plateau, and a fall to a fiftieth. More steps prolong the plateau."""
    left = (steps - step) / (COOLING * steps)
    return RATE * min(1.0, (step + 1) / WARM) * max(0.02, min(1.0, left))


class Trainer:
    """The network and the text encoder, with all that trains them."""

    def __init__(self, steps: int):
        torch.manual_seed(SEED)
        self.steps, self.vocabulary = steps, Vocabulary()
        self.both = nn.ModuleDict({"text": text_model(self.vocabulary), "unet": unet_model()}).to(DEVICE)
        self.naming = Naming().to(DEVICE)
        groups = [{"params": list(self.both.parameters())}, {"params": list(self.naming.parameters())}]
        self.optimiser = adamw(groups, RATE, 0.01, betas=(0.9, 0.99))
        self.average = Average(self.both)
        self.sigmas = ModelSamplingDiscrete(None).sigmas.to(DEVICE)
        parts = {"both": self.both, "naming": self.naming, "optimiser": self.optimiser, "average": self.average}
        self.state = State("network", parts)
        self.latents = vae.latents().to(DEVICE)
        self.tokens, self.labels = (part.to(DEVICE) for part in spoken.everything(self.vocabulary))
        self.step = Recorded(self._step)
        self.spoken = 0.0

    def read(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encodings [b, 77, d] of tokens [b, 77], and those of the end tokens [b, d]."""
        context = self.both["text"](input_ids=tokens).last_hidden_state
        ends = (tokens == self.vocabulary.end).int().argmax(1)[:, None, None].expand(-1, 1, context.shape[-1])
        return context, context.gather(1, ends)[:, 0]

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Encodings [b, 77, d] of texts."""
        return self.read(torch.tensor([self.vocabulary.encode(text) for text in texts], device=DEVICE))[0]

    def predict(self, x: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """v, of latents x at their noise levels."""
        sigma = self.sigmas[timestep][:, None, None, None]
        options = {"optimized_attention_override": differentiable_attention}
        scaled = x / (sigma**2 + 1).sqrt()
        return self.both["unet"](scaled, timestep.float(), context=context, transformer_options=options).float()

    def losses(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean squared error of v over a random batch, and the loss of what the text encoder names."""
        rows = torch.randint(len(self.latents), (BATCH,), device=DEVICE)
        which = torch.randint(spoken.EACH, (BATCH,), device=DEVICE)
        clean, labels = self.latents[rows].float(), self.labels[rows, which].long()
        tokens = spoken.whole(self.tokens[rows, which], self.vocabulary.end)
        noise, timestep = torch.randn_like(clean), torch.randint(1000, (BATCH,), device=DEVICE)
        sigma = self.sigmas[timestep][:, None, None, None]
        target = (noise - sigma * clean) / (sigma**2 + 1).sqrt()
        with half_precision():
            context, ends = self.read(tokens)
            out = self.predict(clean + sigma * noise, timestep, context)
        return F.mse_loss(out, target), self.naming.loss(ends, labels)

    def _step(self) -> torch.Tensor:
        """One step of the optimiser; gives the error of v and the loss of the names."""
        loss, named = self.losses()
        self.optimiser.zero_grad()
        (loss + SPOKEN * named).backward()
        nn.utils.clip_grad_norm_(self.both.parameters(), 1.0)
        self.optimiser.step()
        return torch.stack([loss.detach(), named.detach()])

    def update(self) -> float:
        """One step at the rate that its turn has; gives the error of v."""
        for group in self.optimiser.param_groups:
            group["lr"].fill_(rate(self.state.step, self.steps))
        loss, named = self.step().tolist()
        if self.state.step % AVERAGE_EVERY == 0:
            self.average.update(self.both)
        self.spoken += (0.01 if self.spoken else 1.0) * (named - self.spoken)
        return loss

    def averaged(self) -> dict[str, torch.Tensor]:
        return {k: v.float().cpu().contiguous() for k, v in self.average.values.items()}


def train(steps: int = STEPS, minutes: float | None = None) -> None:
    """Trains or goes on, with a look at the pictures every so often; with ``minutes``, as many steps as they allow."""
    trainer = Trainer(steps)
    state = trainer.state
    if minutes is not None:
        trainer.steps = steps = _that_fit(trainer, 60 * minutes)
    while state.step < steps:
        until = min(steps, (state.step // WATCH_EVERY + 1) * WATCH_EVERY)
        state.run(until, trainer.update, f"network of {steps}")
        print(f"  naming {trainer.spoken:.3f}", flush=True)
        note(trainer)
        watched(trainer)
    note(trainer)
    assemble(trainer.averaged(), trainer.vocabulary, CHECKPOINT)
    record("checkpoint", bytes=CHECKPOINT.stat().st_size)


def _that_fit(trainer: Trainer, seconds: float) -> int:
    """How many steps there are time for; a few are made to find that out."""
    begun, state = time.time(), trainer.state
    state.run(state.step + WARM_UP, trainer.update, "network")
    started = time.time()
    state.run(state.step + TIMED, trainer.update, "network")
    pace = (time.time() - started) / TIMED
    return state.step + max(0, int((seconds - (time.time() - begun)) * IN_STEPS / pace))


def note(trainer: Trainer) -> None:
    state = trainer.state
    record(
        "network", steps=state.step, of=trainer.steps, batch=BATCH, seconds=round(state.seconds), losses=state.losses,
        naming=round(trainer.spoken, 4), seed=SEED, device=DEVICE,
        parameters=sum(p.numel() for p in trainer.both["unet"].parameters()),
        text_parameters=sum(p.numel() for p in trainer.both["text"].parameters()),
    )  # fmt: skip


def watched(trainer: Trainer) -> None:
    """Draws with the averaged weights, and leaves a checkpoint of them to try."""
    from .watch import watch

    own = {k: v.detach().clone() for k, v in trainer.both.named_parameters()}
    before = torch.get_rng_state()
    swap(trainer.both, trainer.average.values)
    try:
        watch(trainer)
    finally:
        swap(trainer.both, own)
        torch.set_rng_state(before)
    assemble(trainer.averaged(), trainer.vocabulary, PREVIEW)


@torch.no_grad()
def swap(module: nn.Module, values: dict[str, torch.Tensor]) -> None:
    for name, parameter in module.named_parameters():
        parameter.copy_(values[name])


def assemble(trained: dict[str, torch.Tensor], vocabulary: Vocabulary, path) -> None:
    """One SD 1.x style checkpoint: UNet, text encoder, VAE."""
    save_half(sd1_state(trained, vocabulary.used, load_file(vae.FILE)), path)
