"""Trains a world in another architecture: its network and its text encoder together, on the toy world's pictures.

Noise, objective and what the network is told of the noise level are the host's: a latent is noised by the family's
``model_sampling``, and the loss is taken from what its ``apply_model`` gives,

    loss = mean ((denoised - clean) / sigma)^2,

which is the mean squared error of the noise, or of the velocity in a flow. In the latents colours lie on one line, some
of them close together, so from some step on an error along that line counts more. What is best stays the same by it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence

import comfy.model_base
import comfy.ops
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from .. import autoencoder, train
from ..node.table import places
from ..world import FULL_CAPTIONS, KINDS, PARTIAL_CAPTIONS, Scene, caption
from .gradients import OPTIONS, differentiable
from .words import WORDS, every_word, wordy_caption
from .world import Reading, Texts, World

SEED = 20480
SPOKEN = 0.05
"""Weight of the loss of what a text encoder names."""
ALONG_COLOURS = 2.0
"""Weight of the squared error along the line of colours, where that of all directions together is 1."""
KEEP_EVERY = 250
VAE = "first_stage_model."


class Naming(nn.Module):
    """Heads that read from each summary of a caption what shape, colour, style and common word it names, or none."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        sizes = [*(len(names) + 1 for names in KINDS.values()), len(WORDS) + 1]
        self.heads = nn.ModuleList(nn.ModuleList(nn.Linear(width, size) for size in sizes) for width in widths)

    def loss(self, summaries: Sequence[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy over the heads; labels [b, kinds + 1]."""
        each = [
            F.cross_entropy(head(summary.float()), labels[:, i])
            for summary, heads in zip(summaries, self.heads, strict=True)
            for i, head in enumerate(heads)
        ]
        return sum(each) / len(summaries)


def base_model(world: World) -> comfy.model_base.BaseModel:
    """The host's model of the family with ordinary initial weights (its layers skip theirs)."""
    config = world.family(dict(world.network))
    config.custom_operations = comfy.ops.disable_weight_init
    config.set_inference_dtype(torch.float32, None)
    base = config.get_model({}, device="cpu")
    initialise(base.diffusion_model)
    with torch.no_grad():
        for name, weight in base.diffusion_model.named_parameters():
            if name.endswith(tuple(world.silent)):
                weight.zero_()
    world.start(base.diffusion_model)
    return base


def initialise(module: nn.Module) -> None:
    """Weights as torch's own layers have them at first; other vectors are scales and start at one, or tokens."""
    own = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    ready: set[int] = set()
    for part in module.modules():
        for layer in own:
            if isinstance(part, layer):
                layer.reset_parameters(part)
                ready |= {id(weight) for weight in part.parameters(recurse=False)}
    with torch.no_grad():
        for weight in module.parameters():
            if id(weight) not in ready and weight.ndim == 1:
                weight.fill_(1.0)
            elif id(weight) not in ready:
                weight.normal_(std=0.3 if weight.ndim == 2 and weight.shape[0] > 512 else 0.02)
    module.requires_grad_(True)


def text_encoder(world: World, network: nn.Module) -> Texts:
    """The world's text encoder with initial weights, and tables that have a row for each token in use."""
    texts = world.texts()
    initialise(texts)
    texts.watch(network)
    used: dict[str, set[int]] = {stream: set() for stream in texts.tables}
    for text in captions():
        for stream, tokens in texts.tokens(text).items():
            used[stream].update(tokens)
    for stream, table in texts.tables.items():
        table.places.copy_(places(len(table.places), used[stream]))
    return texts


def captions() -> list[str]:
    """Texts in which every token of training occurs: each phrasing with each name, which are words of their own."""
    shapes, colours, styles = (list(names) for names in KINDS.values())
    scenes = [Scene(shapes[i], colours[i % len(colours)], styles[i % len(styles)]) for i in range(len(shapes))]
    own = {
        caption(scene, template, (second,) * 3)
        for template in FULL_CAPTIONS + PARTIAL_CAPTIONS
        for second in (False, True)
        for scene in scenes
    }
    return ["", *sorted(own), *every_word()]


def latents() -> tuple[torch.Tensor, list[Scene]]:
    """The training pictures as the checkpoint's VAE encodes them, [n, 4, 8, 8], and their scenes."""
    data, scenes = train.pictures()
    path = train.WORK / "latents.safetensors"
    if not path.exists():
        save_file({"latents": train.encode_all(encoder(), data).contiguous()}, path)
    return load_file(path)["latents"], scenes


def line_of_colours(latents: torch.Tensor, scenes: Sequence[Scene]) -> torch.Tensor:
    """The direction [4] along which the middles of pictures differ most between colours."""
    middles = latents[..., 3:5, 3:5].mean((-1, -2))
    means = torch.stack(
        [middles[[i for i, scene in enumerate(scenes) if scene.colour == colour]].mean(0) for colour in KINDS["colour"]]
    )
    return torch.linalg.svd(means - means.mean(0)).Vh[0]


def vae_state() -> dict[str, torch.Tensor]:
    """The VAE of the first world's checkpoint, at the host's width; all worlds share it."""
    state = load_file(train.CHECKPOINT)
    return {name.removeprefix(VAE): value for name, value in state.items() if name.startswith(VAE)}


def encoder() -> nn.Module:
    prefix = "taesd_encoder."
    state = {k.removeprefix(prefix): v.float() for k, v in vae_state().items() if k.startswith(prefix)}
    net = autoencoder.encoder()
    net.load_state_dict(autoencoder.narrow(state))
    return net.to(train.DEVICE, memory_format=torch.channels_last).eval()


def draw_sigmas(sampling: nn.Module, count: int) -> torch.Tensor:
    """Noise levels [count]: half of them as the sampler's steps lie, half of them evenly over the host's time."""
    sigmas = sampling.sigmas
    steps = torch.randint(len(sigmas), (count,))
    drawn = sigmas[steps].clone()
    if float(sigmas[-1]) <= 1:  # a flow: its sigmas crowd at the noisy end
        drawn[: count // 2] = torch.rand(count // 2).clamp_min(1e-3)
    else:  # shapes are decided where there is much noise
        drawn[: count // 2] = sigmas[torch.randint(400, len(sigmas), (count // 2,))]
    return drawn


class Trainer:
    """One world's training: what learns, and where it stands."""

    def __init__(self, world: World, steps: int):
        torch.manual_seed(SEED)
        self.world, self.steps, self.step = world, steps, 0
        self.latents, self.scenes = latents()
        self.line = line_of_colours(self.latents, self.scenes)
        self.base = base_model(world)
        self.texts = text_encoder(world, self.base.diffusion_model)
        self.known: dict[str, Mapping[str, list[int]]] = {}
        self.learned = nn.ModuleDict({"network": self.base.diffusion_model, "texts": self.texts})
        self.naming = Naming([summary.shape[1] for summary in self.read([""]).summaries])
        groups = [{"params": list(self.learned.parameters())}, {"params": list(self.naming.parameters())}]
        self.optimiser = torch.optim.AdamW(groups, lr=world.rate, betas=(0.9, 0.99), weight_decay=0.01)
        self.lr = train.schedule(self.optimiser, steps)
        self.average = train.Average(self.learned, 0.998)
        self.rng = random.Random(SEED)
        self.seconds, self.means, self.losses = 0.0, [1.0, 6.0], []
        torch.manual_seed(SEED + 1)

    @property
    def file(self):
        return train.WORK / f"{self.world.name}_state.pt"

    def tokens(self, text: str) -> Mapping[str, list[int]]:
        if text not in self.known:
            self.known[text] = self.texts.tokens(text)
        return self.known[text]

    def caption(self, scene: Scene) -> tuple[str, int]:
        """A caption of a scene that is short enough, and the common word in it."""
        while True:
            text, word = wordy_caption(scene, self.rng)
            if self.texts.fits(self.tokens(text)):
                return text, word

    def read(self, batch: Sequence[str]) -> Reading:
        with differentiable():
            return self.texts.read([self.tokens(text) for text in batch])

    def update(self) -> None:
        """One step of the optimiser."""
        self.step += 1
        index = torch.randint(len(self.latents), (self.world.batch,))
        batch = [self.caption(self.scenes[i]) for i in index.tolist()]
        labels = torch.tensor([[*train.named(text), word] for text, word in batch])
        clean = self.latents[index].reshape(-1, *self.world.latent)
        reading = self.read([text for text, _ in batch])
        error = self.errors(clean, reading.conds)
        loss = error.square().mean()
        along = torch.einsum("bc...,c->b...", error, self.line).square().mean()
        colours = ALONG_COLOURS * (self.step > self.steps * self.world.colours_from)
        spoken = self.naming.loss(reading.summaries, labels)
        self.optimiser.zero_grad()
        with differentiable():
            (loss + colours * along + SPOKEN * spoken).backward()
        nn.utils.clip_grad_norm_(self.learned.parameters(), 1.0)
        self.optimiser.step()
        self.lr.step()
        self.average.update(self.learned)
        for i, value in enumerate((loss, spoken)):
            self.means[i] += 0.01 * (value.item() - self.means[i])

    def errors(self, clean: torch.Tensor, conds: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(denoised - clean) / sigma of a batch of latents under what was read, at random noise levels."""
        sampling, noise = self.base.model_sampling, torch.randn_like(clean)
        sigma = draw_sigmas(sampling, len(clean))
        noisy = sampling.noise_scaling(sigma.reshape(-1, *[1] * (clean.ndim - 1)), noise, clean)
        with differentiable():
            denoised = self.base.apply_model(noisy, sigma, transformer_options=dict(OPTIONS), **conds)
        return (denoised - clean) / sigma.reshape(-1, *[1] * (clean.ndim - 1))

    def save(self) -> None:
        self.losses.append([round(value, 4) for value in self.means])
        state = {"learned": self.learned.state_dict(), "naming": self.naming.state_dict()}
        state |= {"optimiser": self.optimiser.state_dict(), "lr": self.lr.state_dict()}
        state |= {"average": self.average.values, "random": (torch.get_rng_state(), self.rng.getstate())}
        state |= {"step": self.step, "seconds": self.seconds, "means": self.means, "losses": self.losses}
        partial = self.file.with_suffix(".part")
        torch.save(state, partial)
        partial.replace(self.file)

    def resume(self) -> None:
        """Goes on from what was saved, if there is something."""
        if not self.file.exists():
            return
        state = torch.load(self.file, weights_only=False)
        self.learned.load_state_dict(state["learned"])
        self.naming.load_state_dict(state["naming"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.lr.load_state_dict(state["lr"])
        self.average.values, self.average.count = state["average"], state["step"]
        torch.set_rng_state(state["random"][0])
        self.rng.setstate(state["random"][1])
        self.step, self.seconds, self.means = state["step"], state["seconds"], state["means"]
        self.losses = state["losses"]

    def run(self) -> None:
        start = time.time() - self.seconds
        while self.step < self.steps:
            self.update()
            self.seconds = time.time() - start
            train.report(f"{self.world.name} naming {self.means[1]:.2f}", self.step, self.steps, start, self.means[0])
            if self.step % KEEP_EVERY == 0 or self.step == self.steps:
                self.save()

    @torch.no_grad()
    def averaged(self) -> None:
        """Puts the averaged weights in the place of the last ones."""
        for name, weight in self.learned.named_parameters():
            weight.copy_(self.average.values[name])


def assemble(world: World, trainer: Trainer) -> None:
    """One checkpoint in half precision: network, text encoder, VAE."""
    trainer.averaged()
    state = {f"model.diffusion_model.{k}": v for k, v in trainer.base.diffusion_model.state_dict().items()}
    state |= trainer.texts.state()
    state |= {f"{world.vae_prefix}{k}": v for k, v in vae_state().items()}
    half = {k: v.detach().half() if v.is_floating_point() else v for k, v in state.items()}
    save_file({k: v.contiguous() for k, v in half.items()}, world.checkpoint, metadata={"format": "pt"})
    size = world.checkpoint.stat().st_size
    train.record(
        world.name, steps=trainer.step, batch=world.batch, seconds=round(trainer.seconds), losses=trainer.losses,
        seed=SEED, parameters=sum(p.numel() for p in trainer.base.diffusion_model.parameters()),
        text_parameters=sum(p.numel() for p in trainer.texts.parameters()), device=train.DEVICE, bytes=size,
    )  # fmt: skip
    print(f"{world.checkpoint.name}: {size / 1e6:.1f} MB")


def train_world(world: World, steps: int | None = None) -> None:
    """Trains a world, or goes on with it, and writes its checkpoint."""
    train.WORK.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(world, steps or world.steps)
    trainer.resume()
    trainer.run()
    assemble(world, trainer)
