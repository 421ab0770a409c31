"""The scripts that find, start and talk to the host: all that needs neither a network nor the host."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

REPO = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    """A script as a module, whatever the path looks like in this process."""
    spec = importlib.util.spec_from_file_location(f"tested_scripts_{name}", REPO / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


host = load("host")
client = load("client")


def silent(line: str) -> None:
    """Say nothing."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep every test away from the real cache folder and the machine's settings."""
    for name in ("COMFYUI_PATH", "COMFYUI_PYTHON", "HOST_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CONCEPT_ERASURE_CACHE", str(tmp_path / "cache"))


def make_tree(root: Path, version: str = "0.30.0") -> Path:
    (root / "comfy").mkdir(parents=True)
    (root / "main.py").write_text("")
    (root / "comfy" / "cli_args.py").write_text('parser.add_argument("--disable-auto-launch")')
    (root / "comfyui_version.py").write_text(f'# a comment\n__version__ = "{version}"\n')
    return root


# ---------------------------------------------------------------- places


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/concept-erasure"),
        ("linux", {}, "/home/me/.cache/concept-erasure"),
        ("darwin", {"XDG_CACHE_HOME": "/xdg"}, "/home/me/Library/Caches/concept-erasure"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/concept-erasure"),
        ("win32", {}, "/home/me/AppData/Local/concept-erasure"),
        ("win32", {"CONCEPT_ERASURE_CACHE": "/chosen"}, "/chosen"),
    ],
)
def test_cache_folder_of_each_platform(monkeypatch, system, variables, expected):
    for name in ("CONCEPT_ERASURE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", "USERPROFILE": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(host.sys, "platform", system)
    # On Windows these paths are on the current drive, so only the text after it is compared.
    assert host.cache_folder().as_posix().endswith(expected)


def test_environment_key_follows_what_is_installed(monkeypatch):
    key = host.environment_key("torch\nnumpy\n")
    assert key == host.environment_key("torch  \r\nnumpy")
    assert key != host.environment_key("torch\nscipy\n")
    monkeypatch.setattr(host, "CONSTRAINTS", ("torch==1",))
    assert key != host.environment_key("torch\nnumpy\n")


def test_version_of(tmp_path):
    assert host.version_of(make_tree(tmp_path / "a", "0.18.2")) == "0.18.2"
    assert host.version_of(tmp_path) == "unknown"


# ---------------------------------------------------------------- obtaining


def test_comfyui_path_is_used_with_the_chosen_python(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(make_tree(tmp_path / "ComfyUI")))
    monkeypatch.setenv("COMFYUI_PYTHON", sys.executable)
    found = host.obtain(say=silent)
    assert (found.root, found.version, found.python) == (tmp_path / "ComfyUI", "0.30.0", Path(sys.executable))


def test_comfyui_path_brings_its_environment(tmp_path, monkeypatch):
    root = make_tree(tmp_path / "ComfyUI")
    python = host.python_of(root / ".venv")
    python.parent.mkdir(parents=True)
    python.write_text("")
    monkeypatch.setenv("COMFYUI_PATH", str(root))
    assert host.obtain(say=silent).python == python


def test_comfyui_path_that_is_none_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(host.HostError, match=r"main\.py"):
        host.obtain(say=silent)


def test_two_versions_at_once_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(make_tree(tmp_path / "ComfyUI")))
    with pytest.raises(host.HostError, match=r"0\.18\.2"):
        host.obtain("0.18.2", say=silent)


def test_comfyui_around_the_pack_is_found(tmp_path, monkeypatch):
    pack = make_tree(tmp_path / "ComfyUI") / "custom_nodes" / "pack"
    monkeypatch.setattr(host, "__file__", str(pack / "scripts" / "host.py"))
    assert host.enclosing_comfyui() == tmp_path / "ComfyUI"
    monkeypatch.setattr(host, "__file__", str(tmp_path / "elsewhere" / "pack" / "scripts" / "host.py"))
    monkeypatch.setattr(host, "PACK", tmp_path / "elsewhere" / "pack")
    assert host.enclosing_comfyui() is None


def test_version_that_is_not_to_be_had():
    with pytest.raises(host.HostError, match=r"choose one of .*0\.30\.0"):
        host.tree("0.1.0", say=silent)


def test_interrupted_download_is_not_taken_for_a_host(tmp_path, monkeypatch):
    broken = host.cache_folder() / "hosts" / "0.30.0" / "ComfyUI"
    broken.mkdir(parents=True)
    made = []
    monkeypatch.setattr(host, "_download_tree", lambda version, home, say, lock: made.append(home))
    host.tree("0.30.0", say=silent)
    assert made == [broken.parent]


def test_environment_without_marker_is_installed_again(monkeypatch):
    folder = host.cache_folder() / "environments" / "key"
    calls = []
    monkeypatch.setattr(host, "_runs", lambda *_: True)
    monkeypatch.setattr(host, "run_pip", lambda python, arguments, *_: calls.append(arguments[0]))
    half = folder / "lib" / "python3.12" / "site-packages"
    (half / "cut-1.dist-info").mkdir(parents=True)
    (half / "whole-1.dist-info").mkdir()
    (half / "whole-1.dist-info" / "RECORD").write_text("")
    assert not host._is_whole(folder)
    host._install(folder, "numpy\n", silent, -1)
    assert calls == ["install"]
    assert host._is_whole(folder)
    assert sorted(entry.name for entry in half.iterdir()) == ["whole-1.dist-info"]


def test_missing_ensurepip_is_one_clear_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(host.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(host.HostError, match="install python3-venv"):
        host._make_venv(tmp_path / "venv", silent)


def test_pip_lines_become_a_status():
    status = host._PipStatus()
    for line in ("Collecting torch==2.11.0 (from x)", "  Downloading torch-2.11.0-cp312-x.whl (530.7 MB)"):
        status.read(line)
    assert str(status) == "1 packages found, 1 fetched (531 MB), now fetching torch-2.11.0 (530.7 MB)"
    status.read("Installing collected packages: a, b, c")
    assert str(status).endswith("now writing 3 packages to disk")


# ---------------------------------------------------------------- unpacking


def make_archive(path: Path, entries: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type = tarfile.SYMTYPE
            info.linkname = target
            tar.addfile(info)
    return path


def test_only_the_wanted_folder_is_unpacked(tmp_path):
    entries = {"top/vendor/ComfyUI/a/b.py": b"b", "top/other.py": b"no", "top/vendor/ComfyUI2/c.py": b"no"}
    count = host.unpack(make_archive(tmp_path / "x.tar.gz", entries), "vendor/ComfyUI", tmp_path / "out")
    assert count == 1
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [tmp_path / "out" / "a" / "b.py"]


@pytest.mark.parametrize(
    "name", ["top/vendor/ComfyUI/../../../out.py", "top/vendor/ComfyUI/a/../../b", "top/vendor/ComfyUI/c:\\d"]
)
def test_unpack_refuses_to_leave_the_folder(tmp_path, name):
    archive = make_archive(tmp_path / "x.tar.gz", {name: b""})
    with pytest.raises(host.HostError, match="may not be unpacked"):
        host.unpack(archive, "vendor/ComfyUI", tmp_path / "in" / "side")
    assert not (tmp_path / "out.py").exists()


def test_unpack_refuses_links(tmp_path):
    archive = make_archive(tmp_path / "x.tar.gz", {}, {"top/vendor/ComfyUI/link": "/etc"})
    with pytest.raises(host.HostError, match="may not be unpacked"):
        host.unpack(archive, "vendor/ComfyUI", tmp_path / "out")


def test_check_hash(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    host.check_hash(tmp_path / "x", hashlib.sha256(b"x").hexdigest())
    with pytest.raises(host.HostError, match="SHA-256"):
        host.check_hash(tmp_path / "x", "0" * 64)


# ---------------------------------------------------------------- lock

HOLD = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("h", sys.argv[1])
h = sys.modules["h"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(h)
with h.locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_lock_of_a_living_process_holds_and_of_a_killed_one_is_free():
    file = str(REPO / "scripts" / "host.py")
    with subprocess.Popen([sys.executable, "-c", HOLD, file], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        descriptor = os.open(host.cache_folder() / "install.lock", os.O_RDWR)
        try:
            assert not host._try_lock(descriptor)
        finally:
            os.close(descriptor)
            other.kill()
    with host.locked(silent):
        pass


def test_lock_file_left_behind_is_no_lock():
    path = host.cache_folder() / "install.lock"
    path.parent.mkdir(parents=True)
    path.write_text("999999")
    with host.locked(silent):
        pass


# ---------------------------------------------------------------- base directory


def links(base: Path) -> dict[str, str]:
    places = [*(base / "custom_nodes").iterdir(), *(base / "models" / "checkpoints").iterdir()]
    return {entry.name: os.readlink(entry) for entry in places if entry.is_symlink()}


@pytest.fixture
def pack(tmp_path):
    folder = tmp_path / "pack"
    (folder / "tests").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (tmp_path / "toy.safetensors").write_bytes(b"weights")
    return folder


def can_link(folder: Path) -> bool:
    try:
        os.symlink(folder, folder / "probe", target_is_directory=True)
    except OSError:
        return False
    (folder / "probe").unlink()
    return True


def test_prepare_base_is_idempotent_and_replaces_stale_links(tmp_path, pack):
    if not can_link(tmp_path):
        pytest.skip("symbolic links are not permitted here")
    toy = tmp_path / "toy.safetensors"
    base = host.prepare_base(tmp_path / "base", {"concept-erasure": tmp_path}, [])
    (base / "custom_nodes" / "gone").symlink_to(tmp_path / "nowhere")
    for _ in range(2):
        host.prepare_base(base, {"concept-erasure": pack}, [toy])
        assert links(base) == {"concept-erasure": str(pack), "toy.safetensors": str(toy)}
    assert all((base / name).is_dir() for name in ("input", "output", "user"))


def test_prepare_base_copies_where_links_are_not_permitted(tmp_path, pack, monkeypatch):
    def refuse(*_, **__):
        raise OSError("not permitted")

    monkeypatch.setattr(host.os, "symlink", refuse)
    monkeypatch.setattr(host.os, "link", refuse)
    toy = tmp_path / "toy.safetensors"
    # The base lies in the pack, which must not be copied into itself.
    base = host.prepare_base(pack / "base", {"concept-erasure": pack}, [toy])
    (pack / "new.py").write_text("")
    host.prepare_base(base, {"concept-erasure": pack}, [toy])
    copied = base / "custom_nodes" / "concept-erasure"
    assert sorted(entry.name for entry in copied.iterdir()) == ["__init__.py", "new.py"]
    assert (base / "models" / "checkpoints" / "toy.safetensors").read_bytes() == b"weights"


def test_prepare_base_does_not_remove_what_it_did_not_make(tmp_path, pack):
    mine = tmp_path / "base" / "custom_nodes" / "concept-erasure"
    mine.mkdir(parents=True)
    with pytest.raises(host.HostError, match="in the way"):
        host.prepare_base(tmp_path / "base", {"concept-erasure": pack}, [])
    assert mine.is_dir()


def test_prepare_base_names_a_missing_source(tmp_path):
    with pytest.raises(host.HostError, match="is not there"):
        host.prepare_base(tmp_path / "base", {"x": tmp_path / "nowhere"}, [])


# ---------------------------------------------------------------- server

ANSWERING = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'{"system": {}}')
port = int(sys.argv[sys.argv.index("--port") + 1])
print("listening")
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def make_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str):
    root = make_tree(tmp_path / "ComfyUI")
    (root / "main.py").write_text(program)
    monkeypatch.setattr(host, "accelerator", lambda python: "cpu")
    return host.Server(host.Host(root, Path(sys.executable), "0.30.0", 0.0), tmp_path / "base", say=silent)


def test_server_starts_and_stops(tmp_path, monkeypatch):
    server = make_server(tmp_path, monkeypatch, ANSWERING)
    with server:
        assert host.get_json(server.address + "/system_stats") == {"system": {}}
        process = server.process
        assert "--cpu" in process.args and "--disable-auto-launch" in process.args
        assert "--database-url" not in process.args
    assert process.poll() is not None
    assert "listening" in server.tail()
    server.stop()


def test_server_that_ends_shows_its_log(tmp_path, monkeypatch):
    server = make_server(tmp_path, monkeypatch, "print('no such module'); raise SystemExit(3)")
    with pytest.raises(host.HostError, match=r"ended with code 3[\s\S]*no such module"):
        server.start()
    assert server.process is None


def test_server_that_does_not_answer_is_ended(tmp_path, monkeypatch):
    server = make_server(tmp_path, monkeypatch, "import time; print('thinking', flush=True); time.sleep(60)")
    with pytest.raises(host.HostError, match=r"did not answer within 1 s[\s\S]*thinking"):
        server.start(timeout=1)
    assert server.process is None


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
    "Patch": {
        "input": {"required": {"clip": ["CLIP"], "model": ["MODEL"], "ratio": ["FLOAT", {"default": 0.5}]}}
    },
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
        client.Client(f"http://127.0.0.1:{host.free_port()}").object_info()


# ---------------------------------------------------------------- bootstrap

BOOTSTRAPPED = """
import runpy, sys
from pathlib import Path
bootstrap = runpy.run_path(sys.argv[1])
repo, root = Path(sys.argv[2]), Path(sys.argv[3])
sys.path.insert(0, "")
bootstrap["install"](repo, root)
sys.path.append(str(repo))
import nodes
import benchmarks.thing
import concept_erasure.nodes.extra
print(nodes.WHO, benchmarks.thing.WHO, concept_erasure.nodes.extra.WHO)
"""


def test_bootstrap_keeps_both_trees_apart(tmp_path):
    repo, root = tmp_path / "pack", make_tree(tmp_path / "ComfyUI")
    (root / "nodes.py").write_text("WHO = 'host'")
    for folder in ("nodes", "benchmarks", "erasure"):
        (repo / folder).mkdir(parents=True)
    (repo / "__init__.py").write_text("raise RuntimeError('the pack was started')")
    (repo / "nodes" / "__init__.py").write_text("")
    (repo / "nodes" / "extra.py").write_text("from ..erasure.core import WHO")
    (repo / "erasure" / "core.py").write_text("WHO = 'pack'")
    (repo / "benchmarks" / "thing.py").write_text("WHO = 'benchmark'")
    arguments = [sys.executable, "-c", BOOTSTRAPPED, REPO / "scripts" / "bootstrap.py", repo, root]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=repo)
    assert done.stdout.split() == ["host", "benchmark", "pack"], done.stderr
