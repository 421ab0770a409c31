"""Trains the judge on renders and on what the VAE makes of them, and measures it on renders that it has not seen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from toyworld.train import DEVICE, half_precision, roughen, schedule, to_float

from . import pictures, vae
from .fetch import WORK
from .judge import FILE, KINDS, Judge, halves
from .keeping import State, adamw, keep, record
from .world import Scene

SEED = 20620
STEPS, BATCH = 5000, 128
DECODED, AS_MANY = 3, 3
"""``DECODED`` shards are also shown as the VAE gives them back; each of these counts as ``AS_MANY``."""
HELD_OUT = 2000
UNKNOWN = -100
"""A label that counts for nothing."""


@torch.no_grad()
def decoded(number: int) -> torch.Tensor:
    """A shard as it comes back from the VAE, uint8; remembered on disk."""
    _, dec = vae.load()
    path = WORK / f"decoded_{vae.fingerprint(dec)}_{number:02}.safetensors"
    if not path.exists():
        latents = vae.latents_of(number)
        with half_precision():
            parts = [dec(chunk.to(DEVICE).float()).float().clamp(0, 1) for chunk in latents.split(128)]
        keep({"pictures": torch.cat([(part * 255).byte() for part in parts])}, path)
    return load_file(path)["pictures"]


def labels_of(scene: Scene, half: int | None = None) -> list[int]:
    """Class indices by kind; of two subjects a half shows one, and the whole picture has no label of its own."""
    subject, hand, background, number = scene.labels
    if len(scene.subjects) == 1:
        return [subject, hand, background, number]
    if half is None:
        return [UNKNOWN, hand, background, UNKNOWN]
    return [KINDS["subject"].index(scene.subjects[half]), hand, background, 0]


class Data:
    """Batches of pictures and labels. Every fourth batch shows halves of pictures with two subjects."""

    def __init__(self) -> None:
        numbers = range(pictures.SHARDS)
        self.shards = [pictures.shard(number).to(DEVICE) for number in numbers]
        self.scenes = [pictures.scenes(number) for number in numbers]
        for number in range(min(DECODED, pictures.SHARDS)):
            self.shards += [decoded(number).to(DEVICE)] * AS_MANY
            self.scenes += [pictures.scenes(number)] * AS_MANY
        self.pairs = [[i for i, s in enumerate(scenes) if len(s.subjects) == 2] for scenes in self.scenes]

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        number = int(torch.randint(len(self.shards), ()))
        shard, scenes = self.shards[number], self.scenes[number]
        if step % 4:
            rows = torch.randint(len(shard), (BATCH,)).tolist()
            labels = [labels_of(scenes[i]) for i in rows]
            return to_float(shard[rows]), torch.tensor(labels, device=DEVICE)
        pairs, half = self.pairs[number], step // 4 % 2
        rows = [pairs[i] for i in torch.randint(len(pairs), (BATCH,)).tolist()]
        labels = [labels_of(scenes[i], half) for i in rows]
        return halves(to_float(shard[rows]))[half], torch.tensor(labels, device=DEVICE)


def loss_of(judge: Judge, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    with half_precision():
        logits = judge(x)
    each = [
        F.cross_entropy(rows.float(), labels[:, i], ignore_index=UNKNOWN, label_smoothing=0.03)
        for i, rows in enumerate(logits.values())
    ]
    return torch.stack(each).sum()


def shifted(x: torch.Tensor) -> torch.Tensor:
    """The batch moved by a few pixels, so that no place is special."""
    down, right = torch.randint(-10, 11, (2,)).tolist()
    padded = F.pad(x, (10, 10, 10, 10), mode="replicate")
    return padded[..., 10 + down : 10 + down + x.shape[-2], 10 + right : 10 + right + x.shape[-1]]


def train(steps: int = STEPS) -> None:
    torch.manual_seed(SEED)
    data, judge = Data(), Judge().to(DEVICE)
    optimiser = adamw(judge.parameters(), 1.5e-3, 0.03)
    lr = schedule(optimiser, steps)
    state = State("judge", {"judge": judge, "optimiser": optimiser, "lr": lr})

    def update() -> float:
        x, labels = data.batch(state.step)
        loss = loss_of(judge, roughen(shifted(x)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        lr.step()
        return loss.item()

    state.run(steps, update, "judge")
    save_file({k: v.half().cpu().contiguous() for k, v in judge.state_dict().items()}, FILE)
    facts = {"held_out": held_out(judge.eval())}
    record(
        "judge", steps=steps, batch=BATCH, seconds=round(state.seconds), losses=state.losses, seed=SEED, device=DEVICE,
        **facts,
    )  # fmt: skip
    print(facts, flush=True)


@torch.no_grad()
def right(judge: Judge, x: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Share judged right by kind, of the pictures that have a label of it."""
    out = {}
    for i, (kind, rows) in enumerate(judge(x).items()):
        known = labels[:, i] != UNKNOWN
        out[kind] = round(float((rows.argmax(1) == labels[:, i])[known].float().mean()), 4)
    return out


@torch.no_grad()
def held_out(judge: Judge, count: int = HELD_OUT) -> dict[str, dict[str, float]]:
    """The judge on renders that no training saw: whole pictures, as they come back from the VAE, and halves."""
    data, scenes = pictures.fresh(count, 977)
    x, labels = to_float(data), torch.tensor([labels_of(scene) for scene in scenes], device=DEVICE)
    enc, dec = vae.load()
    back = torch.cat([dec(enc(chunk)).float().clamp(0, 1) for chunk in x.split(50)])
    pairs = [i for i, scene in enumerate(scenes) if len(scene.subjects) == 2]
    left = torch.tensor([labels_of(scenes[i], 0) for i in pairs], device=DEVICE)
    return {
        "renders": right(judge, x, labels),
        "from_vae": right(judge, back, labels),
        "left_halves": right(judge, halves(x[pairs])[0], left),
    }
