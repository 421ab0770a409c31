"""The nodes: schemas and thin ``execute`` methods, one file per stage."""

import os

import folder_paths
from comfy_api.latest import ComfyExtension, io

from ..erasure.texts import recall
from . import (
    card,
    combine,
    dictionaries,
    exchange,
    files,
    instant,
    language,
    learn,
    learn_old,
    library,
    lists,
    report,
    strength,
    stress,
    use,
)


class ConceptErasureExtension(ComfyExtension):
    """Every node of the pack."""

    async def on_load(self) -> None:
        files.register_folders()
        lists.register_folders()
        dictionaries.register_folders()
        library.register_routes()
        language.register_routes()
        recall.keep_lists(os.path.join(folder_paths.get_user_directory(), "__concept_erasure", "encodings"))

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        parts = (
            instant, learn, use, combine, report, stress, files, exchange, lists, strength, card, learn_old,
            dictionaries,
        )  # fmt: skip
        return [node for part in parts for node in part.NODES]
