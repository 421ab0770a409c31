"""What cross-attention layers attend to, seen while the host's network runs."""

from __future__ import annotations

import torch


class AttentionMaps:
    """Attention probabilities of one forward pass: ``maps``, [b, heads, queries, tokens] of each layer that reads text.

    ``patch`` sees the context of each such layer and only marks that the next attention is one on text; ``attention``
    stands in for the host's.
    """

    def __init__(self) -> None:
        self.maps: list[torch.Tensor] = []
        self._on_text = False

    def patch(self, n, context, value, options):
        self._on_text = True
        return n, context, value

    def attention(self, function, *arguments, **options):
        """The host's attention ``function(q, k, v, heads, ...)``, with the map kept where it is one on text."""
        if self._on_text:
            self._on_text = False
            q, k, _, heads = arguments[:4]
            if not options.get("skip_reshape"):  # else each head's numbers are apart already
                q, k = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k))
            self.maps.append(torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1))
        return function(*arguments, **options)
