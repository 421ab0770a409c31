"""Environments with pip, what pip tells, and the lock: all that needs no network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import installing, shared
from tests.unit.tools import silent

REPO = Path(__file__).resolve().parents[2]


def test_missing_ensurepip_is_one_clear_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(installing.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(shared.HostError, match="install python3-venv"):
        installing.make_venv(tmp_path / "venv", silent)


def test_pip_lines_become_a_status():
    status = installing._PipStatus()
    for line in ("Collecting torch==2.11.0 (from x)", "  Downloading torch-2.11.0-cp312-x.whl (530.7 MB)"):
        status.read(line)
    assert str(status) == "1 packages found, 1 fetched (531 MB), now fetching torch-2.11.0 (530.7 MB)"
    status.read("Installing collected packages: a, b, c")
    assert str(status).endswith("now writing 3 packages to disk")


# ---------------------------------------------------------------- lock

HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
import installing
with installing.locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_lock_of_a_living_process_holds_and_of_a_killed_one_is_free():
    folder = str(REPO / "scripts")
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        descriptor = os.open(shared.cache_folder() / "install.lock", os.O_RDWR)
        try:
            assert not installing._try_lock(descriptor)
        finally:
            os.close(descriptor)
            other.kill()
    with installing.locked(silent):
        pass


def test_lock_file_left_behind_is_no_lock():
    path = shared.cache_folder() / "install.lock"
    path.parent.mkdir(parents=True)
    path.write_text("999999")
    with installing.locked(silent):
        pass
