"""A real server with the pack, the toy family and the toy checkpoint, one for the whole session."""

from pathlib import Path

import pytest

from scripts import server as servers

REPO = Path(__file__).resolve().parents[2]
CHECKPOINT = REPO / "toyworld" / "toyworld.safetensors"


@pytest.fixture(scope="session")
def server(host, tmp_path_factory):
    packs = {"concept-erasure": REPO, "toy-world": REPO / "toyworld" / "node"}
    base = servers.prepare_base(tmp_path_factory.mktemp("base"), packs, [CHECKPOINT])
    with servers.Server(host, base) as running:
        yield running
