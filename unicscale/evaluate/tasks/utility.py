"""How much of a model is used: linear probes after pruning its weights, or on few whitened principal components."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unicscale.evaluate.features.extract import sha_of
from unicscale.evaluate.features.shelf import Labelled, Shelf
from unicscale.evaluate.metrics import linear
from unicscale.evaluate.score import Score, share
from unicscale.evaluate.task import Task
from unicscale.evaluate.tasks.classify import check_classes
from unicscale.evaluate.terms import Settings, Subject

AMOUNTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SAMPLE = 2_000_000  # weights among which the threshold is found
PER_SPLIT = 50_000  # images of the probe


def prune(module: nn.Module, amount: float) -> nn.Module:
    """A copy whose smallest weights, of all matrices together, are zero (L1, unstructured)."""
    pruned = copy.deepcopy(module)
    matrices = [p for p in pruned.parameters() if p.ndim > 1]
    magnitudes = torch.cat([p.detach().abs().flatten() for p in matrices])
    step = max(1, len(magnitudes) // SAMPLE)
    cut = magnitudes[::step].kthvalue(max(1, round(amount * len(magnitudes[::step]))))[0] if amount else -1.0
    with torch.no_grad():
        for p in matrices:
            p.masked_fill_(p.abs() <= cut, 0.0)
    return pruned


def whiten(train: Tensor, components: int) -> Callable[[Tensor], Tensor]:
    """Projection on the leading principal components, each scaled to unit deviation."""
    x = train.double()
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    kept = vectors[:, -components:] / (values[-components:].clamp_min(1e-12)).sqrt()
    return lambda features: ((features.double() - mean) @ kept).float()


def probe(name: str, train: Labelled, test: Labelled, x: Tensor, y: Tensor, settings: Settings) -> Score:
    """Accuracy of one SGD probe with the middle of the paper's ranges."""
    fitted = linear.sgd(
        F.normalize(x, dim=1), train.labels, [(10.0, 1e-6)], classes=train.classes, epochs=settings.epochs,
        seed=settings.seed,
    )[0]  # fmt: skip
    return share(name, (fitted.predict(F.normalize(y, dim=1)) == test.labels).numpy(), settings)


def limited(shelf: Shelf) -> Shelf:
    """The same shelf with at most PER_SPLIT images of a split."""
    limit = min(shelf.settings.limit or PER_SPLIT, PER_SPLIT)
    return replace(shelf, settings=replace(shelf.settings, limit=limit))


@dataclass(frozen=True)
class Prune(Task):
    """The linear probe on ImageNet after pruning the encoder."""

    name: str = "prune"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("imagenet",)

    def protocol(self, settings: Settings) -> dict[str, Any]:
        return {"amounts": AMOUNTS, "probe": "SGD, lr 10, weight decay 1e-6", "images": PER_SPLIT}

    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        for amount in AMOUNTS:
            module = prune(subject.module, amount)
            one = replace(subject, module=module, encode=module, sha=sha_of(module))
            with TemporaryDirectory() as folder:  # nobody will ask for a pruned model's features again
                here = replace(limited(shelf), cache=Path(folder))
                train, test = (here.features(one, "imagenet", split) for split in ("train", "test"))
                check_classes("imagenet", train, test)
                name = f"prune/{round(100 * amount)} %"
                yield probe(name, train, test, train.features.float(), test.features.float(), shelf.settings)


@dataclass(frozen=True)
class Whiten(Task):
    """The linear probe on ImageNet on whitened principal components."""

    name: str = "whiten"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("imagenet",)

    def protocol(self, settings: Settings) -> dict[str, Any]:
        return {"components": "powers of two and all", "probe": "SGD, lr 10, weight decay 1e-6", "images": PER_SPLIT}

    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        shelf = limited(shelf)
        train, test = (shelf.features(subject, "imagenet", split) for split in ("train", "test"))
        check_classes("imagenet", train, test)
        width = train.features.shape[1]
        for components in [*(2**n for n in range(3, width.bit_length()) if 2**n < width), width]:
            project = whiten(train.features, components)
            name = f"whiten/{components}"
            yield probe(name, train, test, project(train.features), project(test.features), shelf.settings)
