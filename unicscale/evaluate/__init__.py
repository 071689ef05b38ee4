"""Evaluation: every table of the paper, on a student, on its teachers, on anyone's checkpoint."""

from unicscale.evaluate.depth import linear_rmse
from unicscale.evaluate.during import asked_for, during, refuse_unfit
from unicscale.evaluate.gains import gain
from unicscale.evaluate.knn import knn_accuracy
from unicscale.evaluate.linear import linear_accuracy
from unicscale.evaluate.segment import linear_miou

__all__ = [
    "asked_for",
    "during",
    "gain",
    "knn_accuracy",
    "linear_accuracy",
    "linear_miou",
    "linear_rmse",
    "refuse_unfit",
]
