"""What can be wrong with a node's texts before anything runs: the host then refuses the prompt at once, as it refuses a
wrong number."""

from collections.abc import Callable

from comfy_api.latest import io

from ..erasure.artifact import ErasureError
from ..erasure.request import names_in
from ..erasure.texts.names import read_field
from .folders import accepted
from .messages import open_input_file


def refusal(node: type[io.ComfyNode], check: Callable[..., object], *texts: str | None) -> bool | str:
    """For ``validate_inputs``: True, or what is wrong, which the node says, too.

    ``texts`` are the inputs that ``validate_inputs`` names, for ``check`` to raise ErasureError. One that comes by a
    link is None, and is left for the run to find out. The host puts what is wrong down to every input that is named,
    and leaves their range to the node: so name those alone that are wrong.
    """
    if None in texts:
        return True
    try:
        check(*texts)
    except ErasureError as error:
        return accepted(node, str(error))
    return True


def something_to_erase(concept: str) -> None:
    """Raises ErasureError where a field names nothing, and has not switched off what it names."""
    if not read_field(concept, open_input_file).are_off:
        names_in(concept, open_input_file)
