"""Distil several strong, frozen vision encoders into one ViT (UNIC, arXiv:2408.05088)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unicscale.contracts import Batch, Features, Loss, Progress, Seen

if TYPE_CHECKING:
    from unicscale.interop import load
    from unicscale.loss import distil
    from unicscale.standardize import Standardizer

__all__ = ["Batch", "Features", "Loss", "Progress", "Seen", "Standardizer", "distil", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: `unicscale check` must not pay for names it never touches
    if name == "load":
        from unicscale.interop import load

        return load
    if name == "distil":
        from unicscale.loss import distil

        return distil
    if name == "Standardizer":
        from unicscale.standardize import Standardizer

        return Standardizer
    raise AttributeError(f"module 'unicscale' has no attribute '{name}'")
