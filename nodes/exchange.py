"""Nodes that give erasures to other programs and take theirs in."""

import os
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..erasure.exchange import CONTENTS, DTYPES, export_lora, import_erasure
from ..erasure.files import is_erasure
from .files import FILE, KIND, describe, new_path
from .types import CATEGORY, KEPT, ErasureSocket, lenient, show, telling


class ErasureExportLora(io.ComfyNode):
    """ERASURE -> a LoRA file."""

    @classmethod
    @lenient
    def define_schema(cls):
        return io.Schema(
            node_id="ErasureExportLora",
            display_name="Export Erasure as LoRA",
            category=CATEGORY,
            description="Saves the erasure's change of the weights as an ordinary LoRA, which ComfyUI applies "
            "without this pack. Press R to see it in Load LoRA.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["save lora", "erasure to lora", "share erasure"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model it was made for; it tells the weights' names."),
                ErasureSocket.Input("erasure", tooltip="One that changes weights: instant, learned or imported."),
                io.String.Input(
                    "filename_prefix", default="loras/erasure",
                    tooltip="Where in the output folder, and how the name begins; a number is added, so nothing is "
                    "overwritten. 'circle' becomes 'loras/circle', where Load LoRA finds it. %date:yyyy-MM-dd% is "
                    "the date.",
                ),
                io.Combo.Input(
                    "precision", options=list(DTYPES), default="fp16",
                    tooltip="Of the numbers in the file: fp16 is half the size of fp32 and draws the same.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    @telling
    def execute(cls, model, erasure, filename_prefix, precision) -> io.NodeOutput:
        path, name = (place + FILE for place in new_path(filename_prefix, FILE, kinds=("loras", KIND)))
        tensors = export_lora(model, erasure, Path(path), DTYPES[precision])
        size = sum(t.numel() * t.element_size() for t in tensors.values()) / 1e6
        sentences = [f"Saved {name}, {size:.2f} MB."]
        if left := dict.fromkeys(part.noun for part in erasure.parts if not part.changes()):
            sentences.append(f"A LoRA holds changes of weights only, so it lacks: {', '.join(left)}.")
        return io.NodeOutput(ui=show(cls, " ".join(sentences)))


class ErasureImport(io.ComfyNode):
    """A file of another program -> ERASURE."""

    @classmethod
    @lenient
    def define_schema(cls):
        return io.Schema(
            node_id="ErasureImport",
            display_name="Import Erasure",
            category=CATEGORY,
            description="Makes an erasure of a file that another eraser wrote: UNet weights from the UCE and ESD "
            "scripts, whole or as differences, and LoRA files (SPM, LECO, this pack's own).",
            hidden=[io.Hidden.unique_id],
            **KEPT,
            search_aliases=["UCE", "ESD", "load weights", "convert erasure"],
            inputs=[
                io.Model.Input("model", tooltip="The model that the file was made for."),
                io.Combo.Input(
                    "file", options=cls.files(),
                    tooltip="A .safetensors file in models/erasures, models/loras or the same in output. Press R after "
                    "adding one.",
                ),
                io.String.Input("concept", default="", tooltip="What it erases, for your own notes; empty: its name."),
                io.Combo.Input(
                    "content", options=list(CONTENTS), default=CONTENTS[0], advanced=True,
                    tooltip="Whether UNet weights in the file are whole or differences; normally plain to see.",
                ),
            ],
            outputs=[ErasureSocket.Output(display_name="erasure", tooltip="For Apply Erasure and all other nodes.")],
        )  # fmt: skip

    @staticmethod
    def files() -> list[str]:
        names = [name for kind in (KIND, "loras") for name in folder_paths.get_filename_list(kind)]
        return list(dict.fromkeys(name for name in names if name.endswith(".safetensors")))

    @staticmethod
    def path(file: str) -> Path:
        """Where two folders hold a file of this name: the one that is no erasure already."""
        paths = [Path(path) for kind in (KIND, "loras") if (path := folder_paths.get_full_path(kind, file)) is not None]
        paths = [path for path in paths if not is_erasure(path)] or paths
        return paths[0] if paths else Path(folder_paths.get_full_path_or_raise("loras", file))

    @classmethod
    def fingerprint_inputs(cls, file, **_):
        facts = os.stat(cls.path(file))
        return f"{facts.st_mtime_ns}-{facts.st_size}"

    @classmethod
    @telling
    def execute(cls, model, file, concept, content) -> io.NodeOutput:
        erasure = import_erasure(model, cls.path(file), concept, content)
        return io.NodeOutput(erasure, ui=show(cls, describe(erasure)))


NODES = [ErasureExportLora, ErasureImport]
