"""Trains the UNet and its text encoder together on latents and captions, and writes the checkpoint.

The objective is that of a v-prediction model: at a noise level sigma, x = clean + sigma * noise,

    v = (noise - sigma * clean) / sqrt(sigma^2 + 1),   loss = mean (v_predicted - v)^2.

Beside it heads read from each caption's end token what it says, which a real text encoder has learned before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import comfy.ops
import torch
import torch.nn.functional as F
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_sampling import ModelSamplingDiscrete
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from toyworld.node.families.drawn import NETWORK, TEXT_CONFIG, DrawnTokenizer
from toyworld.train import DEVICE, Average, differentiable_attention, half_precision, save_half, sd1_state

from . import pictures, vae
from .captions import HEADS, Caption, pieces, random_caption
from .fetch import HERE, WORK
from .keeping import State, record

SEED = 20630
STEPS, BATCH, RATE = 60_000, 32, 8e-4
WARM, COOLING = 500, 0.25
"""Steps until the learning rate is full, and the last share of all steps in which it falls."""
SPOKEN = 0.05
"""Weight of the loss of what the text encoder names."""
WHOLE = 0.3
"""Share of batches that are trained on all 77 rows of the encoding."""
START, END = 49406, 49407
WATCH_EVERY = 1500
CHECKPOINT = HERE / "drawnworld.safetensors"
PREVIEW = WORK / "drawnworld.safetensors"


class Vocabulary:
    """The tokens that captions use, renumbered without gaps, so that training carries no 49,408-row table."""

    def __init__(self) -> None:
        self.tokenizer = DrawnTokenizer()
        self.known: dict[str, list[int]] = {}
        self.used = sorted({token for piece in pieces() for token in self.host(piece)} | {START, END})
        self.compact = {token: i for i, token in enumerate(self.used)}

    def host(self, text: str) -> list[int]:
        """The host's 77 token numbers."""
        return [token for token, _ in self.tokenizer.tokenize_with_weights(text)["l"][0]]

    def encode(self, text: str) -> list[int]:
        if text not in self.known:
            if len(self.known) > 200_000:
                self.known.clear()
            self.known[text] = [self.compact[token] for token in self.host(text)]
        return self.known[text]


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
        self.heads = nn.ModuleList(nn.Linear(TEXT_CONFIG["hidden_size"], len(names) + 1) for names in HEADS.values())

    def loss(self, ends: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy over the heads; ends [b, d], labels [b, heads]."""
        each = [F.cross_entropy(head(ends.float()), labels[:, i]) for i, head in enumerate(self.heads)]
        return torch.stack(each).sum()


class Averages(Average):
    """The moving average, with a state that can be kept."""

    def state_dict(self) -> dict:
        return {"values": self.values, "count": self.count}

    def load_state_dict(self, state: dict) -> None:
        self.values, self.count = state["values"], state["count"]


class Dice:
    """Random choices of captions, with a state that can be kept."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)

    def state_dict(self) -> dict:
        return {"state": self.rng.getstate()}

    def load_state_dict(self, state: dict) -> None:
        self.rng.setstate(state["state"])


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
        self.optimiser = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.99), weight_decay=0.01)
        self.average, self.dice = Averages(self.both, 0.9995), Dice(SEED)
        self.sigmas = ModelSamplingDiscrete(None).sigmas.to(DEVICE)
        parts = {"both": self.both, "naming": self.naming, "optimiser": self.optimiser, "average": self.average}
        self.state = State("network", {**parts, "dice": self.dice})
        self.latents, self.scenes = vae.latents(), pictures.all_scenes()
        self.spoken = 0.0

    def read(self, texts: Sequence[str], whole: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """Encodings [b, n, d] and those of the end tokens [b, d]; n is 77, or less where not the whole is wanted.

        The host always gives 77 rows; most batches are trained on fewer, since what stands behind the end costs much.
        """
        ids = torch.tensor([self.vocabulary.encode(text) for text in texts], device=DEVICE)
        ends = (ids == self.vocabulary.compact[END]).int().argmax(1)
        if not whole:
            ids = ids[:, : int(ends.max()) + 1 + int(torch.randint(1, 12, ()))]
        context = self.both["text"](input_ids=ids).last_hidden_state
        return context, context[torch.arange(len(ids), device=DEVICE), ends]

    def predict(self, x: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """v, of latents x at their noise levels."""
        sigma = self.sigmas[timestep][:, None, None, None]
        options = {"optimized_attention_override": differentiable_attention}
        scaled = x / (sigma**2 + 1).sqrt()
        return self.both["unet"](scaled, timestep.float(), context=context, transformer_options=options).float()

    def losses(self, clean: torch.Tensor, said: Sequence[Caption]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean squared error of v, and the loss of what the text encoder names."""
        noise, timestep = torch.randn_like(clean), torch.randint(1000, (len(clean),), device=DEVICE)
        sigma = self.sigmas[timestep][:, None, None, None]
        target = (noise - sigma * clean) / (sigma**2 + 1).sqrt()
        labels = torch.tensor([caption.labels for caption in said], device=DEVICE)
        with half_precision():
            context, ends = self.read([caption.text for caption in said], bool(torch.rand(()) < WHOLE))
            out = self.predict(clean + sigma * noise, timestep, context)
        return F.mse_loss(out, target), self.naming.loss(ends, labels)

    def update(self) -> float:
        """One step of the optimiser; gives the error of v."""
        rows = torch.randint(len(self.latents), (BATCH,)).tolist()
        said = [random_caption(self.scenes[i], self.dice.rng) for i in rows]
        loss, spoken = self.losses(self.latents[rows].to(DEVICE).float(), said)
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.state.step, self.steps)
        self.optimiser.zero_grad()
        (loss + SPOKEN * spoken).backward()
        nn.utils.clip_grad_norm_(self.both.parameters(), 1.0)
        self.optimiser.step()
        self.average.update(self.both)
        self.spoken += (0.01 if self.spoken else 1.0) * (spoken.item() - self.spoken)
        return loss.item()

    def averaged(self) -> dict[str, torch.Tensor]:
        return {k: v.float().cpu().contiguous() for k, v in self.average.values.items()}


def train(steps: int = STEPS) -> None:
    """Trains or goes on, with a look at the pictures every so often."""
    trainer = Trainer(steps)
    state = trainer.state
    while state.step < steps:
        until = min(steps, (state.step // WATCH_EVERY + 1) * WATCH_EVERY)
        state.run(until, trainer.update, f"network of {steps}")
        print(f"  naming {trainer.spoken:.3f}", flush=True)
        note(trainer)
        watched(trainer)
    assemble(trainer.averaged(), trainer.vocabulary, CHECKPOINT)
    record("checkpoint", bytes=CHECKPOINT.stat().st_size)


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
    random_state: Callable[[], torch.Tensor] = torch.get_rng_state
    before = random_state()
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
