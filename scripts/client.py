"""Talk to a ComfyUI server: turn workflows into prompts, queue them, follow them, fetch the images.

Only the standard library is used.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import socket
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Progress = Callable[[dict[str, Any]], None]
NodeId = int | str

MUTED, BYPASSED = 2, 4
NOTES = {"Note", "MarkdownNote"}
FRONTEND_ONLY = NOTES | {"Reroute", "PrimitiveNode"}
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR"}
UNSAVED = {"IMAGECOMPARE": {"__value__": ["", ""]}}
"""What the editor sends for widgets by their type that it shows, and keeps in no file."""
CONTROL_VALUES = {"fixed", "increment", "increment-wrap", "decrement", "randomize"}
SEEDS = {"seed", "noise_seed"}
WEBSOCKET_KEY = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
POLL_SECONDS = 0.3
SILENT_SECONDS = 20.0


class ClientError(RuntimeError):
    """The server refused a prompt, failed on it, or cannot be reached; the message is for the user."""


# ---------------------------------------------------------------- workflow to prompt


def gui_to_api(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """Turn a workflow saved by the editor into a prompt for the server.

    ``object_info`` is what the server answers on ``/object_info``. Raises ``ClientError`` for node types the
    server does not have, and for subgraphs.
    """
    graph = _Graph(workflow)
    prompt = {}
    for node in graph.nodes.values():
        if node["type"] in FRONTEND_ONLY or node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        if node["type"] in graph.subgraphs:
            raise ClientError(f"Node {node['id']} is a subgraph; unpack it in the editor and save again.")
        if node["type"] not in object_info:
            raise ClientError(f"The server has no node type {node['type']!r} (node {node['id']}).")
        info = object_info[node["type"]]
        title = node.get("title") or info.get("display_name") or node["type"]
        inputs = {**_widgets(node, info), **graph.linked_inputs(node)}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}
    return prompt


class _Graph:
    """The nodes and links of a workflow, and where a link really comes from."""

    def __init__(self, workflow: dict[str, Any]) -> None:
        self.nodes: dict[NodeId, dict[str, Any]] = {node["id"]: node for node in workflow["nodes"]}
        self.links = {link[0]: link for link in map(_link_row, workflow.get("links", [])) if link}
        self.subgraphs = {part["id"] for part in workflow.get("definitions", {}).get("subgraphs", [])}

    def linked_inputs(self, node: dict[str, Any]) -> dict[str, Any]:
        """The node's inputs that are linked: ``[node id, slot]``, or a value where a primitive gives it."""
        links = {}
        for slot in node.get("inputs") or []:
            origin = self.origin(slot.get("link"))
            if origin is None:
                continue
            source, index = origin
            links[slot["name"]] = (
                _primitive(source) if source["type"] == "PrimitiveNode" else [str(source["id"]), index]
            )
        return links

    def origin(self, link_id: NodeId | None) -> tuple[dict[str, Any], int] | None:
        """The node and output slot that feeds a link, past reroutes and bypassed nodes."""
        passed = set()
        while link_id is not None and link_id in self.links and link_id not in passed:
            passed.add(link_id)
            _, source_id, slot, kind = self.links[link_id]
            source = self.nodes.get(source_id)
            if source is None or source.get("mode", 0) == MUTED:
                return None
            if source["type"] == "Reroute":
                link_id = _first_link(source)
            elif source.get("mode", 0) == BYPASSED:
                link_id = _bypass(source, slot, kind)
            else:
                return source, slot
        return None


def _link_row(link: Any) -> tuple[NodeId, NodeId, int, Any] | None:
    """Id, source node, source slot and type of a link, in the older (array) or newer (object) form."""
    if isinstance(link, Mapping):
        return link["id"], link["origin_id"], link["origin_slot"], link.get("type")
    return (link[0], link[1], link[2], link[5] if len(link) > 5 else None) if link else None


def _first_link(node: dict[str, Any]) -> NodeId | None:
    slots = node.get("inputs") or []
    return slots[0].get("link") if slots else None


def _bypass(node: dict[str, Any], slot: int, kind: Any) -> NodeId | None:
    """The link a bypassed node passes on: of the input at the same place, else of the first that fits."""
    outputs = node.get("outputs") or []
    wanted = outputs[slot].get("type") if slot < len(outputs) else kind
    slots = node.get("inputs") or []
    order = [*slots[slot : slot + 1], *slots]
    for fits in (lambda have: have == wanted, lambda have: "*" in (have, wanted)):
        for entry in order:
            if entry.get("link") is not None and fits(entry.get("type")):
                link: NodeId = entry["link"]
                return link
    return None


def _primitive(node: dict[str, Any]) -> Any:
    values = node.get("widgets_values") or [None]
    return _plain(values[0])


def _widgets(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """The values of a node's widgets by name; a widget the file has no value for gets its default."""
    saved = node.get("widgets_values") or []
    if isinstance(saved, Mapping):
        return {name: _plain(saved[name]) for name, _, _ in widget_inputs(info) if name in saved}
    values = {}
    position = 0
    for name, kind, options in widget_inputs(info):
        if position < len(saved):
            values[name] = _plain(saved[position])
            position += 1
        else:
            values.update(_default(name, kind, options))
        if has_control(name, kind, options) and position < len(saved) and _is_control(saved[position]):
            position += 1
    return {**values, **_unsaved(info)}


def _unsaved(info: dict[str, Any]) -> dict[str, Any]:
    declared = info.get("input", {}).get("required") or {}
    return {name: UNSAVED[kind] for name, (kind, *_) in declared.items() if isinstance(kind, str) and kind in UNSAVED}


def widget_inputs(info: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, type and options of the inputs that the editor shows as widgets, in its order."""
    for group in ("required", "optional"):
        declared = info.get("input", {}).get(group) or {}
        for name in (info.get("input_order") or {}).get(group) or declared:
            specification = declared[name]
            kind = specification[0]
            options = specification[1] if len(specification) > 1 and isinstance(specification[1], dict) else {}
            shown = isinstance(kind, list) or options.get("widgetType", kind) in WIDGET_TYPES
            if shown and not options.get("forceInput") and not options.get("rawLink"):
                yield name, kind, options


def has_control(name: str, kind: Any, options: dict[str, Any]) -> bool:
    """Whether the editor keeps one more value after this one: what becomes of a seed after each run."""
    asked = options.get("control_after_generate")
    return bool(asked) if asked is not None else kind == "INT" and name in SEEDS


def _is_control(value: Any) -> bool:
    return isinstance(value, str) and value in CONTROL_VALUES


def _default(name: str, kind: Any, options: dict[str, Any]) -> dict[str, Any]:
    choices = kind if isinstance(kind, list) else options.get("options") or []
    if "default" in options:
        return {name: _plain(options["default"])}
    return {name: choices[0]} if choices else {}


def _plain(value: Any) -> Any:
    # The server would take a bare list for a link.
    return {"__value__": value} if isinstance(value, list) else value


# ---------------------------------------------------------------- client


class Client:
    """A connection to the server at ``address``, such as ``http://127.0.0.1:8188``."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.id = uuid.uuid4().hex
        # A proxy of the machine cannot reach a local server.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def object_info(self) -> dict[str, Any]:
        """The node types the server has."""
        return self._json("/object_info", timeout=120)

    def queue(self, prompt: dict[str, Any]) -> str:
        """Queue a prompt and return its id; raises ``ClientError`` that names the nodes objected to."""
        answer = self._json("/prompt", {"prompt": prompt, "client_id": self.id})
        if answer.get("node_errors"):
            # Some outputs are fine and would run alone; that is not what was asked for.
            self._request("/queue", {"delete": [answer.get("prompt_id")]})
            raise ClientError(_refusal(answer, prompt))
        return str(answer["prompt_id"])

    def wait(self, prompt_id: str, progress: Progress | None = None, timeout: float | None = None) -> dict[str, Any]:
        """Wait for a prompt and return its history entry.

        ``progress`` gets the server's messages about it: ``{"type": "progress", "data": {...}}`` and such.
        ``timeout`` is in seconds. Raises ``ClientError`` when the prompt fails, is interrupted, is dropped
        from the queue, when the server goes silent, or when the time is up.
        """
        begun = time.monotonic()
        with contextlib.ExitStack() as stack:
            messages = _Messages(self.address, self.id if progress else None)
            stack.callback(messages.close)
            for _ in self._until_done(prompt_id):
                for message in messages.read(POLL_SECONDS):
                    if progress and message.get("data", {}).get("prompt_id", prompt_id) == prompt_id:
                        progress(message)
                if timeout is not None and time.monotonic() - begun > timeout:
                    raise ClientError(f"The prompt was not done within {timeout:.0f} s.")
        history = self.outputs(prompt_id)
        _raise_failure(history)
        return history

    def _until_done(self, prompt_id: str) -> Iterator[None]:
        heard = time.monotonic()
        looks = missing = 0
        while True:
            try:
                if prompt_id in self._json(f"/history/{prompt_id}"):
                    return
                if looks % 10 == 0:
                    missing = 0 if self._is_queued(prompt_id) else missing + 1
                heard = time.monotonic()
            except ClientError:
                # A server that loads a large model may be too busy to answer for a while.
                if time.monotonic() - heard > SILENT_SECONDS:
                    raise
            if missing > 1:
                raise ClientError("The prompt left the server's queue without a result.")
            looks += 1
            yield

    def _is_queued(self, prompt_id: str) -> bool:
        queue = self._json("/queue")
        return any(prompt_id in entry[:2] for part in ("queue_running", "queue_pending") for entry in queue[part])

    def outputs(self, prompt_id: str) -> dict[str, Any]:
        """The history entry of a prompt that is done, as the server keeps it."""
        history: dict[str, Any] | None = self._json(f"/history/{prompt_id}").get(prompt_id)
        if history is None:
            raise ClientError(f"The server has no result for the prompt {prompt_id}.")
        return history

    def images(self, history: dict[str, Any]) -> dict[str, list[bytes]]:
        """The image files of a history entry, by the id of the node that saved them."""
        return {
            node: [self._request("/view?" + urllib.parse.urlencode(_place(image))) for image in output["images"]]
            for node, output in history.get("outputs", {}).items()
            if output.get("images")
        }

    def interrupt(self) -> None:
        """Stop the prompt that runs now."""
        self._request("/interrupt", {})

    def _json(self, path: str, body: dict[str, Any] | None = None, timeout: float = 30) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._request(path, body, timeout))
        return answer

    def _request(self, path: str, body: dict[str, Any] | None = None, timeout: float = 30) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        try:
            with self._opener.open(request, timeout=timeout) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise ClientError(_http_failure(path, error, body)) from error
        except (OSError, http.client.HTTPException) as error:
            raise ClientError(f"The server at {self.address} does not answer: {error}.") from error


def _place(image: dict[str, Any]) -> dict[str, str]:
    return {
        "filename": image["filename"],
        "subfolder": image.get("subfolder", ""),
        "type": image.get("type", "output"),
    }


def _http_failure(path: str, error: urllib.error.HTTPError, body: dict[str, Any] | None) -> str:
    text = error.read().decode("utf-8", "replace")
    with contextlib.suppress(ValueError, AttributeError, KeyError, TypeError):
        return _refusal(json.loads(text), (body or {}).get("prompt", {}))
    return f"The server answered {error.code} on {path}: {text.strip()[:500]}"


def _refusal(answer: dict[str, Any], prompt: dict[str, Any]) -> str:
    """The server's objections to a prompt, one line for each."""
    error = answer.get("error") or {}
    if isinstance(error, str):
        error = {"message": error}
    lines = []
    for node, found in (answer.get("node_errors") or {}).items():
        name = found.get("class_type") or prompt.get(node, {}).get("class_type", "?")
        for entry in found.get("errors", []):
            lines.append(f"  node {node} ({name}): {entry.get('message', '')}: {entry.get('details', '')}")
    head = error.get("message") or "some nodes are not valid"
    if error.get("details") and not lines:
        head += f": {error['details']}"
    return "\n".join([f"The server refused the prompt: {head}", *lines])


def _raise_failure(history: dict[str, Any]) -> None:
    status = history.get("status") or {}
    for kind, data in status.get("messages", []):
        if kind == "execution_error":
            message = str(data.get("exception_message", "")).strip()
            raise ClientError(f"Node {data.get('node_id')} ({data.get('node_type')}) failed: {message}")
        if kind == "execution_interrupted":
            where = f"node {data.get('node_id')} ({data.get('node_type')})"
            raise ClientError(f"The prompt was interrupted at {where}.")
    if status.get("status_str") == "error":
        raise ClientError("The prompt failed, and the server does not say why.")


# ---------------------------------------------------------------- websocket


class _Messages:
    """The server's messages, or silence of the same length where there is no websocket to be had."""

    def __init__(self, address: str, client_id: str | None) -> None:
        self.socket: _WebSocket | None = None
        if client_id is not None:
            with contextlib.suppress(OSError, ValueError):
                self.socket = _WebSocket(address, client_id)

    def read(self, seconds: float) -> list[dict[str, Any]]:
        """The messages that are there, after waiting for at most ``seconds`` for the first."""
        if self.socket is not None:
            try:
                texts = self.socket.read(seconds)
                return [message for message in map(json.loads, texts) if isinstance(message, dict)]
            except (OSError, ValueError):
                self.close()
        time.sleep(seconds)
        return []

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class _WebSocket:
    """As much of RFC 6455 as listening takes: the handshake, text frames, and answers to pings."""

    def __init__(self, address: str, client_id: str) -> None:
        place = urllib.parse.urlsplit(address)
        self.connection = socket.create_connection((place.hostname or "127.0.0.1", place.port or 80), timeout=10)
        self.buffer = b""
        self.text = b""
        self.text_opcode = 0
        self.closed = False
        try:
            self._shake_hands(place, client_id)
        except BaseException:
            self.connection.close()
            raise

    def _shake_hands(self, place: urllib.parse.SplitResult, client_id: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {place.path}/ws?clientId={client_id} HTTP/1.1",
            f"Host: {place.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        ]
        self.connection.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self.buffer:
            self._receive()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        accepted = base64.b64encode(hashlib.sha1((key + WEBSOCKET_KEY).encode()).digest())
        if b" 101 " not in head.split(b"\r\n")[0] or accepted not in head:
            raise ValueError("the server does not speak websocket")

    def _receive(self) -> None:
        chunk = self.connection.recv(65536)
        if not chunk:
            raise ConnectionError("the server closed the websocket")
        self.buffer += chunk

    def read(self, seconds: float) -> list[str]:
        """The text messages that have come in, after waiting for at most ``seconds``."""
        texts = list(self._texts())
        if texts:
            return texts
        if self.closed:
            raise ConnectionError("the server closed the websocket")
        self.connection.settimeout(seconds)
        # A frame that is cut by the timeout stays in the buffer.
        with contextlib.suppress(TimeoutError):
            self._receive()
        return list(self._texts())

    def _texts(self) -> Iterator[str]:
        while (frame := self._frame()) is not None:
            last, opcode, payload = frame
            self.closed = self.closed or opcode == 8
            if opcode == 9:
                self._pong(payload)
            if opcode in (1, 2):
                self.text, self.text_opcode = b"", opcode
            if opcode in (0, 1, 2):
                self.text += payload
                if last and self.text_opcode == 1:
                    yield self.text.decode("utf-8", "replace")

    def _frame(self) -> tuple[bool, int, bytes] | None:
        if len(self.buffer) < 2:
            return None
        first, length = self.buffer[0], self.buffer[1] & 0x7F
        start = 2 + {126: 2, 127: 8}.get(length, 0)
        if len(self.buffer) < start:
            return None
        if length >= 126:
            length = int.from_bytes(self.buffer[2:start], "big")
        if len(self.buffer) < start + length:
            return None
        payload = self.buffer[start : start + length]
        self.buffer = self.buffer[start + length :]
        return bool(first & 0x80), first & 0x0F, payload

    def _pong(self, payload: bytes) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        # A server that has just closed does not take it, but what it sent before is still to be read.
        with contextlib.suppress(OSError):
            self.connection.sendall(struct.pack("!BB", 0x8A, 0x80 | len(payload)) + mask + masked)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.close()
