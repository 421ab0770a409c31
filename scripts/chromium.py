"""Find or install the browser that the editor is tested in: the machine's own Chromium or Chrome.

Only the standard library is used, as in all that comes before the environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from . import shared
else:
    import shared

# chromium-browser comes last: on Ubuntu it may be a script that only tells to install something else.
NAMES = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
ARGUMENTS = (
    # Chromium's sandbox does not work as root or in most containers, and only pages of our own server are opened.
    "--no-sandbox",
    "--disable-gpu",
    # The rest keeps it from talking to anybody but that server.
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""What the browser is started with."""
INSTALL = ("apt-get", "install", "-y", "--no-install-recommends", "chromium")


def obtain(say: shared.Say = shared.tell) -> str:
    """The program of a Chromium or Chrome, which is installed first where that can be done without asking.

    Raises ``HostError`` with one sentence when there is none to be had.
    """
    program = find()
    if program is None and can_install():
        install(say)
        program = find()
    if program is None:
        raise shared.HostError(
            "There is no browser to test the editor in: install Chromium or Chrome (Debian: apt install chromium), or "
            "set CHROMIUM_PATH to the program, and run again."
        )
    return program


def find() -> str | None:
    """The program that ``CHROMIUM_PATH`` names, else the first on PATH; ``None`` without any."""
    chosen = os.environ.get("CHROMIUM_PATH")
    if chosen:
        return shutil.which(os.path.expanduser(chosen))
    return next((program for program in map(shutil.which, NAMES) if program), None)


def can_install() -> bool:
    """Whether this is a Debian, or one of its kind, and we may install there; not where the user chose a program."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    return is_root and shutil.which("apt-get") is not None and not os.environ.get("CHROMIUM_PATH")


def install(say: shared.Say = shared.tell) -> None:
    """Install Debian's Chromium; raises ``HostError`` with the end of what apt says when that fails."""
    say("Installing Chromium with apt-get")
    done = _apt(INSTALL)
    if done.returncode:
        # A fresh machine has no lists of packages, and those of an old one are out of date.
        _apt(("apt-get", "update"))
        done = _apt(INSTALL)
    if done.returncode:
        raise shared.HostError(f"Chromium could not be installed: {shared.last_lines(done.stdout, 3)}")


def _apt(command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environ
    )
