"""Every method that learns an erasure, by the name the node shows. A new one is a file here and a line below."""

from ..training import Method
from . import kpop, prompt_only

LEARNED: dict[str, Method] = {"kpop": kpop.KPOP(), "prompt only": prompt_only.PromptOnly()}
