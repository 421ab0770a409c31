"""What an erasure is made of, by the names that files have for its kinds. A new one is a file here and a line below.

torch only.
"""

from .branch import Branch
from .delta import DeltaTensors
from .part import Part
from .prompt import PromptTensors
from .steering import Steering

PARTS: dict[str, type[Part]] = {
    part.kind: part
    for part in (
        PromptTensors,
        DeltaTensors,
        Steering,
        Branch,
    )
}
