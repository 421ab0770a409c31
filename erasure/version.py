"""Version strings for a file's metadata."""

from __future__ import annotations

VERSION = "0.1.0"


def pack_version() -> str:
    return VERSION


def host_version() -> str:
    """The host's version, or an empty string where it does not say."""
    try:
        from comfyui_version import __version__
    except ImportError:
        return ""
    return __version__
