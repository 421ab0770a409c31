"""The drawn world's VAE: the toy world's layout with twice the channels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from toyworld import autoencoder
from toyworld.node.families.drawn import RGB_FILE
from toyworld.train import DEVICE, fit_latent_rgb, half_precision, schedule, to_float, whitening

from . import pictures
from .fetch import WORK
from .keeping import Recorded, State, adamw, keep, record

CHANNELS = 8
FILE = WORK / "vae.safetensors"
SEED = 20610
STEPS, BATCH, SHARDS = 8000, 24, 4
NOISE = 0.06
"""Of the latents, so that a sampler's small errors are not seen."""
PARTS = ("taesd_encoder.", "taesd_decoder.")


def coders() -> tuple[nn.Sequential, nn.Sequential]:
    """An encoder and a decoder of ``CHANNELS`` channels."""
    width = autoencoder.WIDTH
    enc, dec = autoencoder.encoder(), autoencoder.decoder()
    enc[-1] = nn.Conv2d(width, CHANNELS, 3, padding=1)
    dec[1] = nn.Conv2d(CHANNELS, width, 3, padding=1)
    for net in (enc, dec):
        net.to(DEVICE, memory_format=torch.channels_last)
    return enc, dec


def load() -> tuple[nn.Module, nn.Module]:
    state, both = load_file(FILE), coders()
    for prefix, net in zip(PARTS, both, strict=True):
        net.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        net.eval().requires_grad_(False)
    return both


def slopes(x: torch.Tensor) -> torch.Tensor:
    """Differences of neighbouring pixels, of which edges are made."""
    return torch.cat([(x[..., 1:] - x[..., :-1]).flatten(1), (x[..., 1:, :] - x[..., :-1, :]).flatten(1)], 1)


def difference(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """How far pictures are from those that they should be: pixels, edges, and the colours of whole areas."""
    areas = (F.avg_pool2d(y, 8) - F.avg_pool2d(x, 8)).abs().mean()
    return (y - x).abs().mean() + 2 * F.mse_loss(y, x) + 0.5 * (slopes(y) - slopes(x)).abs().mean() + areas


def train(steps: int = STEPS) -> None:
    torch.manual_seed(SEED)
    data = torch.cat([pictures.shard(number) for number in range(min(SHARDS, pictures.SHARDS))]).to(DEVICE)
    enc, dec = coders()
    optimiser = adamw([*enc.parameters(), *dec.parameters()], 2e-3, 1e-4)
    lr = schedule(optimiser, steps)
    parts: Mapping[str, object] = {"enc": enc, "dec": dec, "optimiser": optimiser, "lr": lr}
    state = State("vae", parts)

    def step() -> torch.Tensor:
        x = to_float(data[torch.randint(len(data), (BATCH,), device=DEVICE)])
        with half_precision():
            z = enc(x)
            y = dec(z + NOISE * torch.randn_like(z))
        pixel = difference(y.float(), x)
        optimiser.zero_grad()
        (pixel + 0.02 * whitening(z.float())).backward()
        nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], 1.0)
        optimiser.step()
        return pixel.detach()

    recorded = Recorded(step)

    def update() -> float:
        loss = recorded().item()
        lr.step()
        return loss

    state.run(steps, update, "vae")
    save(enc, dec)
    record("vae", steps=steps, batch=BATCH, seconds=round(state.seconds), losses=state.losses, seed=SEED, device=DEVICE)
    fit_latent_rgb(latents_of(0)[:1000], pictures.shard(0)[:1000], RGB_FILE)
    look(enc, dec)


def save(enc: nn.Module, dec: nn.Module) -> None:
    both = zip(PARTS, (enc, dec), strict=True)
    tensors = {f"{prefix}{k}": v for prefix, net in both for k, v in net.state_dict().items()}
    keep(tensors, FILE)


@torch.no_grad()
def look(enc: nn.Module, dec: nn.Module) -> None:
    """Writes a sheet of pictures that were not trained on, and what comes back of them."""
    data, _ = pictures.fresh(24, 977)
    x = to_float(data)
    y = dec(enc(x)).float().clamp(0, 1)
    rows = [row for i in range(0, 24, 8) for row in (x[i : i + 8], y[i : i + 8])]
    sheet = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
    Image.fromarray((sheet * 255).byte().permute(1, 2, 0).cpu().numpy()).save(WORK / "vae.png")
    print(f"vae: mean error of a pixel {(y - x).abs().mean():.4f}", flush=True)


def latents() -> torch.Tensor:
    """float16 [pictures, CHANNELS, 16, 16], of every training picture; remembered on disk, a shard at a time."""
    return torch.cat([latents_of(number) for number in range(pictures.SHARDS)])


def fingerprint(net: nn.Module) -> str:
    """Short, and another one for other weights."""
    data = b"".join(v.cpu().numpy().tobytes() for v in net.state_dict().values())
    return hashlib.sha256(data).hexdigest()[:8]


@torch.no_grad()
def latents_of(number: int) -> torch.Tensor:
    """float16 [IN_SHARD, CHANNELS, 16, 16]."""
    enc, _ = load()
    path = WORK / f"latents_{fingerprint(enc)}_{number:02}.safetensors"
    if not path.exists():
        print(f"encoding shard {number + 1} of {pictures.SHARDS} …", flush=True)
        with half_precision():
            parts = [enc(to_float(chunk)).half().cpu() for chunk in pictures.shard(number).split(128)]
        keep({"latents": torch.cat(parts)}, path)
    return load_file(path)["latents"]
