"""Test-only node folder: registers the toy model family with the host, and adds a node that gives its judge."""

from . import families
from .family import register
from .judge import ToyWorldJudge

register()
families.register()

NODE_CLASS_MAPPINGS = {"ToyWorldJudge": ToyWorldJudge}
NODE_DISPLAY_NAME_MAPPINGS = {"ToyWorldJudge": "Toy World Judge"}
