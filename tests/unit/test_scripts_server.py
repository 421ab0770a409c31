"""The base directory, and a server that is no ComfyUI."""

import os
import sys
from pathlib import Path

import pytest

from scripts import server as servers
from scripts import shared
from tests.unit.tools import make_tree, silent

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
    base = servers.prepare_base(tmp_path / "base", {"concept-erasure": tmp_path}, [])
    (base / "custom_nodes" / "gone").symlink_to(tmp_path / "nowhere")
    for _ in range(2):
        servers.prepare_base(base, {"concept-erasure": pack}, [toy])
        assert links(base) == {"concept-erasure": str(pack), "toy.safetensors": str(toy)}
    assert all((base / name).is_dir() for name in ("input", "output", "user"))


def test_prepare_base_copies_where_links_are_not_permitted(tmp_path, pack, monkeypatch):
    def refuse(*_, **__):
        raise OSError("not permitted")

    monkeypatch.setattr(servers.os, "symlink", refuse)
    monkeypatch.setattr(servers.os, "link", refuse)
    toy = tmp_path / "toy.safetensors"
    # The base lies in the pack, which must not be copied into itself.
    base = servers.prepare_base(pack / "base", {"concept-erasure": pack}, [toy])
    (pack / "new.py").write_text("")
    servers.prepare_base(base, {"concept-erasure": pack}, [toy])
    copied = base / "custom_nodes" / "concept-erasure"
    assert sorted(entry.name for entry in copied.iterdir()) == ["__init__.py", "new.py"]
    assert (base / "models" / "checkpoints" / "toy.safetensors").read_bytes() == b"weights"


def test_prepare_base_does_not_remove_what_it_did_not_make(tmp_path, pack):
    mine = tmp_path / "base" / "custom_nodes" / "concept-erasure"
    mine.mkdir(parents=True)
    with pytest.raises(shared.HostError, match="in the way"):
        servers.prepare_base(tmp_path / "base", {"concept-erasure": pack}, [])
    assert mine.is_dir()


def test_prepare_base_names_a_missing_source(tmp_path):
    with pytest.raises(shared.HostError, match="is not there"):
        servers.prepare_base(tmp_path / "base", {"x": tmp_path / "nowhere"}, [])


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
    monkeypatch.setattr(servers, "accelerator", lambda python: "cpu")
    return servers.Server(shared.Host(root, Path(sys.executable), "0.30.0", 0.0), tmp_path / "base", say=silent)


def test_server_starts_and_stops(tmp_path, monkeypatch):
    server = make_server(tmp_path, monkeypatch, ANSWERING)
    with server:
        assert servers.get_json(server.address + "/system_stats") == {"system": {}}
        process = server.process
        assert "--cpu" in process.args and "--disable-auto-launch" in process.args
        assert "--database-url" not in process.args
    assert process.poll() is not None
    assert "listening" in server.tail()
    server.stop()


def test_server_that_ends_shows_its_log(tmp_path, monkeypatch):
    server = make_server(tmp_path, monkeypatch, "print('no such module'); raise SystemExit(3)")
    with pytest.raises(shared.HostError, match=r"ended with code 3[\s\S]*no such module"):
        server.start()
    assert server.process is None


def test_server_that_does_not_answer_is_ended(tmp_path, monkeypatch):
    server = make_server(tmp_path, monkeypatch, "import time; print('thinking', flush=True); time.sleep(60)")
    with pytest.raises(shared.HostError, match=r"did not answer within 1 s[\s\S]*thinking"):
        server.start(timeout=1)
    assert server.process is None


def test_a_server_is_not_taken_for_another_on_its_port(tmp_path, monkeypatch):
    with make_server(tmp_path, monkeypatch, ANSWERING) as first:
        second = servers.Server(first.host, tmp_path / "other", port=first.port, say=silent)
        with pytest.raises(shared.HostError, match=f"listens on port {first.port}"):
            second.start()
        assert first.process.poll() is None


def test_two_servers_do_not_share_a_base_directory(tmp_path, monkeypatch):
    first = make_server(tmp_path, monkeypatch, ANSWERING)
    second = servers.Server(first.host, first.base, say=silent)
    with first, pytest.raises(shared.HostError, match=f"at {first.address} has the base directory"):
        second.start()
    with second:  # the first has ended
        assert second.process.poll() is None
