"""The node that makes a page for a client of a report."""

from pathlib import Path

import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image

from ..erasure.artifact import ErasureError
from ..erasure.evaluation.card import card_of
from ..erasure.evaluation.card_html import html
from ..erasure.evaluation.card_picture import picture
from .files import new_path
from .types import CATEGORY, ReportSocket, lenient, show, telling

ENDINGS = (".png", ".html")


class ErasureCard(io.ComfyNode):
    """Report -> one page, as a picture and as an HTML file."""

    @classmethod
    @lenient
    def define_schema(cls):
        return io.Schema(
            node_id="ErasureCard",
            display_name="Erasure Card",
            category=CATEGORY,
            description="Makes a page for a client of an Erasure Report: pictures before and after, the verdict, who "
            "counted, and what was not tested. Saved as PNG and as one HTML file that opens anywhere and prints.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["client", "certificate", "PDF", "HTML report", "share", "proof", "handout"],
            is_output_node=True,
            inputs=[
                ReportSocket.Input("measured", tooltip="The output of the same name of Erasure Report."),
                io.String.Input("title", default="", tooltip="What stands on top: a client's or a project's name."),
                io.String.Input("notes", default="", multiline=True, placeholder="what else your client should know",
                                tooltip="What you want to add, at the end of the page."),
                io.String.Input("filename_prefix", default="erasures/card",
                                tooltip="Where in the output folder the card goes; a number is added."),
            ],
            outputs=[io.Image.Output(display_name="card", tooltip="The page as a picture.")],
        )  # fmt: skip

    @classmethod
    @telling
    def execute(cls, measured, title, notes, filename_prefix) -> io.NodeOutput:
        card = card_of(measured, title, notes)
        page = picture(card)
        place = save(page, html(card), filename_prefix)
        image = torch.from_numpy(np.array(page, dtype=np.float32) / 255)[None]
        text = f"{card.mark} {card.verdict}".strip() + f"\nSaved {place}.png and .html."
        output = {**ui.PreviewImage(image, cls=cls).as_dict(), **show(cls, text).as_dict()}
        return io.NodeOutput(image, ui=output)


def save(page: Image.Image, text: str, prefix: str) -> str:
    """Writes both files under the next free number of a prefix; returns it relative to the output folder."""
    path, place = new_path(prefix, *ENDINGS)
    try:
        page.save(path + ENDINGS[0])
        Path(path + ENDINGS[1]).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ErasureError(
            f"The card cannot be saved to {place} ({error.strerror}): choose another filename_prefix."
        ) from error
    return place


NODES = [ErasureCard]
