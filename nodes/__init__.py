"""The nodes: schemas and thin ``execute`` methods, one file per stage."""

from comfy_api.latest import ComfyExtension, io

from . import files, instant, learn, use


class ConceptErasureExtension(ComfyExtension):
    """Every node of the pack."""

    async def on_load(self) -> None:
        files.register_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [*instant.NODES, *learn.NODES, *use.NODES, *files.NODES]
