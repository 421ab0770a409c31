"""The client: workflows into prompts, and its requests to a server that is no ComfyUI."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scripts import client
from scripts import server as servers

# ---------------------------------------------------------------- workflow to prompt

INFO = {
    "Loader": {
        "input": {"required": {"name": [["a.safetensors", "b.safetensors"]]}},
        "display_name": "Load it",
    },
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "steps": ["INT", {"default": 20}],
                "name": ["COMBO", {"options": ["euler", "heun"]}],
            },
            "optional": {"strength": ["FLOAT", {"default": 1.0}], "bound": ["FLOAT", {"forceInput": True}]},
        },
        "input_order": {"required": ["model", "seed", "steps", "name"], "optional": ["strength", "bound"]},
    },
    "Noise": {"input": {"required": {"noise_seed": ["INT", {}], "text": ["STRING", {"multiline": True}]}}},
    "Image": {"input": {"required": {"image": [["x.png"], {"image_upload": True}]}}},
    "Patch": {"input": {"required": {"clip": ["CLIP"], "model": ["MODEL"], "ratio": ["FLOAT", {"default": 0.5}]}}},
}


def node(number, kind, widgets=(), inputs=(), outputs=(), mode=0, **more):
    """A node as the editor saves it; inputs are (name, type, link) and outputs types."""
    return {
        "id": number,
        "type": kind,
        "mode": mode,
        "widgets_values": widgets if isinstance(widgets, dict) else list(widgets),
        "inputs": [{"name": name, "type": have, "link": link} for name, have, link in inputs],
        "outputs": [{"type": have} for have in outputs],
        **more,
    }


def convert(*nodes, links=()):
    """The inputs of each node of the prompt, by id."""
    prompt = client.gui_to_api({"nodes": list(nodes), "links": [list(link) for link in links]}, INFO)
    return {number: entry["inputs"] for number, entry in prompt.items()}


def test_widgets_by_position_with_control_value():
    prompt = convert(
        node(1, "Loader", ["b.safetensors"], outputs=["MODEL"]),
        node(2, "Sampler", [7, "randomize", 30, "heun", 0.25], [("model", "MODEL", 5)]),
        links=[(5, 1, 0, 2, 0, "MODEL")],
    )
    assert prompt["1"] == {"name": "b.safetensors"}
    assert prompt["2"] == {"model": ["1", 0], "seed": 7, "steps": 30, "name": "heun", "strength": 0.25}


def test_links_as_objects():
    link = {"id": 5, "origin_id": 1, "origin_slot": 0, "target_id": 2, "target_slot": 0, "type": "MODEL"}
    nodes = [
        node(1, "Loader", ["a.safetensors"], outputs=["MODEL"]),
        node(2, "Sampler", [], [("model", "MODEL", 5)]),
    ]
    assert client.gui_to_api({"nodes": nodes, "links": [link]}, INFO)["2"]["inputs"]["model"] == ["1", 0]


def test_control_value_may_be_missing_and_is_expected_by_name():
    assert convert(node(1, "Sampler", [7, 30, "heun"]))["1"] == {
        "seed": 7, "steps": 30, "name": "heun", "strength": 1.0,
    }  # fmt: skip
    assert convert(node(1, "Noise", [3, "fixed", "a dog"]))["1"] == {"noise_seed": 3, "text": "a dog"}


def test_missing_values_get_defaults():
    assert convert(node(1, "Sampler", []))["1"] == {"seed": 0, "steps": 20, "name": "euler", "strength": 1.0}


def test_values_by_name_and_lists_as_values():
    assert convert(node(1, "Noise", {"noise_seed": 1, "text": [1, 2]}))["1"] == {
        "noise_seed": 1, "text": {"__value__": [1, 2]},
    }  # fmt: skip


def test_upload_widget_is_ignored():
    assert convert(node(1, "Image", ["x.png", "image"]))["1"] == {"image": "x.png"}


def test_widget_turned_into_a_socket_keeps_its_place():
    prompt = convert(
        node(1, "Noise", [4, "fixed", "x"], outputs=["INT"]),
        node(2, "Sampler", [7, "fixed", 30, "heun", 1.0], [("steps", "INT", 9)]),
        links=[(9, 1, 0, 2, 1, "INT")],
    )
    assert prompt["2"] == {"seed": 7, "steps": ["1", 0], "name": "heun", "strength": 1.0}


def test_primitive_and_reroute_are_resolved():
    prompt = convert(
        node(1, "Loader", ["a.safetensors"], outputs=["MODEL"]),
        node(2, "Reroute", inputs=[("", "*", 1)], outputs=["*"]),
        node(3, "PrimitiveNode", [12, "fixed"], outputs=["INT"]),
        node(4, "Sampler", [7, "fixed", 30, "heun", 1.0], [("model", "MODEL", 2), ("steps", "INT", 3)]),
        node(5, "MarkdownNote", ["read me"]),
        links=[(1, 1, 0, 2, 0, "*"), (2, 2, 0, 4, 0, "MODEL"), (3, 3, 0, 4, 1, "INT")],
    )
    assert set(prompt) == {"1", "4"}
    assert prompt["4"]["model"] == ["1", 0]
    assert prompt["4"]["steps"] == 12


def test_bypassed_node_passes_its_model_through_and_muted_gives_nothing():
    def graph(mode):
        return convert(
            node(1, "Loader", ["a.safetensors"], outputs=["CLIP", "MODEL"]),
            node(2, "Patch", [0.5], [("clip", "CLIP", 1), ("model", "MODEL", 2)], ["MODEL"], mode=mode),
            node(3, "Sampler", [7, "fixed", 30, "heun", 1.0], [("model", "MODEL", 3)]),
            links=[(1, 1, 0, 2, 0, "CLIP"), (2, 1, 1, 2, 1, "MODEL"), (3, 2, 0, 3, 0, "MODEL")],
        )

    assert graph(0)["3"]["model"] == ["2", 0]
    assert set(graph(4)) == {"1", "3"} and graph(4)["3"]["model"] == ["1", 1]
    assert set(graph(2)) == {"1", "3"} and "model" not in graph(2)["3"]


def test_unknown_node_and_subgraph_are_errors():
    with pytest.raises(client.ClientError, match="no node type 'Missing'"):
        convert(node(1, "Missing"))
    with pytest.raises(client.ClientError, match="subgraph"):
        client.gui_to_api({"nodes": [node(1, "u-u")], "definitions": {"subgraphs": [{"id": "u-u"}]}}, INFO)


# ---------------------------------------------------------------- client


def frame(opcode: int, payload: bytes, last: bool = True) -> bytes:
    size = len(payload)
    head = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
    return bytes([(0x80 if last else 0) | opcode]) + head + payload


class FakeComfy(BaseHTTPRequestHandler):
    """A server that has one prompt "p", done after two looks at its history."""

    history: dict = {}
    looks = 0

    def log_message(self, *_):
        """Keep quiet."""

    def answer(self, value, code=200):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path.startswith("/ws"):
            self.websocket()
        elif self.path.startswith("/history"):
            type(self).looks += 1
            self.answer(self.history if self.looks > 2 else {})
        elif self.path.startswith("/queue"):
            self.answer({"queue_running": [[0, "p"]], "queue_pending": []})
        else:
            self.answer(b"PNG of " + self.path.encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body.get("prompt"):
            self.answer({"prompt_id": "p", "number": 1, "node_errors": {}})
            return
        errors = [{"message": "Value not in list", "details": "name: 'x'"}]
        self.answer(
            {
                "error": {"message": "Prompt outputs failed validation", "details": ""},
                "node_errors": {"3": {"class_type": "Loader", "errors": errors}},
            },
            400,
        )

    def websocket(self):
        key = self.headers["Sec-WebSocket-Key"] + client.WEBSOCKET_KEY
        accepted = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        head = f"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accepted}\r\n\r\n"
        data = {"value": 1, "prompt_id": "p", "pad": "x" * 200}
        progress = json.dumps({"type": "progress", "data": data}).encode()
        other = json.dumps({"type": "progress", "data": {"prompt_id": "another"}}).encode()
        stream = frame(9, b"hi") + frame(2, b"\0" * 300) + frame(1, other)
        stream += frame(1, progress[:50], last=False) + frame(0, progress[50:])
        self.wfile.write(head.encode() + stream[:100])
        self.wfile.flush()
        self.wfile.write(stream[100:] + frame(8, b""))
        self.close_connection = True


@pytest.fixture
def fake():
    FakeComfy.looks = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeComfy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield client.Client(f"http://127.0.0.1:{server.server_address[1]}")
    server.shutdown()
    server.server_close()


def test_client_waits_with_progress_and_fetches_images(fake, monkeypatch):
    image = {"filename": "a b.png", "subfolder": "s", "type": "output"}
    history = {
        "outputs": {"9": {"images": [image]}, "8": {"text": ["x"]}},
        "status": {"status_str": "success"},
    }
    monkeypatch.setattr(FakeComfy, "history", {"p": history})
    seen = []
    done = fake.wait(fake.queue({"1": {}}), seen.append, timeout=30)
    assert done == history
    assert [message["data"]["value"] for message in seen] == [1]
    assert fake.images(done) == {"9": [b"PNG of /view?filename=a+b.png&subfolder=s&type=output"]}


def test_client_reports_a_failed_node(fake, monkeypatch):
    error = {"node_id": "3", "node_type": "Sampler", "exception_message": "out of luck\n"}
    status = {"status_str": "error", "messages": [["execution_start", {}], ["execution_error", error]]}
    monkeypatch.setattr(FakeComfy, "history", {"p": {"outputs": {}, "status": status}})
    with pytest.raises(client.ClientError, match=r"^Node 3 \(Sampler\) failed: out of luck$"):
        fake.wait("p")


def test_client_gives_up_in_time(fake, monkeypatch):
    monkeypatch.setattr(FakeComfy, "history", {})
    with pytest.raises(client.ClientError, match="not done within"):
        fake.wait("p", timeout=0.5)


def test_client_names_the_nodes_the_server_refuses(fake):
    with pytest.raises(client.ClientError, match=r"validation\n  node 3 \(Loader\): Value not in list: name"):
        fake.queue({})


def test_client_without_a_server():
    with pytest.raises(client.ClientError, match="does not answer"):
        client.Client(f"http://127.0.0.1:{servers.free_port()}").object_info()
