"""Test-only node folder: registers the drawn world's model family with the host."""

from .family import register

register()

NODE_CLASS_MAPPINGS: dict[str, type] = {}
