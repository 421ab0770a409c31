"""Test-only node folder: registers the toy model family with the host. It adds no node."""

from .family import register

register()

NODE_CLASS_MAPPINGS: dict = {}
