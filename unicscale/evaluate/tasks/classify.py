"""Tasks on the summary token: k-NN, logistic regression on ImageNet and its relatives, transfer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unicscale.errors import DataError
from unicscale.evaluate.features.shelf import Labelled, Shelf
from unicscale.evaluate.metrics import linear
from unicscale.evaluate.metrics.checks import check_features, check_labels
from unicscale.evaluate.metrics.knn import knn_predict
from unicscale.evaluate.score import Score, share
from unicscale.evaluate.sets import catalogue
from unicscale.evaluate.task import Task, Want
from unicscale.evaluate.terms import Settings, Subject

KS = (20, 10, 100, 200)  # the first is the headline


@dataclass(frozen=True)
class Knn(Task):
    """Weighted k-NN on ImageNet."""

    name: str = "knn"
    data: str = "imagenet"
    temperature: float = 0.07

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.data,)

    def wants(self, subject: Subject) -> list[Want]:
        return [Want(self.data, split) for split in ("train", "test")]

    def protocol(self, settings: Settings) -> dict[str, Any]:
        return {"classifier": "k-NN, cosine, exp(cosine / T) votes", "T": self.temperature, "k": KS, "data": self.data}

    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        bank, test = shelf.features(subject, self.data, "train"), shelf.features(subject, self.data, "test")
        check_classes(self.data, bank, test)
        ks = [min(k, len(bank.features)) for k in KS]
        predictions = knn_predict(
            bank.features, bank.labels, test.features,
            ks=ks, temperature=self.temperature, classes=bank.classes, device=shelf.device,
        )  # fmt: skip
        for k in dict.fromkeys(ks):
            name = self.name if k == ks[0] else f"{self.name}/k={k}"
            yield share(name, (predictions[k] == test.labels).numpy(), shelf.settings)


@dataclass(frozen=True)
class Logistic(Task):
    """Logistic regression, trained on one set and tested on it and on its shifted relatives."""

    name: str
    data: str
    solver: str  # lbfgs | sgd
    shifted: tuple[str, ...] = ()  # more test sets, where they are there

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.data,)

    def wants(self, subject: Subject) -> list[Want]:
        return [
            *(Want(self.data, split) for split in ("train", "test")),
            *(Want(other, "test") for other in self.shifted),
        ]

    def protocol(self, settings: Settings) -> dict[str, Any]:
        common = {"data": self.data, "search": settings.search, "held out": linear.HELD_OUT}
        if settings.search == "optuna":
            common["trials"] = settings.trials
        if self.solver == "lbfgs":
            return common | {"classifier": "logistic regression, L-BFGS (scikit-learn)", "C": linear.C_RANGE}
        ranges = {"lr": linear.LR_RANGE, "weight decay": linear.DECAY_RANGE, "epochs": settings.epochs}
        return common | {"classifier": "logistic regression, SGD, batch 1024, l2-normalised features"} | ranges

    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        settings = shelf.settings
        train, test = shelf.features(subject, self.data, "train"), shelf.features(subject, self.data, "test")
        check_classes(self.data, train, test)
        check_features(f"{self.data} train", train.features)
        check_labels(f"{self.data} train", train.labels, len(train.features), train.classes)
        options: dict[str, Any] = {"seed": settings.seed, "search": settings.search, "trials": settings.trials}
        x = self._prepared(train.features).to("cpu" if self.solver == "lbfgs" else shelf.device)
        if self.solver == "lbfgs":
            fitted = linear.fit_lbfgs(x, train.labels, **options)
        else:
            fitted = linear.fit_sgd(x, train.labels, classes=train.classes, epochs=settings.epochs, **options)
        subject.notes[self.name] = fitted.chosen
        yield from self._scores(self.name, fitted, test, settings)
        for other in self.shifted:
            if catalogue.there(shelf.data, other):
                held = shelf.features(subject, other, "test")
                check_labels(other, held.labels, len(held.features), train.classes)
                yield from self._scores(f"{self.name}/{other}", fitted, held, settings)

    def _prepared(self, features: Tensor) -> Tensor:
        return features if self.solver == "lbfgs" else F.normalize(features.float(), dim=1)

    def _scores(self, name: str, fitted: linear.Linear, test: Labelled, settings: Settings) -> Iterator[Score]:
        check_features(f"{name} test", test.features, width=fitted.weight.shape[1])
        if "imagenet_r" in name:  # 200 of the 1000 classes: only they can be answered
            present = torch.zeros(len(fitted.bias), dtype=torch.bool)
            present[test.labels.unique()] = True
            fitted = fitted._replace(bias=fitted.bias.masked_fill(~present.to(fitted.bias.device), -torch.inf))
        correct = (fitted.predict(self._prepared(test.features)) == test.labels).double()
        yield share(name, correct.numpy(), settings)
        totals = torch.bincount(test.labels).clamp_min(1)
        present = torch.bincount(test.labels) > 0
        per_class = torch.zeros(len(totals), dtype=torch.float64).index_add_(0, test.labels, correct) / totals
        yield Score(f"{name}/per class", 100 * per_class[present].mean().item())


def check_classes(name: str, train: Labelled, test: Labelled) -> None:
    """Refuse a test set with another number of classes than its training set."""
    if train.classes != test.classes:
        raise DataError(
            f"{name}: {train.classes} classes to train on, but {test.classes} to test on; "
            "both splits need a folder for every class"
        )
