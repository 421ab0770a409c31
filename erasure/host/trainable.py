"""What a MODEL must be for a training."""

from __future__ import annotations

from ..artifact import ErasureError
from ..protocols import Model
from . import attach
from .subject import subject
from .weights import require_unpacked


def plain_patcher(model: Model):
    """A clone whose weights are ordinary tensors in one place, which training needs. Raises ErasureError."""
    require_trainable(model)
    return model.clone(disable_dynamic=True) if model.is_dynamic() else model.clone()


def require_trainable(model: Model) -> None:
    """Raises ErasureError for a model of which the host cannot make a ``plain_patcher``, or that changes on its way."""
    if attach.is_windowed(model):
        raise ErasureError(
            "The model carries an erasure that acts in a part of sampling only, which learning on it would not see: "
            "set start_percent to 0 and end_percent to 1 in its Apply Erasure node."
        )
    if attach.is_beside(model):
        raise ErasureError(
            "The model carries an erasure beside its quantised weights, which learning on it would not see: learn on a "
            "checkpoint of it in a higher precision, or take the erasure off."
        )
    if model.is_dynamic() and model.cached_patcher_init is None:
        raise ErasureError(
            "The loader of this model cannot reload it for training: use the stock checkpoint or diffusion-model "
            "loader, or start ComfyUI with --disable-dynamic-vram."
        )
    if kind := subject(model).family.not_learning(model.model):
        raise ErasureError(
            f"Learning on {kind} models is not supported: use Erase Concept or Instant Erasure, which "
            "erase there in closed form."
        )
    require_unpacked(model)
