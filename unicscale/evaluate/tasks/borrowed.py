"""What tasks that borrow a teacher's classifier or text tower have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unicscale.errors import DataError, RecipeError
from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.task import Task, Want
from unicscale.evaluate.terms import Subject

WORDS = {"classify": "classifier", "embed_text": "text tower"}


@dataclass(frozen=True)
class Borrowed(Task):
    """Asks the subject's guess of a teacher's summary, through a part of that teacher; nothing is trained."""

    teacher: str | None = None  # None: every one that can lend
    ability: str = "classify"

    def lenders(self, subject: Subject) -> list[str]:
        """The teachers that will be asked."""
        return which(subject, self.teacher, self.ability)

    def applies(self, subject: Subject) -> str | None:
        return None if self.lenders(subject) else f"no teacher of it has a {WORDS[self.ability]}"

    def wants(self, subject: Subject) -> list[Want]:
        return [Want("imagenet", "test", None if subject.teacher else name) for name in self.lenders(subject)]

    def depends(self, subject: Subject, shelf: Shelf) -> Any:
        return [subject.lenders[name].mark() for name in self.lenders(subject)]


def own_terms(subject: Subject, shelf: Shelf, teacher: str) -> tuple[Tensor, Tensor]:
    """ImageNet's test images in a teacher's own summary space, and their labels."""
    if subject.teacher:
        held = shelf.features(subject, "imagenet", "test")
        return held.features, held.labels
    held = shelf.features(subject, "imagenet", "test", answer=teacher)
    assert subject.invert is not None
    return subject.invert(teacher, held.features.float()), held.labels


def which(subject: Subject, wanted: str | None, ability: str) -> list[str]:
    """The subject's teachers that have an ability (`embed` or `classify`) of their own; or the wanted one."""
    if wanted is not None and wanted not in subject.taught_by:
        taught = ", ".join(subject.taught_by) or "nobody: it has no projector"
        raise RecipeError(f"{subject.name} has no projector for '{wanted}'; it was taught by {taught}.")
    if wanted in subject.silent:
        raise RecipeError(
            f"{subject.name} was taught patches only by '{wanted}': there is no summary of it to classify by."
        )
    asked = [wanted] if wanted else [name for name in subject.taught_by if name not in subject.silent]
    return [name for name in asked if subject.lenders[name].can(ability)]


def check_width(teacher: Any, summaries: Tensor) -> None:
    """Refuse a teacher of another size than the one that taught."""
    if summaries.shape[1] != teacher.spec.dim:
        raise DataError(
            f"the summaries are {summaries.shape[1]} wide, but teacher '{teacher.name}' is {teacher.spec.dim} wide;"
            f" is it another size of it? --option {teacher.name}.size=..."
        )
