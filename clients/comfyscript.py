"""Erase a concept on a running ComfyUI with ComfyScript, where a graph is a few lines of Python.

``pip install "comfy-script[runtime]"``, then
``python clients/comfyscript.py --concept circle --prompt "a red circle" --checkpoint toyworld.safetensors --size 64``
saves the base model's pictures and those without the concept.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType
from typing import Any

from comfy_script import runtime


def connected(address: str) -> ModuleType:
    """The server's nodes as functions, ours among them; ComfyScript makes them once it knows the server."""
    runtime.load(address)
    from comfy_script.runtime import nodes

    return nodes


def drawn(nodes: ModuleType, options: argparse.Namespace) -> dict[str, list[Any]]:
    """The graph of the template *1 Erase by typing*: one prompt and seed, by the base model and without the concept."""
    with runtime.Workflow():
        model, clip, vae = nodes.CheckpointLoaderSimple(options.checkpoint)
        positive, negative = nodes.CLIPTextEncode(options.prompt, clip), nodes.CLIPTextEncode("", clip)
        latent = nodes.EmptyLatentImage(options.size, options.size, 4)
        # What is not given has the node's default, as in the editor.
        erased = nodes.ErasureText(model, clip, options.concept)
        images = {}
        for name, used in {"base": model, "erased": erased}.items():
            sampled = nodes.KSampler(used, options.seed, 20, options.cfg, "euler", "normal", positive, negative, latent)
            images[name] = nodes.VAEDecode(sampled, vae)
        return {name: runtime.util.get_images(image) for name, image in images.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="http://127.0.0.1:8188/", help="the server (default: %(default)s)")
    parser.add_argument("--checkpoint", required=True, help="a file in models/checkpoints")
    parser.add_argument("--concept", required=True, help="what to erase")
    parser.add_argument("--prompt", required=True, help="what to draw")
    parser.add_argument("--size", type=int, default=512, help="edge of a picture in pixels (default: %(default)s)")
    parser.add_argument("--cfg", type=float, default=7.0, help="guidance (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("output/client"), help="folder (default: %(default)s)")
    options = parser.parse_args()
    pictures = drawn(connected(options.address), options)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, images in pictures.items():
        for number, image in enumerate(images):
            path = options.out / f"{name}_{number}.png"
            image.save(path)
            print(path)


if __name__ == "__main__":
    main()
