"""Finding a browser, and installing one: on a machine that is only pretended."""

import os
import subprocess

import pytest

from scripts import chromium, shared
from tests.unit.tools import silent


class Machine:
    """Programs on PATH, and what apt-get was told; ``fails`` holds what it refuses, one entry each time."""

    def __init__(self):
        self.programs = {}
        self.told = []
        self.fails = []

    def run(self, command, **_):
        self.told.append(command[1])
        failed = command[1] in self.fails and self.fails.remove(command[1]) is None
        if command == chromium.INSTALL and not failed:
            self.programs["chromium"] = "/usr/bin/chromium"
        return subprocess.CompletedProcess(command, int(failed), "Reading\nE: Unable to locate package chromium\n")


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.delenv("CHROMIUM_PATH", raising=False)
    monkeypatch.setattr(chromium.shutil, "which", machine.programs.get)
    monkeypatch.setattr(chromium.subprocess, "run", machine.run)
    return machine


@pytest.fixture
def debian(machine, monkeypatch):
    machine.programs["apt-get"] = "/usr/bin/apt-get"
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    return machine


def test_a_browser_on_path_is_used_and_nothing_installed(debian):
    debian.programs |= {"chromium-browser": "/stub", "google-chrome": "/opt/chrome"}
    assert chromium.obtain(silent) == "/opt/chrome"
    debian.programs["chromium"] = "/usr/bin/chromium"
    assert chromium.obtain(silent) == "/usr/bin/chromium"
    assert debian.told == []


def test_the_chosen_program_comes_first(debian, monkeypatch):
    debian.programs |= {"chromium": "/usr/bin/chromium", "/my/chrome": "/my/chrome"}
    monkeypatch.setenv("CHROMIUM_PATH", "/my/chrome")
    assert chromium.obtain(silent) == "/my/chrome"


def test_a_chosen_program_that_is_none_is_an_error_and_nothing_installed(debian, monkeypatch):
    monkeypatch.setenv("CHROMIUM_PATH", "/no/such")
    with pytest.raises(shared.HostError, match="CHROMIUM_PATH"):
        chromium.obtain(silent)
    assert debian.told == []


def test_debian_gets_its_chromium(debian):
    assert chromium.obtain(silent) == "/usr/bin/chromium"
    assert debian.told == ["install"]


def test_lists_of_packages_are_fetched_where_they_are_missing(debian):
    debian.fails = ["install"]
    assert chromium.obtain(silent) == "/usr/bin/chromium"
    assert debian.told == ["install", "update", "install"]


def test_an_install_that_fails_says_why(debian):
    debian.fails = ["install", "install"]
    with pytest.raises(shared.HostError, match="could not be installed: [^.]*Unable to locate package chromium"):
        chromium.obtain(silent)


@pytest.mark.parametrize("lacking", ["rights", "apt-get"])
def test_elsewhere_one_sentence_says_what_to_install(debian, monkeypatch, lacking):
    if lacking == "rights":
        monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    else:
        del debian.programs["apt-get"]
    with pytest.raises(shared.HostError, match=r"install Chromium or Chrome .*\.$"):
        chromium.obtain(silent)
    assert debian.told == []
