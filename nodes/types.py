"""Socket types and words that several nodes share."""

from comfy_api.latest import io

CATEGORY = "concept erasure"
ErasureSocket = io.Custom("ERASURE")
