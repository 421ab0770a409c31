"""Trains the toy world from nothing and writes its files: VAE, judge, text encoder and UNet, in that order.

    python3 scripts/run.py toyworld.train            everything, about an hour and a half on two CPU cores
    python3 scripts/run.py toyworld.train --stage unet --steps 200      one stage, shortened
    python3 scripts/run.py toyworld.train --world flux      another architecture, see ``toyworld/worlds``

Seeded; uses a GPU if there is one. Each stage leaves its result in ``output/toyworld`` and is skipped when that
file exists, so that an interrupted run goes on. ``toyworld/training.json`` records seeds, times and losses.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import comfy.ldm.modules.attention as host_attention
import comfy.ops
import numpy as np
import torch
import torch.nn.functional as F
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_sampling import ModelSamplingDiscrete
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from . import autoencoder
from .judge import FILE as JUDGE_FILE
from .judge import Judge
from .node.family import RGB_FILE, TEXT_CONFIG, TOKENS, UNET_CONFIG, ToyTokenizer
from .world import FULL_CAPTIONS, KINDS, PARTIAL_CAPTIONS, Scene, caption, random_caption, random_scene, render

HERE = Path(__file__).parent
WORK = HERE.parent / "output" / "toyworld"
CHECKPOINT = HERE / "toyworld.safetensors"
RECORD = HERE / "training.json"
SEED = 20403
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PICTURES = 24_000
STEPS = {"vae": 2600, "judge": 1500, "unet": 4500}
SECOND_PART, THIRD_PART = 1750, 2750
"""Steps of the UNet's training from which noisy latents, on which shapes are decided, are drawn more often, and from
which the text encoder also has to name what a caption names (which a real one has learned from pictures before)."""


def record(stage: str, **facts) -> None:
    """Adds a stage's facts to the training record."""
    known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    known[stage] = facts
    RECORD.write_text(json.dumps(known, indent=1) + "\n")


def pictures() -> tuple[torch.Tensor, list[Scene]]:
    """The training pictures, uint8 [PICTURES, 3, 64, 64], and their scenes; the same ones on every call."""
    rng = random.Random(SEED)
    scenes = [random_scene(rng) for _ in range(PICTURES)]
    path = WORK / "pictures.safetensors"
    if not path.exists():
        print(f"rendering {PICTURES} pictures …", flush=True)
        data = np.stack([render(scene, rng) for scene in scenes])
        save_file({"pictures": torch.from_numpy(data).permute(0, 3, 1, 2).contiguous()}, path)
    return load_file(path)["pictures"], scenes


def schedule(optimiser: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Short warm-up, then cosine decay to a fiftieth."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda s: min(1.0, (s + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * min(1.0, s / steps)))),
    )


def half_precision() -> torch.autocast:
    """bfloat16, except on a processor that has no instructions for it and is many times slower with it."""
    fast = DEVICE == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=fast)


def to_float(batch: torch.Tensor) -> torch.Tensor:
    return (batch.to(DEVICE).float() / 255).contiguous(memory_format=torch.channels_last)


def report(stage: str, step: int, steps: int, start: float, loss: float) -> None:
    if step in (10, 20, 40) or step % 100 == 0 or step == steps:
        spent = time.time() - start
        left = spent / max(step, 1) * (steps - step)
        print(f"{stage} {step}/{steps}  loss {loss:.4f}  {spent:.0f} s, about {left:.0f} s left", flush=True)


def whitening(z: torch.Tensor) -> torch.Tensor:
    """How far the latents' channels are from zero mean and identity covariance over the batch."""
    flat = z.permute(1, 0, 2, 3).flatten(1)
    mean = flat.mean(1)
    covariance = (flat - mean[:, None]) @ (flat - mean[:, None]).T / flat.shape[1]
    return mean.square().mean() + (covariance - torch.eye(len(mean), device=z.device)).square().mean()


def train_vae(steps: int) -> None:
    torch.manual_seed(SEED)
    data, _ = pictures()
    enc, dec = autoencoder.encoder(), autoencoder.decoder()
    for net in (enc, dec):
        net.to(DEVICE, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW([*enc.parameters(), *dec.parameters()], lr=1e-3, weight_decay=1e-4)
    lr = schedule(optimiser, steps)
    start, mean_loss = time.time(), 1.5
    for step in range(1, steps + 1):
        x = to_float(data[torch.randint(len(data), (32,))])
        with half_precision():
            z = enc(x)
            y = dec(z + 0.08 * torch.randn_like(z))
        difference = y.float() - x
        pixel = difference.abs().mean() + 2 * difference.square().mean()
        loss = pixel + 0.02 * whitening(z.float())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], 1.0)
        optimiser.step()
        lr.step()
        mean_loss += 0.02 * (pixel.item() - mean_loss)
        report("vae", step, steps, start, mean_loss)
    state = {f"taesd_encoder.{k}": v for k, v in enc.state_dict().items()}
    state |= {f"taesd_decoder.{k}": v for k, v in dec.state_dict().items()}
    save_file({k: v.cpu().contiguous() for k, v in state.items()}, WORK / "vae.safetensors")
    fit_latent_rgb(encode_all(enc, data[:1000]), data[:1000], RGB_FILE)
    record("vae", steps=steps, seconds=round(time.time() - start), loss=round(mean_loss, 5), seed=SEED)


def load_vae() -> tuple[nn.Module, nn.Module]:
    state = load_file(WORK / "vae.safetensors")
    enc, dec = autoencoder.encoder(), autoencoder.decoder()
    for name, net in (("taesd_encoder.", enc), ("taesd_decoder.", dec)):
        net.load_state_dict({k.removeprefix(name): v for k, v in state.items() if k.startswith(name)})
        net.to(DEVICE, memory_format=torch.channels_last).eval()
    return enc, dec


@torch.no_grad()
def encode_all(enc: nn.Module, data: torch.Tensor) -> torch.Tensor:
    return torch.cat([enc(to_float(chunk)).cpu() for chunk in data.split(250)])


def fit_latent_rgb(z: torch.Tensor, data: torch.Tensor, path: Path) -> None:
    """Writes the linear map from latents [b, c, h, w] to colour that the host's previewer shows, by least squares;
    ``data`` are the pictures, uint8 [b, 3, 8h, 8w]."""
    flat = z.float().permute(0, 2, 3, 1).flatten(0, 2)
    rgb = F.avg_pool2d(data.float() / 127.5 - 1, 8).permute(0, 2, 3, 1).reshape(-1, 3)
    design = torch.cat([flat, torch.ones(len(flat), 1)], 1)
    *factors, bias = torch.linalg.lstsq(design, rgb).solution.tolist()
    path.write_text(json.dumps({"factors": factors, "bias": bias}, indent=1) + "\n")


def roughen(x: torch.Tensor) -> torch.Tensor:
    """Noise and blur of random strength, so that the judge does not lean on crisp edges."""
    x = x + torch.rand(len(x), 1, 1, 1, device=x.device) * 0.12 * torch.randn_like(x)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.4, blurred, x)


def train_judge(steps: int) -> None:
    torch.manual_seed(SEED + 1)
    data, scenes = pictures()
    labels = torch.tensor([s.labels for s in scenes])
    enc, dec = load_vae()
    judge = Judge().to(DEVICE, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=1e-3, weight_decay=0.02)
    lr = schedule(optimiser, steps)
    start, mean_loss = time.time(), 3.0
    for step in range(1, steps + 1):
        index = torch.randint(len(data), (64,))
        x = to_float(data[index])
        with torch.no_grad(), half_precision():
            x = torch.cat([x[:40], dec(enc(x[40:])).float()])
        with half_precision():
            logits = judge(roughen(x))
        target = labels[index].to(DEVICE)
        loss = sum(
            F.cross_entropy(v.float(), target[:, i], label_smoothing=0.05) for i, v in enumerate(logits.values())
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        lr.step()
        mean_loss += 0.02 * (loss.item() - mean_loss)
        report("judge", step, steps, start, mean_loss)
    save_file({k: v.half().cpu().contiguous() for k, v in judge.state_dict().items()}, JUDGE_FILE)
    record("judge", steps=steps, seconds=round(time.time() - start), loss=round(mean_loss, 4), seed=SEED + 1)


class Vocabulary:
    """The tokens that captions use, renumbered without gaps, so that training carries no 49,408-row table."""

    def __init__(self) -> None:
        self.tokenizer = ToyTokenizer()
        texts = {""} | {
            caption(Scene(shape, colour, style), template, (second,) * 3)
            for template in FULL_CAPTIONS + PARTIAL_CAPTIONS
            for second in (False, True)
            for shape in _SHAPES
            for colour in _COLOURS
            for style in _STYLES
        }
        self.host_ids = {text: self._host_ids(text) for text in sorted(texts)}
        self.used = sorted({token for ids in self.host_ids.values() for token in ids})
        self.compact = {token: i for i, token in enumerate(self.used)}

    def _host_ids(self, text: str) -> list[int]:
        return [token for token, _ in self.tokenizer.tokenize_with_weights(text)["l"][0]]

    def encode(self, text: str) -> list[int]:
        if text not in self.host_ids:
            self.host_ids[text] = self._host_ids(text)
        return [self.compact[token] for token in self.host_ids[text]]


def _names() -> tuple[list[str], list[str], list[str]]:
    from .world import COLOURS, SHAPES, STYLES

    return list(SHAPES), list(COLOURS), list(STYLES)


_SHAPES, _COLOURS, _STYLES = _names()


def text_model(vocabulary: Vocabulary) -> CLIPTextModel:
    """A trainable CLIP text model: the host's own adds in place and cannot be trained through."""
    config = {**TEXT_CONFIG, "vocab_size": len(vocabulary.used)}
    config |= {"bos_token_id": vocabulary.compact[49406], "eos_token_id": vocabulary.compact[49407]}
    config |= {"pad_token_id": vocabulary.compact[49407], "attn_implementation": "sdpa"}
    return CLIPTextModel(CLIPTextConfig(**config))


def unet_model() -> UNetModel:
    """The host's UNet with ordinary initial weights (the host's layers skip theirs) and a silent last layer."""
    net = UNetModel(**UNET_CONFIG, operations=comfy.ops.disable_weight_init)
    for module in net.modules():
        for layer in (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm):
            if isinstance(module, layer):
                layer.reset_parameters(module)
    for name, parameter in net.named_parameters():
        if name.startswith("out.2.") or ".out_layers.3." in name or name.endswith(("proj_out.weight", "proj_out.bias")):
            nn.init.zeros_(parameter)
    return net


def differentiable_attention(_, *arguments, **options):
    return host_attention.attention_pytorch(*arguments, **options)


class Naming(nn.Module):
    """Heads that read from a caption's end token which shape, colour and style it names, or that it names none."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(TEXT_CONFIG["hidden_size"], len(names) + 1) for names in KINDS.values())

    def loss(self, context: torch.Tensor, ids: torch.Tensor, end: int, captions: list[str]) -> torch.Tensor:
        """Cross-entropy over the heads; context [b, 77, d], ids [b, 77]."""
        summary = context[torch.arange(len(ids)), (ids == end).int().argmax(1)]
        labels = torch.tensor([named(text) for text in captions], device=ids.device)
        return sum(F.cross_entropy(head(summary), labels[:, i]) for i, head in enumerate(self.heads))


def named(text: str) -> list[int]:
    """For each kind, the class index of the concept that a caption names; the number of classes for none."""
    words = set(text.replace(",", " ").split())
    return [
        next((i for i, pair in enumerate(names.items()) if words & set(pair)), len(names)) for names in KINDS.values()
    ]


class Average:
    """Exponential moving average of parameters, with a warm-up so that early steps are forgotten."""

    def __init__(self, module: nn.Module, decay: float = 0.999):
        self.decay, self.count = decay, 0
        self.values = {k: v.detach().clone() for k, v in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        for name, value in module.named_parameters():
            self.values[name].lerp_(value, 1 - decay)


def draw_timesteps(batch: int, step: int) -> torch.Tensor:
    """Noise levels of a batch, [batch] in 0 … 999."""
    timestep = torch.randint(1000, (batch,))
    if step > SECOND_PART:
        timestep[: batch // 2] = torch.randint(400, 1000, (batch // 2,))
    return timestep


def train_unet(steps: int, batch: int = 48) -> None:
    torch.manual_seed(SEED + 2)
    rng = random.Random(SEED + 2)
    data, scenes = pictures()
    latents = encode_all(load_vae()[0], data)
    vocabulary = Vocabulary()
    sampling = ModelSamplingDiscrete(None)
    both = nn.ModuleDict({"text": text_model(vocabulary), "unet": unet_model()}).to(DEVICE)
    naming = Naming().to(DEVICE)
    groups = [{"params": list(both.parameters())}, {"params": list(naming.parameters())}]
    optimiser = torch.optim.AdamW(groups, lr=1.2e-3, betas=(0.9, 0.99), weight_decay=0.01)
    lr = schedule(optimiser, round(steps / 0.82))  # the average at its end makes up for a decay cut short
    average = Average(both)
    start, mean_loss, losses = time.time(), 1.0, []
    state_file, first = WORK / "unet_state.pt", 1
    if state_file.exists():
        saved = torch.load(state_file, weights_only=False)
        both.load_state_dict(saved["model"])
        naming.load_state_dict(saved["naming"])
        optimiser.load_state_dict(saved["optimiser"])
        average.values, average.count = saved["average"], saved["step"]
        first, start, mean_loss = saved["step"] + 1, start - saved["seconds"], saved["loss"]
        losses = saved["losses"]
        [lr.step() for _ in range(saved["step"])]
        torch.set_rng_state(saved["random"][0])
        rng.setstate(saved["random"][1])
    for step in range(first, steps + 1):
        if step in (SECOND_PART + 1, THIRD_PART + 1):
            torch.manual_seed(SEED + step)
            rng.seed(SEED + step)
        index = torch.randint(len(latents), (batch,))
        captions = [random_caption(scenes[i], rng) for i in index.tolist()]
        ids = torch.tensor([vocabulary.encode(text) for text in captions], device=DEVICE)
        clean = latents[index].to(DEVICE)
        noise = torch.randn_like(clean)
        timestep = draw_timesteps(batch, step)
        sigma = sampling.sigmas[timestep].to(DEVICE)[:, None, None, None]
        noisy = (clean + sigma * noise) / (sigma**2 + 1).sqrt()
        context = both["text"](input_ids=ids).last_hidden_state
        options = {"optimized_attention_override": differentiable_attention}
        out = both["unet"](noisy, timestep.to(DEVICE).float(), context=context, transformer_options=options)
        loss = F.mse_loss(out, noise)
        total = loss
        if step > THIRD_PART:
            spoken = naming.loss(context, ids, vocabulary.compact[49407], captions)
            total = loss + 0.05 * spoken
            if step % 100 == 0:
                print(f"  naming {spoken.item():.3f}", flush=True)
        optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimiser.step()
        lr.step()
        average.update(both)
        mean_loss += 0.01 * (loss.item() - mean_loss)
        report("unet", step, steps, start, mean_loss)
        if step % 250 == 0 or step == steps:
            losses.append(round(mean_loss, 4))
            saved = {"model": both.state_dict(), "naming": naming.state_dict(), "average": average.values}
            saved |= {"optimiser": optimiser.state_dict()}
            saved |= {"random": (torch.get_rng_state(), rng.getstate()), "losses": losses}
            saved |= {"step": step, "seconds": time.time() - start, "loss": mean_loss}
            torch.save(saved, state_file)
    tensors = {k: v.float().cpu().contiguous() for k, v in average.values.items()}
    save_file(tensors, WORK / "unet.safetensors")
    record(
        "unet",
        steps=steps,
        batch=batch,
        seconds=round(time.time() - start),
        losses=losses,
        seed=SEED + 2,
        parameters=sum(p.numel() for p in both["unet"].parameters()),
        device=DEVICE,
    )


def sd1_state(trained: dict[str, torch.Tensor], used: Sequence[int], coder: dict[str, torch.Tensor]) -> dict:
    """What a checkpoint of SD 1.x's shape holds: UNet and text encoder by what was trained, with the whole table of
    tokens, of which ``used`` were, and the VAE."""
    state: dict[str, torch.Tensor] = {}
    for name, value in trained.items():
        part, key = name.split(".", 1)
        if part == "unet":
            state[f"model.diffusion_model.{key}"] = value
        else:
            key = key if key.startswith("text_model.") else f"text_model.{key}"
            state[f"cond_stage_model.transformer.{key}"] = value
    key = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    table = torch.zeros(TOKENS, state[key].shape[1])
    table[used] = state[key]
    state[key] = table
    state |= {f"first_stage_model.{k}": v for k, v in autoencoder.widen(coder).items()}
    return state | {
        "first_stage_model.vae_scale": torch.tensor(1.0),
        "first_stage_model.vae_shift": torch.tensor(0.0),
    }


def save_half(state: dict[str, torch.Tensor], path: Path) -> int:
    """Writes a checkpoint in half precision; its size in bytes."""
    save_file({k: v.half().contiguous() for k, v in state.items()}, path, metadata={"format": "pt"})
    size = path.stat().st_size
    print(f"{path.name}: {size / 1e6:.1f} MB", flush=True)
    return size


def assemble() -> None:
    """One SD 1.x style checkpoint: UNet, text encoder, VAE."""
    trained, coder = load_file(WORK / "unet.safetensors"), load_file(WORK / "vae.safetensors")
    record("checkpoint", bytes=save_half(sd1_state(trained, Vocabulary().used, coder), CHECKPOINT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=["vae", "judge", "unet", "assemble"], help="only this one, made anew")
    parser.add_argument("--world", help="trains this architecture instead, on the same pictures and with the same VAE")
    parser.add_argument("--steps", type=int, help="fewer or more steps than the stage's own number")
    chosen = parser.parse_args()
    torch.set_flush_denormal(True)  # tiny half-precision gradients otherwise slow a CPU several times over
    WORK.mkdir(parents=True, exist_ok=True)
    if chosen.world not in (None, "unet"):
        from .worlds import WORLDS
        from .worlds.training import train_world

        train_world(WORLDS[chosen.world], chosen.steps)
        return
    done = {"vae": WORK / "vae.safetensors", "judge": JUDGE_FILE, "unet": WORK / "unet.safetensors"}
    work = {"vae": train_vae, "judge": train_judge, "unet": train_unet}
    for stage, function in work.items():
        if chosen.stage == stage or (chosen.stage is None and not done[stage].exists()):
            function(chosen.steps or STEPS[stage])
    if chosen.stage in (None, "assemble"):
        assemble()


if __name__ == "__main__":
    main()
