"""Closed-form methods, by the name that the nodes show. A new one is a file here and a line below."""

from collections.abc import Callable

from . import dp, rece, speed, uce
from .problem import Problem, Scales
from .textmap import TextMap

CLOSED_FORM: dict[str, Callable[[Problem, Scales], TextMap]] = {
    "uce": uce.edit,
    "rece": rece.edit,
    "speed": speed.edit,
    "dp": dp.edit,
}
