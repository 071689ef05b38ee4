"""What a task is: what it reads, whom it can ask, and what it yields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from unicscale.errors import DataError
from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.score import Score
from unicscale.evaluate.terms import Labelled, Settings, Subject


class Want(NamedTuple):
    """Summaries that a task will ask the shelf for; computed beforehand by all ranks together."""

    data: str
    split: str
    answer: str | None = None  # the projector's guess of this teacher


@dataclass(frozen=True)
class Task(ABC):
    """One measurement, of any subject and without data unless it says otherwise."""

    name: str
    needs: tuple[str, ...] = ()  # the data sets without which it cannot run
    tokens: tuple[str, ...] = ()  # the kinds without which it cannot run

    def applies(self, subject: Subject) -> str | None:
        """Why this subject cannot be asked, or None."""
        lacks = [kind for kind in self.tokens if kind not in subject.tokens]
        return f"it has no {lacks[0]}" if lacks else None

    def wants(self, subject: Subject) -> list[Want]:
        """The summaries it will ask for that are worth keeping."""
        return []

    def depends(self, subject: Subject, shelf: Shelf) -> Any:
        """What its numbers depend on besides weights, images and protocol; part of the key of its result."""
        return None

    @abstractmethod
    def protocol(self, settings: Settings) -> dict[str, Any]:
        """Everything that would change the numbers."""

    @abstractmethod
    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        """The scores, the headline first."""


@dataclass(frozen=True)
class Probe(Task):
    """A task on the summaries of the first set it needs: learnt on its train split, asked on its test split."""

    def wants(self, subject: Subject) -> list[Want]:
        """Both splits."""
        return [Want(self.needs[0], split) for split in ("train", "test")]

    @abstractmethod
    def measure(
        self, train: Labelled, test: Labelled, settings: Settings, device: torch.device | str = "cpu"
    ) -> Iterator[Score]:
        """The scores of features in memory: what an evaluation and a run that is training have in common."""

    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        """Of the subject's features."""
        train, test = (shelf.features(subject, self.needs[0], split) for split in ("train", "test"))
        check_classes(self.needs[0], train, test)
        yield from self.measure(train, test, shelf.settings, shelf.device)


def check_classes(name: str, train: Labelled, test: Labelled) -> None:
    """Refuse a test set with other classes than its training set: the same number would mean another class."""
    if train.names and test.names and train.names != test.names:
        raise DataError(f"{name}: {_unlike(train.names, test.names)}; both splits need the same folder for every class")
    if train.classes != test.classes:
        raise DataError(
            f"{name}: {train.classes} classes to train on, but {test.classes} to test on; "
            "both splits need a folder for every class"
        )


def _unlike(train: tuple[str, ...], test: tuple[str, ...]) -> str:
    untaught, unasked = ([one for one in some if one not in other] for some, other in ((test, train), (train, test)))
    if not (untaught or unasked):
        return "train and test number their classes in another order"
    lacks = [f"'{name}' is to be tested on, but there is nothing to learn it from" for name in untaught[:1]]
    lacks += [f"there is '{name}' to learn from, but nothing to test it on" for name in unasked[:1]]
    more = len(untaught) + len(unasked) - len(lacks)
    return " and ".join(lacks) + (f", and {more} more of the kind" if more else "")
