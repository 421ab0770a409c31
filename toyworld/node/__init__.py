"""Test-only node folder: registers the worlds' model families with the host, and adds nodes that give their judges."""

from . import families
from .family import register
from .judge import DRAWN, DrawnWorldJudge, ToyWorldJudge

register()
families.register()

NODE_CLASS_MAPPINGS = {"ToyWorldJudge": ToyWorldJudge}
NODE_DISPLAY_NAME_MAPPINGS = {"ToyWorldJudge": "Toy World Judge"}
if DRAWN.exists():
    NODE_CLASS_MAPPINGS["DrawnWorldJudge"] = DrawnWorldJudge
    NODE_DISPLAY_NAME_MAPPINGS["DrawnWorldJudge"] = "Drawn World Judge"
