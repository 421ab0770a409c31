"""Concept Erasure for ComfyUI: what the host reads. Registration only."""

WEB_DIRECTORY = "./web"
__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint():
    """The pack's extension, for the host's loader."""
    from .nodes import ConceptErasureExtension

    return ConceptErasureExtension()
