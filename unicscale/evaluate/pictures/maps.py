"""Segmentation and depth beside the truth: what a linear head makes of each model's patch tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.metrics.depth import depth_errors
from unicscale.evaluate.metrics.segment import miou, tally
from unicscale.evaluate.pictures.colours import heat, palette
from unicscale.evaluate.pictures.sheet import Cell, Row, Sheet, drawing, photo
from unicscale.evaluate.sets import own
from unicscale.evaluate.sets.pairs import Pairs
from unicscale.evaluate.tasks.dense import Dense, Depth, Guess, Segment
from unicscale.evaluate.terms import Subject

Paint = Callable[[np.ndarray], np.ndarray]  # a map (H, W) -> colours (H, W, 3)


def segmentation(root: Path, models: Mapping[str, Subject], shelf: Shelf, count: int) -> Sheet:
    """Images with masks; a few of those that no head has learned from."""
    train, test = own.dense("masks", root, "train"), own.dense("masks", root, "test").thinned(count)
    guesses = _guesses(Segment("segment"), models, train, test, shelf)
    classes = train.classes
    colours = palette(classes)

    def score(one: Guess) -> float:
        return float(miou(tally(one.guess, one.truth, classes).numpy()))

    return _sheet(
        "Segmentation beside the truth", guesses, lambda mask: colours[mask], score, "mIoU {:.0f} %", best=max,
        says=f"{_heads(shelf)} Colours are classes, grey does not count; the number is the mIoU of that image.",
    )  # fmt: skip


def depth(root: Path, models: Mapping[str, Subject], shelf: Shelf, count: int) -> Sheet:
    """The same with distances."""
    train, test = own.dense("depth", root, "train"), own.dense("depth", root, "test").thinned(count)
    guesses = _guesses(Depth("depth", own=True), models, train, test, shelf)
    farthest = max(float(one.truth.max()) for one in next(iter(guesses.values())))

    def score(one: Guess) -> float:
        return depth_errors(one.guess, one.truth)["rmse"] if bool((one.truth > 0).any()) else float("nan")

    return _sheet(
        "Depth beside the truth", guesses, lambda far: heat(far, farthest or 1.0), score, "RMSE {:.3g}", best=min,
        says=f"{_heads(shelf)} Bright is near, dark is far, black was not measured; the number is that image's RMSE.",
    )  # fmt: skip


def _heads(shelf: Shelf) -> str:
    return f"Linear heads on frozen patch tokens, {shelf.settings.dense_steps} steps each; none saw these images."


def _guesses(
    task: Dense, models: Mapping[str, Subject], train: Pairs, test: Pairs, shelf: Shelf
) -> dict[str, list[Guess]]:
    return {name: list(task.guesses(model, train, test, shelf)) for name, model in models.items()}


def _sheet(
    title: str, guesses: Mapping[str, list[Guess]], paint: Paint, score: Callable[[Guess], float], form: str, *,
    best: Callable[..., str], says: str,
) -> Sheet:  # fmt: skip
    scores = {name: [score(one) for one in held] for name, held in guesses.items()}
    rows = []
    for number, one in enumerate(next(iter(guesses.values()))):
        cells = [Cell(image=photo(one.image)), Cell(image=drawing(paint(one.truth.numpy())))]
        for name, held in guesses.items():
            said = form.format(scores[name][number])
            cells.append(Cell(image=drawing(paint(held[number].guess.numpy())), says=said))
        rows.append(Row(name=str(number + 1), cells=cells))
    means = {name: float(np.nanmean(held)) for name, held in scores.items()}
    nearest = best(means, key=lambda name: means[name])
    each = ", ".join(f"{name} {form.format(mean)}" for name, mean in means.items())
    finding = f"On these {len(rows)} images {nearest} comes nearest to the truth: {each} on average."
    return Sheet(title=title, finding=finding, says=says, columns=["image", "truth", *guesses], rows=rows)
