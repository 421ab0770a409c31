"""Concept erasure for text-to-image models that are told what to draw by text.

``instant`` and ``learning`` make an ``Erasure``; ``host/attach.py`` puts one onto a MODEL; ``files`` keeps it on disk.
"""
