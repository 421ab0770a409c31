"""Closed-form methods, by the name that the nodes show. A new one is a file here and a line below."""

from collections.abc import Callable

from . import dp, oce, rece, speed, uce
from .problem import Problem, Scales
from .textmap import Edit

CLOSED_FORM: dict[str, Callable[[Problem, Scales], Edit]] = {
    "uce": uce.edit,
    "rece": rece.edit,
    "speed": speed.edit,
    "dp": dp.edit,
    "oce": oce.edit,
}
