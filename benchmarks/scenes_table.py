"""Student and teachers of finished demo runs on every axis, over their seeds, with intervals.

    unicscale demo --out runs/demo-1 --seed 1   one run per seed
    python benchmarks/scenes_table.py runs/demo-0 runs/demo-1 runs/demo-2 --out benchmarks/results/scenes.json

The probes are the demo's own. Every seed draws other scenes and another student. An interval holds 95 % of bootstrap
resamples of the test scenes, averaged over the seeds; behind it the lowest and the highest seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unicscale import checkpoint, demo, interop
from unicscale.data import scenes
from unicscale.evaluate.metrics.depth import linear_errors
from unicscale.evaluate.metrics.knn import knn_predict
from unicscale.evaluate.metrics.linear import lbfgs
from unicscale.evaluate.metrics.probe import QUICK
from unicscale.evaluate.metrics.segment import linear_tallies, miou
from unicscale.evaluate.results.gains import gain
from unicscale.evaluate.score import Score, bootstrap, share
from unicscale.evaluate.terms import Settings

RESAMPLES = 1000


def measure(bank: demo.Labelled, test: demo.Labelled, sizes: demo.Sizes) -> Iterator[Score]:
    """One model on one seed's scenes."""
    settings, schedule = Settings(), QUICK._replace(steps=sizes.probe_steps)
    known, asked = bank.features.summary, test.features.summary
    guess = knn_predict(known, bank.shape, asked, ks=[20])[20]
    yield share("k-NN class", (guess == test.shape).numpy(), settings)
    for name, ours, truth in (("class", bank.shape, test.shape), ("texture", bank.texture, test.texture)):
        yield share(f"linear {name}", (lbfgs(known, ours, 1.0).predict(asked) == truth).numpy(), settings)
    classes, seed = 1 + len(scenes.SHAPES), settings.seed
    tokens = bank.features.patches, bank.mask, test.features.patches, test.mask
    tallies = linear_tallies(*tokens, classes, schedule=schedule, seed=seed).numpy()
    low, high = bootstrap(tallies, lambda s: miou(s.reshape(len(s), 3, -1)), seed=seed, resamples=RESAMPLES)
    yield Score("mIoU", float(miou(tallies.sum(0))), low, high)
    features = bank.features, bank.depth, test.features, test.depth
    each = np.array([e["rmse"] for e in linear_errors(*features, low=0.0, high=1.0, schedule=schedule, seed=seed)])
    low, high = bootstrap(each, lambda s: s[:, 0] / len(each), seed=seed, resamples=RESAMPLES)
    yield Score("depth RMSE", float(each.mean()), low, high, higher_is_better=False)


def one(run: Path, sizes: demo.Sizes) -> dict[str, dict[str, Score]]:
    """Model -> axis -> score, on scenes that none of them has seen."""
    recipe = checkpoint.locate(run).recipe
    bank = scenes.draw(sizes.bank, seed=recipe.seed, first=sizes.train)
    test = scenes.draw(sizes.test, seed=recipe.seed, first=sizes.train + sizes.bank)
    models = demo.teachers_of(recipe) | {"student": interop.load(str(run))}

    def scores(model: demo.Model) -> dict[str, Score]:
        return {score.name: score for score in measure(demo.see(model, bank), demo.see(model, test), sizes)}

    with demo.sharing_cores() as pool:
        return dict(zip(models, pool.map(scores, models.values()), strict=True))


def over_seeds(runs: list[dict[str, dict[str, Score]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean, half-width of its interval, lowest and highest seed; the test scenes of different seeds are independent."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for model, axes in runs[0].items():
        for axis in axes:
            scores = [run[model][axis] for run in runs]
            halves = [(s.high - s.low) / 2 for s in scores if s.high is not None and s.low is not None]
            values = [s.value for s in scores]
            table.setdefault(model, {})[axis] = {
                "mean": float(np.mean(values)),
                "half": float(np.sqrt(np.square(halves).sum()) / len(runs)),
                "lowest": min(values),
                "highest": max(values),
            }
    return table


def markdown(table: dict[str, dict[str, dict[str, float]]], runs: list[dict[str, dict[str, Score]]]) -> str:
    """A row per model, a column per axis, and the gain over the better teacher of each seed."""
    axes = list(table["student"])
    lines = ["| | " + " | ".join(axes) + " |", "|---" * (len(axes) + 1) + "|"]
    for model, row in table.items():
        cells = []
        for axis in axes:
            digits = 4 if "RMSE" in axis else 1
            held = {name: f"{value:.{digits}f}" for name, value in row[axis].items()}
            cells.append(f"{held['mean']} ± {held['half']} ({held['lowest']}–{held['highest']})")
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    cells = []
    for axis in axes:
        higher, best = runs[0]["student"][axis].higher_is_better, []
        for run in runs:
            teachers = [scores[axis].value for model, scores in run.items() if model != "student"]
            best.append(gain(run["student"][axis].value, (max if higher else min)(teachers), higher))
        cells.append(f"{np.mean(best):+.1f} % ({min(best):+.1f} to {max(best):+.1f})")
    return "\n".join([*lines, "| gain | " + " | ".join(cells) + " |"])


def main() -> None:
    """Evaluate what is given, print the table, keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--test", type=int, default=demo.Sizes().test, help="scenes to measure on")
    given = parser.parse_args()

    sizes = demo.Sizes(test=given.test)
    runs = [one(run, sizes) for run in given.runs]
    table = over_seeds(runs)
    print(markdown(table, runs))
    if given.out:
        seeds = [checkpoint.locate(run).recipe.seed for run in given.runs]
        each = [{model: {n: s._asdict() for n, s in axes.items()} for model, axes in run.items()} for run in runs]
        held = {"synthetic": True, "seeds": seeds, "sizes": sizes._asdict(), "table": table, "runs": each}
        given.out.write_text(json.dumps(held, indent=1) + "\n")


if __name__ == "__main__":
    main()
