"""Socket types and words that several nodes share, and how a node says what it did."""

from comfy_api.latest import io, ui
from server import PromptServer

CATEGORY = "concept erasure"
ErasureSocket = io.Custom("ERASURE")


def show(node: type[io.ComfyNode], text: str) -> ui.PreviewText:
    """Writes a text on the node in the editor, and returns it for the run's outputs.

    The node's schema must ask for ``io.Hidden.unique_id``; outside a running server nothing is shown.
    """
    server, hidden = getattr(PromptServer, "instance", None), node.hidden
    if server is not None and hidden is not None and hidden.unique_id is not None:
        server.send_progress_text(text, hidden.unique_id)
    return ui.PreviewText(text)
