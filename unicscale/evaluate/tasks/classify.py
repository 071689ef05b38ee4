"""Tasks on the summary token: k-NN, logistic regression on ImageNet and its relatives, transfer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.metrics import linear
from unicscale.evaluate.metrics.checks import check_features, check_labels
from unicscale.evaluate.metrics.knn import knn_predict
from unicscale.evaluate.score import Score, share
from unicscale.evaluate.sets import catalogue
from unicscale.evaluate.sets.names import LARGE, SHIFTED, TRANSFER
from unicscale.evaluate.task import Probe, Task, Want, check_classes
from unicscale.evaluate.terms import Labelled, Settings, Subject


@dataclass(frozen=True)
class Knn(Probe):
    """Weighted k-NN by cosine."""

    name: str = "knn"
    needs: tuple[str, ...] = ("imagenet",)
    ks: tuple[int, ...] = (20, 10, 100, 200)  # the first is the headline
    temperature: float = 0.07

    def headline(self) -> Knn:
        """The same, asked for its first score only."""
        return replace(self, ks=self.ks[:1])

    def protocol(self, settings: Settings) -> dict[str, Any]:
        votes = "k-NN, cosine, exp(cosine / T) votes"
        return {"classifier": votes, "T": self.temperature, "k": self.ks, "data": self.needs[0]}

    def measure(
        self, train: Labelled, test: Labelled, settings: Settings, device: torch.device | str = "cpu"
    ) -> Iterator[Score]:
        others = len(train.features) - (test.own is not None)
        ks = list(dict.fromkeys(min(k, others) for k in self.ks))
        predictions = knn_predict(
            train.features, train.labels, test.features,
            ks=ks, temperature=self.temperature, classes=train.classes, device=device, own=test.own,
        )  # fmt: skip
        for k in ks:
            name = self.name if k == ks[0] else f"{self.name}/k={k}"
            yield share(name, (predictions[k] == test.labels.cpu()).numpy(), settings)


@dataclass(frozen=True)
class Logistic(Probe):
    """Logistic regression, trained on one set and tested on it and on its shifted relatives."""

    solver: Literal["lbfgs", "sgd"] = "sgd"
    shifted: tuple[str, ...] = ()  # more test sets, where they are there

    def wants(self, subject: Subject) -> list[Want]:
        return [*super().wants(subject), *(Want(other, "test") for other in self.shifted)]

    def protocol(self, settings: Settings) -> dict[str, Any]:
        common = {"data": self.needs[0], "search": settings.search, "held out": linear.HELD_OUT}
        if settings.search == "optuna":
            common["trials"] = settings.trials
        if self.solver == "lbfgs":
            return common | {"classifier": "logistic regression, L-BFGS (scikit-learn)", "C": linear.C_RANGE}
        ranges = {"lr": linear.LR_RANGE, "weight decay": linear.DECAY_RANGE, "epochs": settings.epochs}
        return common | {"classifier": "logistic regression, SGD, batch 1024, l2-normalised features"} | ranges

    def measure(
        self, train: Labelled, test: Labelled, settings: Settings, device: torch.device | str = "cpu"
    ) -> Iterator[Score]:
        yield from self._scores(self.name, self._fitted(train, settings, device), test, settings)

    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        settings, data = shelf.settings, self.needs[0]
        train, test = (shelf.features(subject, data, split) for split in ("train", "test"))
        check_classes(data, train, test)
        fitted = self._fitted(train, settings, shelf.device)
        yield from self._scores(self.name, fitted, test, settings)
        for other in self.shifted:
            if catalogue.there(shelf.data, other):
                held = shelf.features(subject, other, "test")
                check_labels(other, held.labels, len(held.features), train.classes)
                yield from self._scores(f"{self.name}/{other}", fitted, held, settings)

    def _fitted(self, train: Labelled, settings: Settings, device: torch.device | str) -> linear.Linear:
        check_features(f"{self.needs[0]} train", train.features)
        check_labels(f"{self.needs[0]} train", train.labels, len(train.features), train.classes)
        options: dict[str, Any] = {"seed": settings.seed, "search": settings.search, "trials": settings.trials}
        x = self._prepared(train.features).to("cpu" if self.solver == "lbfgs" else device)
        if self.solver == "lbfgs":
            return linear.fit_lbfgs(x, train.labels, **options)
        return linear.fit_sgd(x, train.labels, classes=train.classes, epochs=settings.epochs, **options)

    def _prepared(self, features: Tensor) -> Tensor:
        return features if self.solver == "lbfgs" else F.normalize(features.float(), dim=1)

    def _scores(self, name: str, fitted: linear.Linear, test: Labelled, settings: Settings) -> Iterator[Score]:
        check_features(f"{name} test", test.features, width=fitted.weight.shape[1])
        chosen = fitted.chosen
        if "imagenet_r" in name:  # 200 of the 1000 classes: only they can be answered
            present = torch.zeros(len(fitted.bias), dtype=torch.bool)
            present[test.labels.unique()] = True
            fitted = fitted._replace(bias=fitted.bias.masked_fill(~present.to(fitted.bias.device), -torch.inf))
        correct = (fitted.predict(self._prepared(test.features)) == test.labels).double()
        yield share(name, correct.numpy(), settings, chosen)
        totals = torch.bincount(test.labels).clamp_min(1)
        present = torch.bincount(test.labels) > 0
        per_class = torch.zeros(len(totals), dtype=torch.float64).index_add_(0, test.labels, correct) / totals
        yield Score(f"{name}/per class", 100 * per_class[present].mean().item())


TASKS: tuple[Task, ...] = (
    Knn(),
    Logistic("imagenet", ("imagenet",), shifted=SHIFTED),
    *(Logistic(name, (name,), solver="sgd" if name in LARGE else "lbfgs") for name in TRANSFER),
)
