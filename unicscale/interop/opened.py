"""What every reader of models gives to `load`."""

from __future__ import annotations

from dataclasses import dataclass, field

from unicscale.objective.standardize import Standardizer
from unicscale.student.model import Student

# per teacher: of its summary, of its patches; None for a kind that it does not have
Statistics = dict[str, tuple[Standardizer | None, Standardizer | None]]


@dataclass(frozen=True)
class Opened:
    """A student with its values, and the statistics that undo the standardisation of its answers."""

    student: Student
    size: int  # pixels that its positions are for
    statistics: Statistics = field(default_factory=dict)
