"""Concept erasure for text-to-image models that have cross-attention (``attn2``) on text.

``methods`` make an ``Erasure``; ``attach`` and ``deltas`` put one onto a host model; ``artifact`` keeps it in a file.
"""
