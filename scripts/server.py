"""Run a ComfyUI server: its base directory, and the process from the first answer to the last."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from . import shared
else:
    import shared

NOT_COPIED = (".git", "tests", "benchmarks", "output", "__pycache__")


# ---------------------------------------------------------------- base directory


def prepare_base(
    base: Path, packs: dict[str, Path], checkpoints: Sequence[Path] = (), erasures: Sequence[Path] = (),
    dictionaries: Sequence[Path] = (),
) -> Path:  # fmt: skip
    """Make a base directory: ComfyUI's folders, the packs in ``custom_nodes``, and model files.

    ``checkpoints`` go to ``models/checkpoints``, ``erasures`` to ``models/erasures`` and ``dictionaries`` to
    ``models/concept_dictionaries``.

    Things are linked, or copied where links are not permitted. Calling it again is harmless: links that point
    elsewhere are replaced and links that point nowhere removed. Raises ``HostError`` for a missing source.
    """
    base = Path(os.path.abspath(base))
    filled = ("custom_nodes", "models/checkpoints", "models/erasures", "models/concept_dictionaries")
    for name in (*filled, "input", "output", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    wanted = [(base / "custom_nodes" / name, source) for name, source in packs.items()]
    wanted += [(base / "models" / "checkpoints" / source.name, source) for source in checkpoints]
    wanted += [(base / "models" / "erasures" / source.name, source) for source in erasures]
    wanted += [(base / "models" / "concept_dictionaries" / source.name, source) for source in dictionaries]
    for name in filled:
        for entry in (base / name).iterdir():
            if entry.is_symlink() and not entry.exists():
                entry.unlink()
    for target, source in wanted:
        _place(target, Path(os.path.abspath(source)), base)
    return base


def toy_base(base: Path) -> Path:
    """A base directory with the pack and the toy world: three checkpoints, its erasures, its concept dictionary,
    its nodes and its templates."""
    toy = shared.PACK / "toyworld"
    packs = {"concept-erasure": shared.PACK, "toy-world": toy / "node"}
    checkpoints = [toy / "toyworld.safetensors", toy / "toyworld_flux.safetensors"]
    checkpoints += [shared.PACK / "drawnworld" / "drawnworld.safetensors"]
    erasures = sorted((toy / "erasures").glob("*.safetensors"))
    return prepare_base(base, packs, checkpoints, erasures, [toy / "dictionary.safetensors"])


def _place(target: Path, source: Path, base: Path) -> None:
    if not source.exists():
        raise shared.HostError(f"{source} is not there, so it cannot be put into {target.parent}.")
    note = target.with_name(f".{target.name}.source")
    if target.is_symlink():
        if target.resolve() == source.resolve():
            return
        target.unlink()
    elif target.exists():
        if not note.is_file():
            raise shared.HostError(f"{target} is in the way: remove it, it was not put there by this script.")
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    try:
        os.symlink(source, target, target_is_directory=source.is_dir())
        note.unlink(missing_ok=True)
    except OSError:
        note.write_text(str(source), encoding="utf-8")
        _copy(source, target, base)


def _copy(source: Path, target: Path, base: Path) -> None:
    if not source.is_dir():
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
        return

    def ignored(folder: str, names: list[str]) -> set[str]:
        # The base directory may lie inside the pack; copying it into itself would not end.
        return {name for name in names if name in NOT_COPIED or Path(folder, name) == base}

    shutil.copytree(source, target, ignore=ignored)


# ---------------------------------------------------------------- server


@functools.cache
def accelerator(python: Path) -> str:
    """What torch finds in an interpreter: "cuda" (also ROCm), "xpu", "mps" or "cpu"."""
    code = (
        "import torch; xpu = getattr(torch, 'xpu', None); mps = getattr(torch.backends, 'mps', None);"
        "print('cuda' if torch.cuda.is_available() else 'xpu' if xpu and xpu.is_available()"
        " else 'mps' if mps and mps.is_available() else 'cpu')"
    )
    try:
        done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, errors="replace", timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise shared.HostError(f"{python} could not be asked for its torch: {error}.") from error
    if done.returncode:
        raise shared.HostError(f"{python} cannot import torch: {shared.last_lines(done.stderr, 1)}")
    return done.stdout.split()[-1]


def free_port() -> int:
    """A TCP port on the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_taken(port: int) -> bool:
    """Whether something listens on a TCP port of the loopback address."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def get(address: str, timeout: float = 10.0) -> bytes:
    """GET a local address, past any proxy of the machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=timeout) as answer:
        return bytes(answer.read())


def get_json(address: str, timeout: float = 10.0) -> Any:
    """GET a local address, past any proxy of the machine, and decode the JSON."""
    return json.loads(get(address, timeout))


class Server:
    """A ComfyUI server on a free port with a base directory of its own; use it as a context manager.

    ``arguments`` are added to the command line. ``address`` is ``http://127.0.0.1:PORT``, ``log`` the file
    with all that the server prints.
    """

    def __init__(
        self,
        host: shared.Host,
        base: Path,
        port: int | None = None,
        arguments: Sequence[str] = (),
        say: shared.Say = shared.tell,
    ) -> None:
        self.host = host
        self.base = prepare_base(base, {})
        self.port = port or free_port()
        self.arguments = tuple(arguments)
        self.say = say
        self.address = f"http://127.0.0.1:{self.port}"
        self.log = self.base / "server.log"
        self.note = self.base / ".port"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """The command line, with only the options this version of the host knows."""
        known = (self.host.root / "comfy" / "cli_args.py").read_text(encoding="utf-8")
        command = [str(self.host.python), str(self.host.root / "main.py"), "--listen", "127.0.0.1"]
        command += ["--port", str(self.port), "--base-directory", str(self.base)]
        command += [option for option in ("--disable-auto-launch", "--disable-api-nodes") if f'"{option}"' in known]
        if '"--database-url"' in known:
            # The default is a file in the host's own tree, which two servers cannot share.
            command += ["--database-url", f"sqlite:///{(self.base / 'user' / 'comfyui.db').as_posix()}"]
        if "--cpu" not in self.arguments and accelerator(self.host.python) == "cpu":
            command.append("--cpu")
        return [*command, *self.arguments]

    def start(self, timeout: float = 180) -> None:
        """Start the server and return when it answers.

        Raises ``HostError`` where another program has its port, or another server its base directory, and with the end
        of the log when it ends early, or takes over ``timeout`` seconds.
        """
        if self.process is not None:
            raise shared.HostError("This server is running already.")
        if is_taken(self.port):
            raise shared.HostError(f"Another program listens on port {self.port} already: choose another one.")
        if other := self._other():
            raise shared.HostError(
                f"A server at http://127.0.0.1:{other} has the base directory {self.base} already: use that one, or "
                "give this one another with --base."
            )
        self.note.write_text(str(self.port), encoding="utf-8")
        command = self.command()
        self.say(f"Starting ComfyUI {self.host.version} at {self.address}, log in {self.log}")
        environ = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.host.root,
                env=environ,
                **group,
            )
        atexit.register(self.stop)
        try:
            self._wait_until_it_answers(timeout)
        except BaseException:
            self.stop()
            raise

    def _other(self) -> int:
        """The port of another server that runs on this base directory; 0 for none."""
        try:
            port = int(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0
        return port if is_taken(port) else 0

    def _wait_until_it_answers(self, timeout: float) -> None:
        assert self.process is not None
        begun = time.monotonic()
        said = 0.0
        while not self._answers():
            seconds = time.monotonic() - begun
            if self.process.poll() is not None:
                raise shared.HostError(
                    f"The server ended with code {self.process.returncode} before it answered. Its log:\n{self.tail()}"
                )
            if seconds > timeout:
                raise shared.HostError(f"The server did not answer within {timeout:.0f} s. Its log:\n{self.tail()}")
            if seconds - said >= 10:
                said = seconds
                self.say(f"Waiting for the server, {seconds:.0f} s so far")
            time.sleep(0.25)
        self.say(f"The server answers after {time.monotonic() - begun:.0f} s")

    def _answers(self) -> bool:
        try:
            return "system" in get_json(self.address + "/system_stats")
        except (OSError, ValueError, urllib.error.URLError):
            return False

    def stop(self) -> None:
        """End the server and everything it started; harmless when it does not run."""
        process, self.process = self.process, None
        atexit.unregister(self.stop)
        if process is None:
            return
        self.note.unlink(missing_ok=True)
        if process.poll() is None:
            _end(process, force=False)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                _end(process, force=True)
                with contextlib.suppress(subprocess.TimeoutExpired):  # a busy machine takes its time to clean up
                    process.wait(30)
        else:
            _end(process, force=True)

    def tail(self, lines: int = 40) -> str:
        """The last lines of the log."""
        try:
            return shared.last_lines(self.log.read_text(encoding="utf-8", errors="replace"), lines)
        except OSError:
            return "(there is no log)"

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _end(process: subprocess.Popen[bytes], force: bool) -> None:
    if sys.platform == "win32":
        # terminate() would leave the children; taskkill takes the whole tree.
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True)
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL if force else signal.SIGTERM)
