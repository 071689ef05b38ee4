"""Logistic regression on frozen features: L-BFGS for small sets, many SGD runs at once for large ones."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unicscale.errors import RecipeError
from unicscale.evaluate.metrics.checks import check_features, check_labels

C_RANGE = (1e-5, 1e6)  # the paper's ranges, all searched logarithmically
LR_RANGE = (1e-1, 1e2)
DECAY_RANGE = (1e-12, 1e-4)
HELD_OUT = 0.2
FOR_ONE_THREAD = 100_000_000  # rows x width x classes: below, threads cost L-BFGS's products more than they bring


class Linear(NamedTuple):
    """A fitted classifier."""

    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)
    chosen: dict[str, float]  # the hyper-parameters it was fitted with

    def predict(self, features: Tensor) -> Tensor:  # (N, D) -> (N,)
        """The most likely class of each row."""
        some = features.split(16_384)
        device = self.weight.device
        return torch.cat([F.linear(x.to(device).float(), self.weight, self.bias).argmax(1).cpu() for x in some])


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in per cent."""
    return 100.0 * (predictions.cpu() == labels.cpu()).double().mean().item()


def linear_accuracy(
    train: Tensor,  # (N, D)
    train_labels: Tensor,  # (N,)
    test: Tensor,  # (M, D)
    test_labels: Tensor,  # (M,)
    *,
    C: float | None = None,
    classes: int | None = None,
    seed: int = 22,
) -> float:
    """Top-1 accuracy in per cent of L-BFGS logistic regression; C from a grid on 20 % of train where none is given."""
    classes = _check(train, train_labels, classes)
    check_features("linear test", test, width=train.shape[1])
    check_labels("linear test", test_labels, len(test), classes)
    fitted = lbfgs(train, train_labels, C) if C else fit_lbfgs(train, train_labels, seed=seed)
    return accuracy(fitted.predict(test), test_labels)


def held_out(labels: Tensor, share: float = HELD_OUT, seed: int = 22) -> Tensor:  # (N,) bool
    """A random share of every class, keeping at least one of each for training."""
    generator = np.random.Generator(np.random.Philox(seed))
    ours = labels.cpu().numpy()
    chosen = np.zeros(len(ours), dtype=bool)
    order = generator.permutation(len(ours))
    by_class = order[np.argsort(ours[order], kind="stable")]
    for rows in np.split(by_class, np.flatnonzero(np.diff(ours[by_class])) + 1):
        chosen[rows[: min(math.ceil(share * len(rows)), len(rows) - 1)]] = True
    return torch.from_numpy(chosen)


# --- L-BFGS ---------------------------------------------------------------------------------------


def lbfgs(train: Tensor, labels: Tensor, C: float, *, max_iter: int = 2000, start: Linear | None = None) -> Linear:
    """scikit-learn's logistic regression; `start` warms it up."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    model = LogisticRegression(C=C, max_iter=max_iter, warm_start=start is not None)
    x, y = train.cpu().float().numpy(), labels.cpu().numpy()
    present = np.unique(y)
    two = len(present) == 2
    if start is not None:
        weight, bias = start.weight[present].numpy(), start.bias[present].numpy()
        # scikit-learn keeps one row for two classes: the difference
        model.coef_ = weight[1:] - weight[:1] if two else weight
        model.intercept_ = bias[1:] - bias[:1] if two else bias
        model.classes_ = present
    threads = 1 if x.size * len(present) < FOR_ONE_THREAD else None
    with warnings.catch_warnings(), threadpool_limits(threads):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the paper's max_iter is part of the protocol
        model.fit(x, y)
    classes = int(labels.max()) + 1
    weight = torch.zeros(classes, train.shape[1])
    bias = torch.full((classes,), -torch.inf)  # a class without an example is never predicted
    coefficients, intercepts = np.asarray(model.coef_), np.asarray(model.intercept_)
    if two:
        coefficients, intercepts = np.stack([0 * coefficients[0], coefficients[0]]), np.array([0, intercepts[0]])
    weight[present], bias[present] = torch.from_numpy(coefficients).float(), torch.from_numpy(intercepts).float()
    return Linear(weight, bias, {"C": C})


def fit_lbfgs(
    train: Tensor, labels: Tensor, *, seed: int = 22, search: str = "grid", trials: int = 40, max_iter: int = 2000
) -> Linear:
    """C chosen on 20 % of train, then fitted on all of it."""
    out = held_out(labels, seed=seed)
    if not out.any():
        return lbfgs(train, labels, 1.0, max_iter=max_iter)
    inside, inside_labels, outside, outside_labels = train[~out], labels[~out], train[out], labels[out]
    start: Linear | None = None

    def score(values: dict[str, float]) -> float:
        nonlocal start
        fitted = lbfgs(inside, inside_labels, values["C"], max_iter=max_iter, start=start)
        if search == "grid":
            start = fitted  # the grid climbs, so each fit starts from its weaker neighbour
        return accuracy(fitted.predict(outside), outside_labels)

    if search == "optuna":
        best = _optuna(score, {"C": C_RANGE}, trials, seed)
    else:
        grid = np.geomspace(*C_RANGE, 12)
        best = {"C": float(max(grid, key=lambda C: score({"C": float(C)})))}
    return lbfgs(train, labels, best["C"], max_iter=max_iter)


# --- SGD, all candidates at once ------------------------------------------------------------------


def sgd(
    train: Tensor,  # (N, D) on the device it shall run on; rows are used as they are
    labels: Tensor,  # (N,)
    candidates: Sequence[tuple[float, float]],  # H of (learning rate, weight decay)
    *,
    classes: int,
    epochs: int = 100,
    batch: int = 1024,
    momentum: float = 0.9,
    seed: int = 22,
) -> list[Linear]:
    """One softmax regression per candidate, all fed by the same pass over the features; cosine schedule per epoch."""
    device, width, heads = train.device, train.shape[1], len(candidates)
    weight = torch.zeros(heads * classes, width + 1, device=device)  # all candidates are one product
    speed = torch.zeros_like(weight)
    lr, decay = torch.tensor(candidates, device=device).repeat_interleave(classes, dim=0).T[:, :, None]
    generator = torch.Generator().manual_seed(seed)
    labels = labels.to(device)
    for epoch in range(epochs):
        now = lr * (0.5 * (1 + math.cos(math.pi * epoch / epochs)))
        for rows in torch.randperm(len(train), generator=generator).to(device).split(batch):
            x = F.pad(train[rows].float(), (0, 1), value=1.0)  # (B, D+1), the last column is the bias's
            wrong = (x @ weight.T).view(len(rows), heads, classes).softmax(dim=2)
            wrong[torch.arange(len(rows), device=device), :, labels[rows]] -= 1
            gradient = (wrong.flatten(1).T @ x).div_(len(rows)).addcmul_(weight, decay)
            speed.mul_(momentum).add_(gradient)
            weight.addcmul_(speed, now, value=-1)
    weight = weight.nan_to_num_().view(heads, classes, width + 1)  # one that diverged scores as chance
    return [
        Linear(one[:, :-1].contiguous(), one[:, -1].contiguous(), {"lr": rate, "weight_decay": shrink})
        for one, (rate, shrink) in zip(weight, candidates, strict=True)
    ]


def fit_sgd(
    train: Tensor,
    labels: Tensor,
    *,
    classes: int,
    seed: int = 22,
    search: str = "grid",
    trials: int = 40,
    epochs: int = 100,
    at_once: int = 8,
) -> Linear:
    """Learning rate and weight decay chosen on 20 % of train, then fitted on all of it."""
    out = held_out(labels, seed=seed).to(train.device)
    ours = labels.to(train.device)
    inside, inside_labels, outside, outside_labels = train[~out], ours[~out], train[out], ours[out]

    def scores(candidates: Sequence[tuple[float, float]]) -> list[float]:
        fitted = sgd(inside, inside_labels, candidates, classes=classes, epochs=epochs, seed=seed)
        return [accuracy(one.predict(outside), outside_labels) for one in fitted]

    if search == "optuna":
        ranges = {"lr": LR_RANGE, "weight_decay": DECAY_RANGE}
        found = _optuna(lambda v: scores([(v["lr"], v["weight_decay"])])[0], ranges, trials, seed)
        best = (found["lr"], found["weight_decay"])
    else:
        grid = [(float(a), float(b)) for a in np.geomspace(*LR_RANGE, 7) for b in (1e-12, 1e-8, 1e-6, 1e-5, 1e-4)]
        marks = [mark for first in range(0, len(grid), at_once) for mark in scores(grid[first : first + at_once])]
        best = grid[int(np.argmax(marks))]
    return sgd(train, ours, [best], classes=classes, epochs=epochs, seed=seed)[0]


def _optuna(
    score: Callable[[dict[str, float]], float], ranges: dict[str, tuple[float, float]], trials: int, seed: int
) -> dict[str, float]:
    try:
        import optuna
    except ImportError as missing:
        raise RecipeError(
            "--search optuna needs Optuna: pip install 'unicscale[evaluate]', or --search grid"
        ) from missing
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))

    def objective(trial: optuna.Trial) -> float:
        return score({name: trial.suggest_float(name, *span, log=True) for name, span in ranges.items()})

    study.optimize(objective, n_trials=trials)
    return dict(study.best_params)


def _check(train: Tensor, labels: Tensor, classes: int | None) -> int:
    check_features("linear train", train)
    return check_labels("linear train", labels, len(train), classes)
