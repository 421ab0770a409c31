"""Every method that learns an erasure, by the name the node shows. A new one is a file here and a line below."""

from . import kpop, prompt_only

LEARNED = {"kpop": kpop.KPOP(), "prompt only": prompt_only.PromptOnly()}
