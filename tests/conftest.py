"""Makes the pack importable as ``concept_erasure``, beside the host and without running the pack's __init__.

And what all tests with a real server share; which server that is, their own folder says.
"""

import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent

_spec = importlib.util.spec_from_file_location("_bootstrap", REPO / "scripts" / "bootstrap.py")
bootstrap = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bootstrap)
bootstrap.install(REPO)


def pytest_configure(config):
    # A plain kill would leave a server running; leaving in the ordinary way ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@pytest.fixture(scope="session")
def host():
    """The ComfyUI that these tests run in."""
    from scripts import shared

    root = Path(os.environ["CONCEPT_ERASURE_HOST_ROOT"])
    return shared.Host(root, Path(sys.executable), shared.version_of(root), 0.0)


@pytest.fixture(scope="session")
def client(server):
    from scripts.client import Client

    return Client(server.address)


@pytest.fixture
def info(client):
    """What the server says of its nodes, now."""
    return client.object_info()
