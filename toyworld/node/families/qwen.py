"""Tiny causal Qwen text encoders with the host's tokenizer and a small table."""

from __future__ import annotations

import comfy.sd1_clip

from ..table import Table

TOKENS = 151936
PAD = 151643


def config(width: int, layers: int) -> dict:
    """What the host's Qwen is built from; a head is 128 wide in all of them."""
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "vocab_size": 1,
    }


class SmallQwen(comfy.sd1_clip.SDClipModel):
    """The host's causal text model with other sizes; masks as it returns them."""

    def __init__(self, width: int, layers: int, device="cpu", dtype=None, model_options=None, **options):
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config=config(width, layers),
            special_tokens={"pad": PAD},
            layer_norm_hidden_state=False,
            enable_attention_masks=True,
            return_attention_masks=True,
            model_options=model_options or {},
            **options,
        )
        self.transformer.set_input_embeddings(Table(TOKENS, width, dtype, device, self.operations))
