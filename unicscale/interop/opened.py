"""What every reader of models gives to `load`."""

from __future__ import annotations

from dataclasses import dataclass, field

from unicscale.contracts import IMAGENET_MEAN, IMAGENET_STD
from unicscale.interop.description import Description
from unicscale.objective.standardize import Standardizer
from unicscale.student.model import Student

# per teacher: of its summary, of its patches; None for a kind that it does not have
Statistics = dict[str, tuple[Standardizer | None, Standardizer | None]]
Colour = tuple[float, ...]  # a number for each channel


@dataclass(frozen=True)
class Opened:
    """A student with its values, and the statistics that undo the standardisation of its answers."""

    student: Student
    size: int  # pixels that its positions are for
    statistics: Statistics = field(default_factory=dict)
    description: Description | None = None  # None: no recipe says this student, so no file of ours holds it
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
