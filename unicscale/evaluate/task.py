"""What a task is: what it reads, whom it can ask, and what it yields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.score import Score
from unicscale.evaluate.terms import Settings, Subject


class Want(NamedTuple):
    """Summaries that a task will ask the shelf for; computed beforehand by all ranks together."""

    data: str
    split: str
    answer: str | None = None  # the projector's guess of this teacher


@dataclass(frozen=True)
class Task(ABC):
    """One measurement, of any subject and without data unless it says otherwise."""

    name: str

    @property
    def needs(self) -> tuple[str, ...]:
        """The data sets without which it cannot run."""
        return ()

    def applies(self, subject: Subject) -> str | None:
        """Why this subject cannot be asked, or None."""
        return None

    def wants(self, subject: Subject) -> list[Want]:
        """The summaries it will ask for that are worth keeping."""
        return []

    @abstractmethod
    def protocol(self, settings: Settings) -> dict[str, Any]:
        """Everything that would change the numbers."""

    @abstractmethod
    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        """The scores, the headline first."""
