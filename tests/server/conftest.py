"""A real server with the pack, the toy family and the toy checkpoint, one for the whole session."""

import os
import signal
import sys
from pathlib import Path

import pytest

from scripts import client as clients
from scripts import server as servers
from scripts import shared

REPO = Path(__file__).resolve().parents[2]
CHECKPOINT = REPO / "toyworld" / "toyworld.safetensors"


def pytest_configure(config):
    # A plain kill would leave the server running; leaving in the ordinary way ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@pytest.fixture(scope="session")
def host():
    """The ComfyUI that these tests run in."""
    root = Path(os.environ["CONCEPT_ERASURE_HOST_ROOT"])
    return shared.Host(root, Path(sys.executable), shared.version_of(root), 0.0)


@pytest.fixture(scope="session")
def server(host, tmp_path_factory):
    packs = {"concept-erasure": REPO, "toyworld-family": REPO / "toyworld" / "node"}
    base = servers.prepare_base(tmp_path_factory.mktemp("base"), packs, [CHECKPOINT])
    with servers.Server(host, base) as running:
        yield running


@pytest.fixture(scope="session")
def client(server):
    return clients.Client(server.address)


@pytest.fixture
def info(client):
    """What the server says of its nodes, now."""
    return client.object_info()
