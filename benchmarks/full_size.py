"""Full-size networks with random weights: what is exact or fast at real widths can be shown without a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from zlib import crc32

import comfy.model_patcher
import comfy.sample
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import torch

from concept_erasure.erasure.texts.encoder import batched

UNETS: dict[str, dict] = {
    "sd15": {"transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1, "num_heads": 8,
             "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "channel_mult": [1, 2, 4, 4]},
    "sdxl": {"transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10, "num_head_channels": 64,
             "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "channel_mult": [1, 2, 4],
             "num_classes": "sequential"},
}  # fmt: skip
KINDS = {"sd15": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}


GAIN, TEXT_GAIN = 0.5, 16.0
"""Standard deviation of what a layer gives for unit noise: below 1, for a random network must not amplify rounding,
but in the cross-attention, for the text must matter."""


def random_model(
    family: str, computing: torch.dtype, stored: torch.dtype = torch.bfloat16, seed: int = 0
) -> comfy.model_patcher.ModelPatcher:
    """A MODEL of the family's real size on the CPU; the same ``seed`` gives the same weights."""
    kind = KINDS[family]
    size = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "legacy": False,
            "use_spatial_transformer": True, "num_res_blocks": [2] * len(UNETS[family]["channel_mult"]),
            "dtype": stored}  # fmt: skip
    config = kind({**kind.unet_config, **size, **UNETS[family]})
    config.set_inference_dtype(stored, None if computing == stored else computing)
    model = config.get_model({}, device="cpu").eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.diffusion_model.named_parameters():
            if parameter.dim() > 1:
                gain = TEXT_GAIN if ".attn2.to_v." in name else GAIN
                parameter.normal_(std=gain * parameter[0].numel() ** -0.5, generator=random)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


@torch.inference_mode()
def latents(model, context: torch.Tensor, size: int = 16, steps: int = 2, cfg: float = 1.0) -> torch.Tensor:
    """One picture's latents [1, 4, size, size] for a text's encodings [1, n, d], from fixed noise."""
    noise = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(1))
    extra = {"pooled_output": torch.zeros(1, 1280)}
    positive, negative = [[context, extra]], [[torch.zeros_like(context), extra]]
    return comfy.sample.sample(
        model, noise, steps, cfg, "euler", "normal", positive, negative, torch.zeros_like(noise), seed=0,
        disable_pbar=True,
    )  # fmt: skip


# ---------------------------------------------------------------- text


SHAPES_OF = {"sd15": ([320] * 5 + [640] * 5 + [1280] * 6, 768), "sdxl": ([640] * 10 + [1280] * 60, 2048)}
"""Family -> output widths of its attn2 layers, and the width of its text."""


class RandomEncoder:
    """Stands for a text encoder of some width: random encodings, at once. Names and texts are one token a word."""

    def __init__(self, width: int):
        self.table = torch.randn(128, 77, width)

    def place(self, text: str, name: str) -> int:
        return 1 + text.replace(",", " ").split().index(name.split()[0])

    def name_tokens(self, name: str) -> tuple[int, ...]:
        return (0,) * len(name.split())

    def tokens(self, text: str) -> tuple[int, ...]:
        """One a word between a start and an end, and padding up to a chunk."""
        words = tuple(2 + crc32(word.encode()) for word in text.split())
        return (0, *words, *[1] * (self.table.shape[1] - 1 - len(words)))

    def beside(self, names: Sequence[str], texts: Sequence[str]) -> list[str]:
        return list(texts)

    def read(self, texts: Sequence[str]) -> None:
        """Nothing to remember."""

    def chunks(self, texts: Sequence[str]) -> torch.Tensor:
        return self.table[[crc32(text.encode()) % len(self.table) for text in texts]]

    def rows(self, texts: Sequence[str]) -> list[torch.Tensor]:
        return list(self.chunks(texts))

    def stream(self, texts: Sequence[str]) -> Iterator[list[torch.Tensor]]:
        return (self.rows(part) for part in batched(texts))


def random_weights(family: str) -> dict[str, torch.Tensor]:
    widths, context = SHAPES_OF[family]
    return {f"{i}.{part}": torch.randn(out, context).div_(30) for i, out in enumerate(widths) for part in ("k", "v")}


class RandomClip:
    """What the pack asks of the host's CLIP, around a full-size text model with random weights."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model.eval(), tokenizer
        for parameter in model.parameters():
            parameter.data.normal_(std=0.02)

    def tokenize(self, text: str) -> dict:
        return self.tokenizer.tokenize_with_weights(text)

    def encode_from_tokens(self, tokens: dict) -> torch.Tensor:
        return self.model.encode_token_weights(tokens)[0]


def random_clip(family: str) -> RandomClip:
    """The family's text encoders at full size, float32."""
    if family == "sdxl":
        return RandomClip(comfy.sdxl_clip.SDXLClipModel(dtype=torch.float32), comfy.sdxl_clip.SDXLTokenizer())
    return RandomClip(comfy.sd1_clip.SD1ClipModel(dtype=torch.float32), comfy.sd1_clip.SD1Tokenizer())
