"""The client that needs nothing installed, run as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(server, tmp_path):
    """Runs the client on a short version of its workflow; returns the process and the folder of pictures."""
    prompt = json.loads((REPO / "workflows" / "api" / "erase_by_text.json").read_text())
    short = {
        "KSampler": {"steps": 2},
        "EmptyLatentImage": {"batch_size": 1, "width": 64, "height": 64},
        "CheckpointLoaderSimple": {"ckpt_name": "toyworld.safetensors"},
    }
    for node in prompt.values():
        node["inputs"] |= short.get(node["class_type"], {})
    (tmp_path / "short.json").write_text(json.dumps(prompt))

    def run(*arguments, **environ):
        client = REPO / "clients" / "http_and_websocket.py"
        command = [sys.executable, client, "--address", server.address, "--workflow", tmp_path / "short.json"]
        environ = {**os.environ, "PYTHONIOENCODING": "utf-8", **environ}
        command += ["--out", tmp_path / "out", *arguments]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environ, timeout=300)
        return done, tmp_path / "out"

    return run


def test_the_client_shows_progress_and_saves_the_pictures(run):
    done, folder = run("--concept", "star", "--prompt", "a blue star")
    assert done.returncode == 0, done.stderr
    assert "Sample: erased: 2/2" in done.stdout and "✓ star → " in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["base_0.png", "erased_0.png"]
    assert (folder / "base_0.png").read_bytes() != (folder / "erased_0.png").read_bytes()


def test_the_client_needs_no_websocket(run, tmp_path):
    (tmp_path / "websocket.py").write_text("raise ImportError")
    done, folder = run("--concept", "circle", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "2/2" not in done.stdout and len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--checkpoint", "none.safetensors"), "'none.safetensors' not in"),
        (
            ("--concept", "file: nowhere.txt"),
            "ErasureText was refused: concept - The file 'nowhere.txt' cannot be read",
        ),
        (("--address", "http://127.0.0.1:1"), "There is no ComfyUI at http://127.0.0.1:1"),
    ],
)
def test_the_client_says_what_is_wrong_in_a_sentence(run, arguments, words):
    done, _ = run(*arguments)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
