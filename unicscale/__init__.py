"""Distil several strong, frozen vision encoders into one ViT (UNIC, arXiv:2408.05088)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from unicscale.contracts import Batch, Features, Loss, Progress, Seen

if TYPE_CHECKING:
    from unicscale.interop import load
    from unicscale.objective.loss import distil
    from unicscale.objective.standardize import Standardizer

__all__ = ["Batch", "Features", "Loss", "Progress", "Seen", "Standardizer", "distil", "load"]
__version__ = "0.2.0"
# torch takes seconds to import: `unicscale check` must not pay for names it never touches
WHERE = {
    "Standardizer": "unicscale.objective.standardize",
    "distil": "unicscale.objective.loss",
    "load": "unicscale.interop",
}


def __getattr__(name: str) -> Any:
    if name in WHERE:
        return getattr(import_module(WHERE[name]), name)
    raise AttributeError(f"module 'unicscale' has no attribute '{name}'")
