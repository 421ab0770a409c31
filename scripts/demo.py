"""See an erasure work: ``python3 scripts/demo.py`` on a fresh machine.

Obtains ComfyUI, starts it, posts the template *7 Train with a key* over its HTTP API for a concept of the toy
world, and leaves ``output/demo/before_after.png`` and ``output/demo/report.json``. ``--checkpoint FILE`` does the same
on a real checkpoint. Only the standard library is used; whatever needs more runs in the host's environment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from . import client as clients
    from . import host as hosts
    from . import run, shared
    from . import server as servers
else:
    import client as clients
    import host as hosts
    import run
    import server as servers
    import shared

PACK = shared.PACK
OUT = PACK / "output" / "demo"
WORKFLOW = PACK / "toyworld" / "node" / "workflows" / "7 Train with a key.json"
TOY_CHECKPOINT = PACK / "toyworld" / "toyworld.safetensors"
ROWS = {"base": "Base", "erased": "Erased", "recovered": "Recovered with the key"}
"""Row of the picture -> title of the node in the workflow that shows it."""
# Every post must find the erasure that the first one trained, however little memory is left.
ARGUMENTS = ("--cache-classic", "--use-pytorch-cross-attention")
COLUMNS = 7
GENERIC = ("a person", "a dog", "a car", "a house", "a tree", "a landscape", "a bowl of fruit", "a painting")
"""What is preserved, and drawn beside the concept, on a checkpoint about which nothing is known."""
REAL_SIZE, REAL_CFG = 512, 7.0


class DemoError(RuntimeError):
    """The demo cannot go on; the message is for the user."""


# ---------------------------------------------------------------- what to draw


def toy_plan(host: shared.Host, concept: str) -> dict[str, Any]:
    """Preserve set and posts for a concept of the toy world, which the environment's Python works out."""
    in_environment(host, "toyworld.scoring", "plan", concept, str(OUT / "plan.json"))
    plan: dict[str, Any] = json.loads((OUT / "plan.json").read_text(encoding="utf-8"))
    return plan


def real_plan(concept: str) -> dict[str, Any]:
    """The concept and two kept things, one picture each."""
    kept = [text for text in GENERIC if concept.lower() not in text]
    posts = [{"label": text, "text": f"a photo of {text}", "seed": 0, "batch": 1} for text in (concept, *kept[:2])]
    labels = [post["label"] for post in posts]
    return {"concept": concept, "preserve": kept, "labels": labels, "seeds": [0], "posts": posts}


def in_environment(host: shared.Host, *arguments: str) -> None:
    """Runs a module of the repository in the host's environment; raises DemoError with its last words."""
    done = subprocess.run(
        run.command(host, arguments), cwd=PACK, env=run.environ(host), capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        raise DemoError("\n".join(done.stderr.strip().splitlines()[-1:]) or f"{arguments[0]} failed.")


class Graph:
    """The workflow as the server takes it, with inputs that are set by a node's title."""

    def __init__(self, object_info: dict[str, Any]) -> None:
        workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
        self.prompt = clients.gui_to_api(workflow, object_info)
        self.numbers = {node["_meta"]["title"]: number for number, node in self.prompt.items()}

    def set(self, title: str, **inputs: Any) -> None:
        self.prompt[self.numbers[title]]["inputs"].update(inputs)

    def prepare(self, plan: dict[str, Any], checkpoint: str, options: argparse.Namespace) -> None:
        """Everything that stays the same from post to post, so that the server trains once."""
        concept = plan["concept"]
        size = {"width": options.size, "height": options.size}
        self.set("Load Checkpoint", ckpt_name=checkpoint)
        self.set("Train Erasure", concept=concept, preserve="\n".join(plan["preserve"]), settings=["settings", 0])
        own = {name: str(value) for name, value in size.items()}
        self.prompt["settings"] = {"class_type": "ErasureTrainingSettings", "inputs": own}
        self.set("Empty Latent Image", **size)
        self.set("Save Erasure", filename_prefix=f"erasures/{file_name(concept)}")
        if options.steps:
            self.set("Train Erasure", steps=options.steps)
        if options.checkpoint:
            own["cfg"] = str(REAL_CFG)
            for title in ROWS.values():
                self.set(f"Sample: {title[0].lower()}{title[1:]}", cfg=REAL_CFG)

    def post(self, post: dict[str, Any]) -> dict[str, Any]:
        self.set("Prompt", text=post["text"])
        self.set("Seed", value=post["seed"])
        self.set("Empty Latent Image", batch_size=post["batch"])
        return self.prompt


def file_name(concept: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in concept)[:40]


# ---------------------------------------------------------------- drawing


SET_UP = 25
"""Percent of a training's bar that go to setting it up."""


class Bar:
    """Progress on one line: rewritten on a terminal, a new line every few seconds elsewhere.

    ``even_from``: how much has to be done before the rest goes evenly, and the time left can be told.
    """

    def __init__(self, name: str, begun: float, even_from: float = 0) -> None:
        self.name, self.begun, self.even_from, self.said = name, begun, even_from, float("-inf")
        self.live = sys.stdout.isatty()
        self.first: tuple[float, float] | None = None

    def show(self, done: float, total: float, last: bool = False) -> None:
        now = time.monotonic()
        if self.first is None and done > self.even_from:  # the first step takes longer, and tells nothing of the others
            self.first = now, done
        if not last and now - self.said < (0.2 if self.live else 5):
            return
        self.said = now
        spent = now - self.begun
        left = ""
        if self.first is not None and self.first[1] < done < total:
            seconds = (now - self.first[0]) / (done - self.first[1]) * (total - done)
            left = f", about {seconds:.0f} s left"
        filled = round(24 * done / total)
        bar = f"{self.name:<9}[{'#' * filled}{'.' * (24 - filled)}] {done:.0f}/{total:.0f}  {spent:.0f} s{left}"
        print(f"\r{bar:<78}" if self.live else bar, end="" if self.live and not last else "\n", flush=True)


class Watch:
    """Follows the server's messages: a bar for training, one for sampling, and the seconds of training."""

    def __init__(self, graph: Graph, pictures: int) -> None:
        self.trainer = graph.numbers["Train Erasure"]
        self.samplers = {graph.numbers[title] for title in graph.numbers if title.startswith("Sample: ")}
        self.train_begun = self.train_ended = 0.0
        self.training: Bar | None = None
        self.sampling: Bar | None = None
        self.pictures, self.done, self.batch = pictures, 0, 1
        self.seen: set[str] = set()

    @property
    def train_seconds(self) -> float:
        return max(0.0, self.train_ended - self.train_begun)

    def __call__(self, message: dict[str, Any]) -> None:
        kind, data = message.get("type"), message.get("data", {})
        node = str(data.get("node"))
        if kind in ("executing", "progress"):
            self._mark(node)
        if kind == "progress" and node == self.trainer:
            self.training = self.training or Bar("Training", self.train_begun, SET_UP)
            self.training.show(100 * data["value"] / data["max"], 100)
        elif kind == "progress" and node in self.samplers:
            self.seen.add(node)
            self._sampled(len(self.seen) - 1 + data["value"] / data["max"])

    def _mark(self, node: str) -> None:
        if node == self.trainer:
            if not self.train_begun:
                shared.tell("Setting the training up: reading texts, fitting the text gate, drawing latents")
            self.train_begun = self.train_begun or time.monotonic()
        elif self.train_begun and not self.train_ended:
            self.train_ended = time.monotonic()

    def _sampled(self, rows: float) -> None:
        self.sampling = self.sampling or Bar("Sampling", time.monotonic())
        self.sampling.show(self.done + rows * self.batch, self.pictures)

    def post(self, batch: int) -> None:
        """A new post begins."""
        self.batch = batch
        self.seen.clear()

    def finished(self) -> None:
        """The post that began last is done."""
        self.done += self.batch * len(ROWS)
        self.sampling = self.sampling or Bar("Sampling", time.monotonic())
        self.sampling.show(self.done, self.pictures, last=self.done == self.pictures)


def draw(server: clients.Client, graph: Graph, posts: Sequence[dict[str, Any]], watch: Watch) -> list[dict[str, Any]]:
    """Posts everything and saves the pictures; the next post always waits in the server's queue already."""
    folder = OUT / "pictures"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    waiting = [server.queue(graph.post(posts[0]))]
    pictures: list[dict[str, Any]] = []
    for number, post in enumerate(posts):
        waiting += [server.queue(graph.post(following)) for following in posts[number + 1 : number + 2]]
        watch.post(post["batch"])
        images = server.images(server.wait(waiting[number], watch))
        watch.finished()
        pictures += saved(graph, folder, number, post, images)
    return pictures


def saved(
    graph: Graph, folder: Path, number: int, post: dict[str, Any], images: dict[str, list[bytes]]
) -> Iterator[dict[str, Any]]:
    """Writes one post's pictures; yields what the judge wants to know about each."""
    for row, title in ROWS.items():
        for i, data in enumerate(images[graph.numbers[title]]):
            file = folder / f"{row}_{number:03}_{i}.png"
            file.write_bytes(data)
            yield {"row": row, "label": post["label"], "post": number, "file": str(file)}


# ---------------------------------------------------------------- results


def before_after(host: shared.Host, plan: dict[str, Any], pictures: Sequence[dict[str, Any]], cell: int) -> None:
    """The grid: base, erased and recovered below each other, the concept and kept ones beside each other."""
    first: dict[str, list[int]] = {}
    for number, post in enumerate(plan["posts"]):
        first.setdefault(post["label"], []).append(number)
    shown = [(label, first[label][0]) for label in plan["labels"]]
    concept = first[plan["concept"]]
    if len(concept) > 1:
        shown.insert(1, ("", concept[len(concept) // 2]))
    shown = shown[:COLUMNS]
    files = {(p["row"], p["post"]): p["file"] for p in reversed(pictures)}
    specification = {
        "title": f"'{plan['concept']}' erased, and recovered with the key (same seed in every row)",
        "rows": list(ROWS), "columns": [label for label, _ in shown], "cell": cell,
        "cells": [[files[row, number] for _, number in shown] for row in ROWS],
        "out": str(OUT / "before_after.png"),
    }  # fmt: skip
    (OUT / "sheet.json").write_text(json.dumps(specification), encoding="utf-8")
    in_environment(host, "scripts.sheet", str(OUT / "sheet.json"))


def judged(host: shared.Host, plan: dict[str, Any], pictures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The judge's scores by row."""
    rows = [{key: picture[key] for key in ("row", "label", "file")} for picture in pictures]
    (OUT / "pictures.json").write_text(json.dumps({"concept": plan["concept"], "pictures": rows}), encoding="utf-8")
    in_environment(host, "toyworld.scoring", "judge", str(OUT / "pictures.json"), str(OUT / "scores.json"))
    scores: dict[str, Any] = json.loads((OUT / "scores.json").read_text(encoding="utf-8"))
    return scores


def figures(scores: dict[str, Any] | None) -> dict[str, dict[str, float | None]]:
    """The report's scores; nulls where there is no judge."""

    def score(row: str, name: str) -> float | None:
        return None if scores is None else round(scores[row][name], 4)

    def gone(name: str) -> float | None:
        shown = score("erased", name)
        return None if shown is None else round(1 - shown, 4)

    return {
        "base": {"top1_concept": score("base", "top1_concept"), "top1_kept": score("base", "top1_kept")},
        "erased": {
            "esr1": gone("top1_concept"), "esr3": gone("top3_concept"),
            "psr1": score("erased", "top1_kept"), "psr3": score("erased", "top3_kept"),
        },
        "recovered": {"top1_concept": score("recovered", "top1_concept"), "psr1": score("recovered", "top1_kept")},
    }  # fmt: skip


def artifact_bytes(file: Path) -> dict[str, int]:
    """Bytes of the change of the weights and of the key in an erasure's file, from its header; what the verdict is
    worked out from is neither."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    sizes = {"delta": 0, "key": 0}
    parts = {"delta": "delta", "prompt": "key"}
    for name, tensor in header.items():
        if part := parts.get(name.split(".")[0]):
            begin, end = tensor["data_offsets"]
            sizes[part] += end - begin
    return sizes


def newest_erasure(base: Path) -> Path:
    files = list((base / "output" / "erasures").glob("*.safetensors"))
    if not files:
        raise DemoError("The workflow ran, but left no file in output/erasures.")
    return max(files, key=lambda file: file.stat().st_mtime)


def tell_results(report: dict[str, Any]) -> None:
    """The figures as a table, and where everything is."""

    def share(value: float | None) -> str:
        return "  -  " if value is None else f"{value:.3f}"

    base, erased, recovered = report["base"], report["erased"], report["recovered"]
    hidden = None if erased["esr1"] is None else 1 - erased["esr1"]
    print(f"\n{'share of right pictures':<25}{repr(report['concept']):>12}{'kept':>10}")
    print(f"{'base':<25}{share(base['top1_concept']):>12}{share(base['top1_kept']):>10}")
    print(f"{'erased':<25}{share(hidden):>12}{share(erased['psr1']):>10}   "
          f"ESR-1 {share(erased['esr1'])}  ESR-3 {share(erased['esr3'])}  PSR-3 {share(erased['psr3'])}")  # fmt: skip
    print(f"{'recovered with the key':<25}{share(recovered['top1_concept']):>12}{share(recovered['psr1']):>10}")
    seconds, size = report["seconds"], report["artifact_bytes"]
    print(f"{report['images']} pictures a row, seeds {report['seeds']}; set-up {seconds['setup']:.0f} s, training "
          f"{seconds['train']:.0f} s, sampling {seconds['sample']:.0f} s; delta {size['delta'] / 1e3:.0f} kB, "
          f"key {size['key'] / 1e3:.0f} kB")  # fmt: skip


def relative(path: Path) -> str:
    return path.relative_to(PACK).as_posix()


# ---------------------------------------------------------------- command line


def demo(options: argparse.Namespace) -> None:
    """Everything, from nothing to the report. Raises DemoError, HostError and ClientError."""
    begun = time.monotonic()
    OUT.mkdir(parents=True, exist_ok=True)
    checkpoint = options.checkpoint or TOY_CHECKPOINT
    if not checkpoint.is_file():
        raise DemoError(f"There is no checkpoint {checkpoint}.")
    host = hosts.obtain()
    plan = real_plan(options.concept) if options.checkpoint else toy_plan(host, options.concept)
    packs = {"concept-erasure": PACK, "toyworld-family": PACK / "toyworld" / "node"}
    shipped = sorted((PACK / "toyworld" / "erasures").glob("*.safetensors"))
    base = servers.prepare_base(OUT / "base", packs, [checkpoint], shipped)
    with servers.Server(host, base, options.port, ARGUMENTS) as server:
        setup = time.monotonic() - begun
        connection = clients.Client(server.address)
        graph = Graph(connection.object_info())
        graph.prepare(plan, checkpoint.name, options)
        watch = Watch(graph, len(ROWS) * sum(post["batch"] for post in plan["posts"]))
        drawing = time.monotonic()
        pictures = draw(connection, graph, plan["posts"], watch)
        sample = time.monotonic() - drawing - watch.train_seconds
        erasure = OUT / f"{file_name(plan['concept'])}.safetensors"
        shutil.copyfile(newest_erasure(base), erasure)
        before_after(host, plan, pictures, 112 if options.checkpoint is None else 224)
        report = {
            "host": {"version": host.version},
            "concept": plan["concept"],
            "images": len(pictures) // len(ROWS),
            "seeds": plan["seeds"],
            **figures(None if options.checkpoint else judged(host, plan, pictures)),
            "seconds": {"setup": round(setup, 1), "train": round(watch.train_seconds, 1), "sample": round(sample, 1)},
            "artifact_bytes": artifact_bytes(erasure),
        }
        (OUT / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        tell_results(report)
        for path in (OUT / "before_after.png", OUT / "report.json", erasure):
            print(relative(path))
        if options.keep:
            keep(server)


def keep(server: servers.Server) -> None:
    """Waits for Ctrl-C, which ends a demo that is already done."""
    shared.tell(f"\nThe server keeps running at {server.address}; Ctrl-C ends it.")
    with contextlib.suppress(KeyboardInterrupt):
        while server.process is not None and server.process.poll() is None:
            time.sleep(0.5)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Erase a concept, recover it, and show both.")
    parser.add_argument("--concept", default="circle", help="what to erase (default: circle)")
    parser.add_argument("--checkpoint", type=Path, help="your own checkpoint instead of the toy world's")
    parser.add_argument("--size", type=int, help=f"edge of a picture with --checkpoint (default: {REAL_SIZE})")
    parser.add_argument("--steps", type=int, default=0, help="training steps (default: the preset's)")
    parser.add_argument("--port", type=int, help="port of the server (default: a free one)")
    parser.add_argument("--keep", action="store_true", help="leave the server running until Ctrl-C")
    options = parser.parse_args(arguments)
    options.size = options.size or (REAL_SIZE if options.checkpoint else 64)
    return options


def _stop_on_signal(*_: object) -> None:
    raise SystemExit(143)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, _stop_on_signal)
    try:
        demo(options)
    except (DemoError, shared.HostError, clients.ClientError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the server is stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
