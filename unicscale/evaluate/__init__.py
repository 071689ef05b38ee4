"""Evaluation: every table of the paper, on a student, on its teachers, on anyone's checkpoint."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unicscale.evaluate.depth import linear_rmse
    from unicscale.evaluate.gains import gain
    from unicscale.evaluate.knn import knn_accuracy
    from unicscale.evaluate.linear import linear_accuracy
    from unicscale.evaluate.segment import linear_miou

__all__ = ["gain", "knn_accuracy", "linear_accuracy", "linear_miou", "linear_rmse"]
# torch takes seconds to import: `unicscale report` wants a table of results, and must not pay for what measured them
WHERE = {
    "gain": "unicscale.evaluate.gains",
    "knn_accuracy": "unicscale.evaluate.knn",
    "linear_accuracy": "unicscale.evaluate.linear",
    "linear_miou": "unicscale.evaluate.segment",
    "linear_rmse": "unicscale.evaluate.depth",
}


def __getattr__(name: str) -> Any:
    if name in WHERE:
        return getattr(import_module(WHERE[name]), name)
    raise AttributeError(f"module 'unicscale.evaluate' has no attribute '{name}'")
