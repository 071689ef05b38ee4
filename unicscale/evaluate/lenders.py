"""Teachers as those they taught need them: a classifier or a text tower, lent for a measurement."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unicscale.errors import TeacherError, UserError
from unicscale.recipe.sections import TeacherSection

if TYPE_CHECKING:
    from unicscale.teacher.frozen import Frozen
    from unicscale.teacher.plugin import Teacher


@dataclass(frozen=True, slots=True)
class Lender:
    """One teacher, opened only when something is borrowed."""

    name: str
    section: TeacherSection
    plugin: Teacher | None  # None: not installed here, so it cannot lend

    @classmethod
    def of(cls, name: str, stated: Mapping[str, Any]) -> Lender:
        """From what a recipe or the command line says of it."""
        from unicscale.teacher.finding import find

        section = TeacherSection.model_validate(dict(stated))
        try:
            return cls(name, section, find(name, section))
        except UserError:
            return cls(name, section, None)

    def can(self, ability: str) -> bool:
        """Whether it has `classify` or `embed_text` of its own."""
        from unicscale.teacher.plugin import Teacher

        return self.plugin is not None and getattr(type(self.plugin), ability) is not getattr(Teacher, ability)

    def open(self) -> Frozen:
        """Itself, with weights and, where it has one, its text tower; the error says how to name them."""
        from unicscale.teacher.frozen import open_frozen

        section = self.section
        if self.plugin is not None and "text" in self.plugin.Options.model_fields:
            section = TeacherSection.model_validate({**section.model_dump(), "text": True})
        try:
            return open_frozen(self.name, section)
        except TeacherError as problem:
            raise TeacherError(f"{problem}\n  Or say where its weights are: --weights {self.name}=FILE") from None

    def mark(self) -> list[Any]:
        """Changes with what it is told and with its file: part of the key of every result that it lent to."""
        from unicscale.teacher.described import describe

        stated: list[Any] = [self.section.model_dump(mode="json")]
        try:
            file = describe(self.name, self.section).file
            found = os.stat(file.path) if file is not None else None
        except (UserError, OSError):
            return stated  # it will say so itself when it is opened
        return stated if found is None else [*stated, found.st_size, found.st_mtime_ns]
