"""What a student is worth beside its teachers."""

from __future__ import annotations


def gain(student: float, best_teacher: float, higher_is_better: bool = True) -> float:
    """The relative gain in per cent; for errors the sign flips, so that positive is always better."""
    change = 100.0 * (student - best_teacher) / best_teacher
    return change if higher_is_better else -change
