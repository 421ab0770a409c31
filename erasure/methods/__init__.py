"""Every method, by the name the nodes show. A new one is a file here and a line below."""

from collections.abc import Callable

from ..textmap import TextMap
from ..training import Method
from . import kpop, prompt_only, rece, speed, uce
from .closed_form import Problem, Scales

LEARNED: dict[str, Method] = {"kpop": kpop.KPOP(), "prompt only": prompt_only.PromptOnly()}

CLOSED_FORM: dict[str, Callable[[Problem, Scales], TextMap]] = {
    "uce": uce.edit,
    "rece": rece.edit,
    "speed": speed.edit,
}
