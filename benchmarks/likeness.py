"""How like pictures are to others of the same prompts and noise, by scikit-image's measures."""

from __future__ import annotations

from statistics import mean, median

import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


def likeness(pictures: torch.Tensor, before: torch.Tensor) -> dict[str, float]:
    """Mean SSIM, and median PSNR in dB (``IDENTICAL`` at most), of matching pictures [n, 3, h, w] in [0, 1]."""
    pairs = [(a.permute(1, 2, 0).numpy(), b.permute(1, 2, 0).numpy()) for a, b in zip(pictures, before, strict=True)]
    alike = [float(structural_similarity(a, b, channel_axis=2, data_range=1.0)) for a, b in pairs]
    return {"ssim": round(mean(alike), 4), "psnr": round(median(map(_psnr, pairs)), 2)}


IDENTICAL = 100.0
"""Stands for the infinite PSNR of equal pictures."""


def _psnr(pair: tuple) -> float:
    a, b = pair
    return IDENTICAL if (a == b).all() else min(IDENTICAL, peak_signal_noise_ratio(b, a, data_range=1.0))
