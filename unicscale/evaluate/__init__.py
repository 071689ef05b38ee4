"""Evaluation: every table of the paper, on a student, on its teachers, on anyone's checkpoint.

MODEL -> opening: a Subject -> features: extracted once by all ranks, kept -> tasks: scores of them (metrics: pure
functions on tensors) -> runner: one JSON each -> results: beside one another and beside the published ones
names  -> suites -> tasks; data sets -> sets
during: the same tasks inside a run, bounded, leaving no trace in it
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unicscale.evaluate.metrics.depth import linear_rmse
    from unicscale.evaluate.metrics.knn import knn_accuracy
    from unicscale.evaluate.metrics.linear import linear_accuracy
    from unicscale.evaluate.metrics.segment import linear_miou
    from unicscale.evaluate.results.gains import gain

__all__ = ["gain", "knn_accuracy", "linear_accuracy", "linear_miou", "linear_rmse"]
# torch takes seconds to import: `unicscale report` wants a table of results, and must not pay for what measured them
WHERE = {
    "gain": "unicscale.evaluate.results.gains",
    "knn_accuracy": "unicscale.evaluate.metrics.knn",
    "linear_accuracy": "unicscale.evaluate.metrics.linear",
    "linear_miou": "unicscale.evaluate.metrics.segment",
    "linear_rmse": "unicscale.evaluate.metrics.depth",
}


def __getattr__(name: str) -> Any:
    if name in WHERE:
        return getattr(import_module(WHERE[name]), name)
    raise AttributeError(f"module 'unicscale.evaluate' has no attribute '{name}'")
