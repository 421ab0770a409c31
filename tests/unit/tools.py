"""Shared by the tests of the scripts: a folder that looks like a ComfyUI, and silence."""

from pathlib import Path


def silent(line: str) -> None:
    """Say nothing."""


def make_tree(root: Path, version: str = "0.30.0") -> Path:
    (root / "comfy").mkdir(parents=True)
    (root / "main.py").write_text("")
    (root / "comfy" / "cli_args.py").write_text('parser.add_argument("--disable-auto-launch")')
    (root / "comfyui_version.py").write_text(f'# a comment\n__version__ = "{version}"\n')
    return root
