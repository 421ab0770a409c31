"""Erase a concept on a running ComfyUI over its HTTP API, with the standard library alone.

``python3 clients/http_and_websocket.py --concept circle --prompt "a red circle" --checkpoint toyworld.safetensors``
queues ``workflows/api/erase_by_text.json``, shows the progress and saves the pictures. With the package
``websocket-client`` the server tells every step; without it, it is asked once a second whether it is done.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import websocket
except ImportError:
    websocket = None  # type: ignore[assignment]

WORKFLOW = Path(__file__).resolve().parents[1] / "workflows" / "api" / "erase_by_text.json"


class ServerError(RuntimeError):
    """The server did not do what was asked; the message is for the user."""


# ---------------------------------------------------------------- the prompt, in the API's format


def fill_in(prompt: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The prompt with what was given on the command line. Nodes are found by type or title, for ids may change."""
    for node in prompt.values():
        inputs = node["inputs"]
        if node["_meta"]["title"] == "Prompt" and options.prompt:
            inputs["text"] = options.prompt
        if node["class_type"] == "CheckpointLoaderSimple" and options.checkpoint:
            inputs["ckpt_name"] = options.checkpoint
        if node["class_type"] == "EmptyLatentImage" and options.size:
            inputs["width"] = inputs["height"] = options.size
        # Instant Erasure takes several concepts, the other nodes one.
        for name in {"concept", "concepts"} & set(inputs):
            inputs[name] = options.concept or inputs[name]
    return prompt


# ---------------------------------------------------------------- the server


def request(address: str, path: str, body: dict[str, Any] | None = None) -> bytes:
    """GET a path, or POST JSON to it. Raises ``ServerError`` with what the server says."""
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise ServerError(f"The server answered {error.code}: {error.read().decode(errors='replace')}") from error
    except OSError as error:
        raise ServerError(f"There is no ComfyUI at {address}: {error}.") from error


def run(address: str, prompt: dict[str, Any]) -> dict[str, Any]:
    """Queue a prompt, wait until it is done, and return its entry in the server's history."""
    client_id = uuid.uuid4().hex
    # Connected before the prompt is queued, or the first messages would be missed.
    connection = connected(address, client_id)
    queued = json.loads(request(address, "/prompt", {"prompt": prompt, "client_id": client_id}))
    prompt_id = queued["prompt_id"]
    if queued.get("node_errors"):
        # What does not hang on the refused nodes would run alone; that is not what was asked for.
        request(address, "/queue", {"delete": [prompt_id]})
        raise ServerError(refusal(queued["node_errors"]))
    if connection is not None:
        # A connection that breaks costs the progress, not the pictures.
        with contextlib.suppress(OSError, websocket.WebSocketException):
            show_progress(prompt, prompt_id, messages(connection))
    history = wait(address, prompt_id)
    if history["status"]["status_str"] != "success":
        raise ServerError(failure(history))
    return history


def connected(address: str, client_id: str) -> Any:
    """A websocket to the server, or None where there is none to be had."""
    if websocket is None:
        return None
    try:
        return websocket.create_connection(f"{address.replace('http', 'ws', 1)}/ws?clientId={client_id}")
    except (OSError, websocket.WebSocketException):
        return None


def messages(connection: Any) -> Iterator[dict[str, Any]]:
    """The server's messages to this client; its previews, which are not text, are left out."""
    while True:
        message = connection.recv()
        if isinstance(message, str):
            yield json.loads(message)


def show_progress(prompt: dict[str, Any], prompt_id: str, received: Iterator[dict[str, Any]]) -> None:
    """Prints the node that runs and its steps, until the prompt is done or has failed."""
    for message in received:
        kind, data = message["type"], message["data"]
        if data.get("prompt_id") != prompt_id:
            continue
        if kind == "progress":
            end = "\n" if data["value"] == data["max"] else ""
            print(f"\r{prompt[data['node']]['_meta']['title']}: {data['value']}/{data['max']}", end=end, flush=True)
        if kind in ("execution_success", "execution_error", "execution_interrupted"):
            return


def wait(address: str, prompt_id: str) -> dict[str, Any]:
    """The history entry of a prompt, which is there once it is done."""
    while True:
        history: dict[str, Any] = json.loads(request(address, f"/history/{prompt_id}"))
        if prompt_id in history:
            return dict(history[prompt_id])
        time.sleep(1)


def refusal(objections: dict[str, Any]) -> str:
    """Which node the server refused to run, and why."""
    first = next(iter(objections.values()))
    details = [error["details"] for error in first["errors"] if error.get("details")]
    return f"{first['class_type']} was refused: {'; '.join(details)}"


def failure(history: dict[str, Any]) -> str:
    """Which node failed, and its own words."""
    for kind, data in history["status"]["messages"]:
        if kind == "execution_error":
            return f"{data['node_type']} failed: {data['exception_message'].strip()}"
    return "The prompt was interrupted."


def save_pictures(address: str, prompt: dict[str, Any], history: dict[str, Any], folder: Path) -> None:
    """Writes the pictures of every node as ``TITLE_NUMBER.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    for node_id, output in history["outputs"].items():
        title = prompt[node_id]["_meta"]["title"].replace(" ", "_").lower()
        for number, image in enumerate(output.get("images", [])):
            path = folder / f"{title}_{number}.png"
            path.write_bytes(request(address, "/view?" + urllib.parse.urlencode(image)))
            print(path)
        for text in output.get("text", []):
            print(f"{title}: {text}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="http://127.0.0.1:8188", help="the server (default: %(default)s)")
    parser.add_argument("--workflow", type=Path, default=WORKFLOW, help="in the API's format (default: erase_by_text)")
    parser.add_argument("--concept", help="what to erase")
    parser.add_argument("--prompt", help="what to draw")
    parser.add_argument("--checkpoint", help="a file in models/checkpoints")
    parser.add_argument("--size", type=int, help="edge of a picture in pixels")
    parser.add_argument("--out", type=Path, default=Path("output/client"), help="folder (default: %(default)s)")
    options = parser.parse_args()
    prompt = fill_in(json.loads(options.workflow.read_text(encoding="utf-8")), options)
    try:
        save_pictures(options.address, prompt, run(options.address, prompt), options.out)
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
