"""What the registry publishes, unzipped into a ComfyUI of its own, as the Manager does it."""

import io
import json
import re
import subprocess
import zipfile
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from scripts import client as clients
from scripts import server as servers
from scripts.make_workflows import CONCEPT, PROMPT, for_the_toy_world, prompt_of, template
from scripts.server import get, get_json

REPO = Path(__file__).resolve().parents[2]
TOYWORLD = REPO / "toyworld"
NODE_IDS = set(json.loads((REPO / "tests" / "host" / "schema.json").read_text()))
NAME = re.search(r'^name = "(.+)"$', (REPO / "pyproject.toml").read_text(), re.MULTILINE).group(1)
"""The registry's name of the pack, which is the Manager's folder for it."""
LEFT_OUT = {".ci", ".github", "benchmarks", "clients", "docs", "output", "scripts", "tests", "toyworld"}
LARGEST = 3_000_000
"""Bytes an archive may have."""


def git_files(*options: str) -> set[str]:
    """Paths of the working tree, tracked or not yet, so that a change is tested before it is committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", *options]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    return set(done.stdout.split("\0")) - {""}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """What ``comfy node pack`` makes: the files that git knows, without those that .comfyignore names."""
    path = tmp_path_factory.mktemp("archive") / "node.zip"
    shipped = git_files("--exclude-standard") - git_files("--ignored", "--exclude-from=.comfyignore")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name in sorted(shipped):
            if (REPO / name).is_file():
                opened.write(REPO / name, name)
    return path


@pytest.fixture(scope="module")
def installed(host, archive, tmp_path_factory):
    """A server with the unzipped archive and what the toy world needs, and nothing else of this repository."""
    base = servers.prepare_base(
        tmp_path_factory.mktemp("base"), {"toy-world": TOYWORLD / "node"}, [TOYWORLD / "toyworld.safetensors"],
        [TOYWORLD / "erasures" / "circle.safetensors"],
    )  # fmt: skip
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(base / "custom_nodes" / NAME)
    with servers.Server(host, base) as running:
        yield running


@pytest.fixture
def pack(installed):
    return installed.base / "custom_nodes" / NAME


def complaints(server: servers.Server) -> list[str]:
    """What the server's log says of the pack, but for the seconds its import took: frames of tracebacks, warnings."""
    lines = server.log.read_text(encoding="utf-8", errors="replace").splitlines()
    ours = [line for line in lines if str(Path("custom_nodes", NAME)) in line]
    assert ours, "the log does not even say that it was imported"
    return [line for line in ours if not re.search(r"\d seconds: ", line)]


def files(folder: Path, pattern: str) -> list[Path]:
    found = sorted(folder.glob(pattern))
    assert found, f"{folder} has no {pattern}"
    return found


def test_an_archive_is_small_and_holds_the_product_alone(archive):
    assert archive.stat().st_size < LARGEST
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
    assert {name.split("/")[0] for name in names} & LEFT_OUT == set()
    assert {"__init__.py", "LICENSE", "README.md", "pyproject.toml", "requirements.txt"} <= set(names)


def test_an_unzipped_archive_loads_without_complaint(installed):
    assert complaints(installed) == []
    info = clients.Client(installed.address).object_info()
    ours = {name for name, node in info.items() if node["python_module"] == f"custom_nodes.{NAME}"}
    assert ours == NODE_IDS


def test_an_unzipped_archive_has_its_templates(installed, pack):
    templates = files(pack, "workflows/*.json")
    assert set(get_json(f"{installed.address}/workflow_templates")[NAME]) == {path.stem for path in templates}
    for path in [*templates, *(path.with_suffix(".jpg") for path in templates)]:
        assert get(f"{installed.address}/api/workflow_templates/{NAME}/{quote(path.name)}") == path.read_bytes()


def test_an_unzipped_archive_has_its_blueprints(installed, pack):
    offered = get_json(f"{installed.address}/global_subgraphs").values()
    ours = {entry["name"] for entry in offered if entry["info"]["node_pack"] == f"custom_nodes.{NAME}"}
    assert ours == {path.stem for path in files(pack, "subgraphs/*.json")}


def test_an_unzipped_archive_speaks_its_languages(installed, pack):
    served = get_json(f"{installed.address}/i18n")
    for path in files(pack, "locales/*/nodeDefs.json"):
        ours = json.loads(path.read_text(encoding="utf-8"))
        assert {name: served[path.parent.name]["nodeDefs"].get(name) for name in ours} == ours


def test_an_unzipped_archive_has_its_help_pages(installed):
    for name in NODE_IDS:
        assert get(f"{installed.address}/extensions/{NAME}/docs/{name}.md").strip()


WORDS = {"text": PROMPT, "concept": CONCEPT, "concepts": CONCEPT, "file": f"{CONCEPT}.safetensors"}
"""For the toy world; everything else is as it ships."""


@pytest.mark.parametrize("slug", ["erase_by_text", "erase_with_saved_file"])
def test_an_unzipped_archive_erases(installed, pack, slug):
    """People's templates with the toy world's words, against the picture that strength 0 gives."""
    client = clients.Client(installed.address)
    saved = json.loads((pack / "workflows" / f"{template(slug).title}.json").read_text())
    prompt = for_the_toy_world(prompt_of(saved, client.object_info(), everything=True))
    for entry in prompt.values():
        entry["inputs"] |= {name: WORDS[name] for name in WORDS if entry["inputs"].get(name)}
    [eraser] = [key for key, entry in prompt.items() if entry["class_type"] in ("ErasureText", "ErasureApply")]
    [shown] = [key for key, entry in prompt.items() if entry["_meta"]["title"] == "Erased"]
    for entry in prompt.values():
        entry["inputs"] |= {"batch_size": 2} if "batch_size" in entry["inputs"] else {}
    pictures = {}
    for strength in (1.0, 0.0):
        prompt[eraser]["inputs"]["strength"] = strength
        images = client.images(client.wait(client.queue(prompt), timeout=300))[shown]
        pictures[strength] = np.stack([np.asarray(Image.open(io.BytesIO(png)), dtype=int) for png in images])
    assert abs(pictures[1.0] - pictures[0.0]).max(axis=(1, 2, 3)).min() > 50, "every picture of the batch has changed"
    assert complaints(installed) == []
