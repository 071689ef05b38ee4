"""How much of a model is used: the paper's probes after pruning its weights, or on few whitened principal components.

Figures 6a, 6b and A: on ImageNet and on ADE20K, each as the change against the model as it is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from unicscale.contracts import Features, there
from unicscale.evaluate.features.extract import summary_of
from unicscale.evaluate.features.marks import sha_of
from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.metrics.probe import PAPER
from unicscale.evaluate.metrics.spare import Whitening, prune
from unicscale.evaluate.results.gains import gain
from unicscale.evaluate.score import Score
from unicscale.evaluate.task import Task, Want, check_classes
from unicscale.evaluate.tasks.classify import Logistic
from unicscale.evaluate.tasks.dense import Dense, Segment
from unicscale.evaluate.tasks.windows import Kind, Stream, rounded
from unicscale.evaluate.terms import Settings, Subject

AMOUNTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
CROPS = PAPER._replace(steps=256)  # whose patches say what the principal components of a dense set are
IMAGENET = Logistic("imagenet", ("imagenet",))
ADE20K = Segment(classes=150)


@dataclass(frozen=True)
class Spare(Task):
    """A probe on the model as it is, and on less and less of it."""

    probe: Logistic | Dense = IMAGENET

    @abstractmethod
    def lessened(self, subject: Subject, shelf: Shelf) -> Iterator[tuple[str, Score]]:
        """`all` first; then the headline of each smaller one, by how small it is."""

    def protocol(self, settings: Settings) -> dict[str, Any]:
        return {"probe": self.probe.protocol(settings)}

    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        whole = 0.0
        for left, score in self.lessened(subject, shelf):
            yield score._replace(name=f"{self.name}/{left}")
            if left == "all":
                whole = score.value
            elif whole:
                yield Score(f"{self.name}/{left}/change", gain(score.value, whole, score.higher_is_better))


@dataclass(frozen=True)
class Prune(Spare):
    """The probe after zeroing a share of the encoder's weights."""

    def protocol(self, settings: Settings) -> dict[str, Any]:
        return super().protocol(settings) | {
            "amounts": AMOUNTS,
            "pruned": "weight matrices of the encoder, L1, together",
        }

    def lessened(self, subject: Subject, shelf: Shelf) -> Iterator[tuple[str, Score]]:
        yield "all", next(self.probe.run(subject, shelf))
        for amount in AMOUNTS:
            module, name = prune(subject.module, amount), f"{subject.name} less {amount:.0%}"
            one = replace(subject, name=name, module=module, encode=module, sha=sha_of(module))
            with TemporaryDirectory(dir=_beside(shelf)) as folder:  # nobody asks for a pruned model's features again
                yield f"{amount:.0%}", next(self.probe.run(one, replace(shelf, cache=Path(folder))))


@dataclass(frozen=True)
class Whiten(Spare):
    """The probe on the leading principal components, each of unit deviation."""

    def protocol(self, settings: Settings) -> dict[str, Any]:
        return super().protocol(settings) | {"components": "8, 16, ... and all, whitened"}


@dataclass(frozen=True)
class WhitenSummaries(Whiten):
    """Of summaries."""

    def wants(self, subject: Subject) -> list[Want]:
        return [Want("imagenet", split) for split in ("train", "test")]

    def lessened(self, subject: Subject, shelf: Shelf) -> Iterator[tuple[str, Score]]:
        train, test = (shelf.features(subject, "imagenet", split) for split in ("train", "test"))
        check_classes("imagenet", train, test)
        assert not isinstance(self.probe, Dense)
        yield "all", next(self.probe.measure(train, test, shelf.settings, shelf.device))
        held = Whitening(train.features.shape[1])
        for rows in train.features.split(65_536):
            held.add(rows)
        for count, project in held.projections():
            bank, queries = (one._replace(features=project(one.features)) for one in (train, test))
            yield str(count), next(self.probe.measure(bank, queries, shelf.settings, shelf.device))


@dataclass(frozen=True)
class WhitenPatches(Whiten):
    """Of patch tokens, whose components are those of crops of the training images."""

    def lessened(self, subject: Subject, shelf: Shelf) -> Iterator[tuple[str, Score]]:
        assert isinstance(self.probe, Dense)
        yield "all", next(self.probe.run(subject, shelf))
        size = rounded(shelf.settings.dense_size, subject.patch)
        pairs = shelf.split(self.needs[0], "train")
        schedule = CROPS._replace(steps=min(CROPS.steps, shelf.settings.dense_steps))
        held: Whitening | None = None
        for features, _ in Stream(subject, shelf, pairs, Kind(pairs.read, lambda path, target: None), size)(schedule):
            patches = there(features.patches).flatten(0, 1)
            held = held or Whitening(patches.shape[1])
            held.add(patches)
        assert held is not None
        for count, project in held.projections():

            def encode(images: Tensor, project: Any = project) -> Features:
                seen = subject.encode(images)
                return Features(summary_of(seen), project(seen.patches))

            yield str(count), next(self.probe.run(replace(subject, encode=encode), shelf))


def _beside(shelf: Shelf) -> Path:
    """The cache's own disk: features of ImageNet are too much for most /tmp."""
    shelf.cache.mkdir(parents=True, exist_ok=True)
    return shelf.cache


TASKS: tuple[Task, ...] = (
    Prune("prune", ("imagenet",)),
    WhitenSummaries("whiten", ("imagenet",)),
    Prune("prune_ade20k", ("ade20k",), ("patches",), ADE20K),
    WhitenPatches("whiten_ade20k", ("ade20k",), ("patches",), ADE20K),
)
