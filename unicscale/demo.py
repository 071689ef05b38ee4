"""The whole story on a laptop: draw scenes, distil two small teachers in two stages, say what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits
from torch import Tensor

from unicscale import interop, report
from unicscale.contracts import Features, there
from unicscale.data import scenes
from unicscale.data.stream.workers import cores
from unicscale.evaluate.metrics.depth import linear_rmse
from unicscale.evaluate.metrics.knn import knn_accuracy
from unicscale.evaluate.metrics.linear import linear_accuracy
from unicscale.evaluate.metrics.probe import QUICK, Schedule
from unicscale.evaluate.metrics.segment import linear_miou
from unicscale.evaluate.pictures.look import Asked
from unicscale.evaluate.pictures.look import look as see_all
from unicscale.evaluate.pictures.look import write as write_pictures
from unicscale.evaluate.results.gains import gain
from unicscale.evaluate.terms import Settings
from unicscale.ranks.device import device_of, slow_in
from unicscale.ranks.terminal import tell
from unicscale.ranks.world import World
from unicscale.recipe import Recipe, load, shipped
from unicscale.run import status
from unicscale.run.folder import RunFolder, owner_of, refuse_unfit, write_whole
from unicscale.teacher.described import describe
from unicscale.teacher.frozen import open_teacher

RECIPE = shipped.FOLDER / "demo.yaml"
TEACHERS_SAW = 1800 * 64  # steps and batch of teachers/train_scenes.py
# 37 to 65 tokens of 32 channels: 2.4 times faster without the fused kernel, and one thread per rank
SMALL_STEPS = {"TIMM_FUSED_ATTN": "0", "OMP_NUM_THREADS": "1"}
HALFWAY = "student after the first stage"
PARTS = files("unicscale.evaluate.results").joinpath("parts.json")  # by benchmarks/components.py
Model = Callable[[Tensor], Features]  # uint8 images -> tokens
Scores = dict[str, float]  # by the name of an axis


class Sizes(NamedTuple):
    """How many scenes the student learns from, the probes learn from, and everything is measured on."""

    train: int = 16384
    bank: int = 3072
    test: int = 2048
    probe_steps: int = 200  # of the dense probes, at 16 scenes each


class Labelled(NamedTuple):
    """Scenes, their truth, and what one model made of them."""

    features: Features
    shape: Tensor  # (B,)
    texture: Tensor  # (B,)
    mask: Tensor  # (B, S, S)
    depth: Tensor  # (B, S, S)


class Axis(NamedTuple):
    """One measure of frozen features: probes learn from the bank and are scored on the test scenes."""

    name: str
    form: str
    score: Callable[[Labelled, Labelled, Schedule], float]
    higher_is_better: bool = True


AXES = (
    Axis("k-NN class", "{:.1f}", lambda bank, test, _: _knn(bank, test)),
    Axis("linear class", "{:.1f}", lambda bank, test, _: _linear(bank, bank.shape, test, test.shape)),
    Axis("linear texture", "{:.1f}", lambda bank, test, _: _linear(bank, bank.texture, test, test.texture)),
    Axis("mIoU", "{:.1f}", lambda bank, test, schedule: _miou(bank, test, schedule)),
    Axis("depth RMSE", "{:.4f}", lambda bank, test, schedule: _rmse(bank, test, schedule), higher_is_better=False),
)


def run(out: Path, seed: int = 0, sizes: Sizes | None = None, overrides: list[str] | None = None) -> RunFolder:
    """Scenes, distillation, evaluation, report; `seed` draws other scenes and another student, the teachers stay."""
    sizes, clock = sizes or Sizes(), Clock()
    images = out / "scenes" / f"seed-{seed}"
    refuse_unfit(out)
    changes = [
        f"out={out}",
        f"seed={seed}",
        f"data.train.0={images}",
        f"engine.dtype={precision(out, overrides or [])}",
    ]
    changes += overrides or []
    recipe = load(RECIPE, changes)
    with clock.time("scenes"):
        scenes.write(images, sizes.train, seed=seed)
    with clock.time("distillation"):
        folder = distil(changes)
    with clock.time("evaluation"):
        models = teachers_of(recipe) | {"student": student_of(folder), HALFWAY: halfway_of(folder, recipe)}
        scores = evaluate(models, seed, sizes)
        halfway = scores.pop(HALFWAY)
    with clock.time("pictures"):
        look(folder, out / "scenes" / "shown", seed, sizes)
    result = {"synthetic": True, "seed": seed, "sizes": sizes._asdict(), "scores": scores, "gain": gains(scores)}
    result["story"] = told(scores, recipe)
    result["beside"] = [by_stage(scores["student"], halfway, recipe), by_part()]
    folder.evaluation.mkdir(parents=True, exist_ok=True)
    write_whole(folder.evaluation / "demo.json", json.dumps(result | {"seconds": clock.seconds}, indent=1) + "\n")
    page = report.write([report.read(folder, status.status(folder, None))], folder.report)
    show(scores, clock, student_saw=recipe.data.images_per_step * sum(stage.steps or 0 for stage in recipe.stages))
    print(os.path.relpath(page))
    return folder


def precision(out: Path, overrides: list[str]) -> str:
    """What a run in that folder began in; else what is asked for, where the device computes in it."""
    if owner := owner_of(RunFolder(out)):
        return owner.engine.dtype
    asked = load(RECIPE, overrides).engine
    insisted = any(change.startswith("engine.dtype=") for change in overrides)
    if insisted or not slow_in(asked.dtype, device_of(asked.device, 0)):
        return asked.dtype
    tell(f"This CPU only imitates {asked.dtype}: the demo computes in fp32, and takes half an hour, not ten minutes.")
    return "fp32"


def distil(changes: list[str]) -> RunFolder:
    """The recipe by launch/local.py, on two ranks where there are two cores: one rank's threads would only wait."""
    recipe, ranks = load(RECIPE, changes), min(2, cores())
    command = [sys.executable, "-m", "unicscale_launch.local", str(RECIPE), *changes, "--ranks", str(ranks)]
    with subprocess.Popen(command, env=os.environ | SMALL_STEPS) as launcher:
        while launcher.poll() is None:
            with suppress(KeyboardInterrupt):  # the launcher heard the same key: its ranks save and leave
                launcher.wait()
    if launcher.returncode:
        sys.exit(launcher.returncode)  # it said why
    return RunFolder(Path(recipe.out))


# --- evaluation -------------------------------------------------------------------------------------


def teachers_of(recipe: Recipe) -> dict[str, Model]:
    """As the recipe names them, each by itself and not standardised."""
    return {
        name: open_teacher(section.plugin or name, weights=section.weights, options=section.options)
        for name, section in recipe.teachers.items()
    }


def student_of(folder: RunFolder) -> Model:
    """The run's last checkpoint."""
    return interop.load(str(folder.root))


def halfway_of(folder: RunFolder, recipe: Recipe) -> Model:
    """The end of the first stage, which every run keeps."""
    return interop.load(f"{folder.root}@{recipe.stages[0].name}")


def evaluate(models: dict[str, Model], seed: int, sizes: Sizes) -> dict[str, Scores]:
    """Every model on every axis; the bank and the test scenes follow the student's training scenes in the same seed."""
    schedule = QUICK._replace(steps=sizes.probe_steps, batch=16)
    with sharing_cores() as pool:
        bank = pool.submit(scenes.draw, sizes.bank, seed=seed, first=sizes.train)
        test = pool.submit(scenes.draw, sizes.test, seed=seed, first=sizes.train + sizes.bank)
        seen = {
            name: (pool.submit(see, model, bank.result()), pool.submit(see, model, test.result()))
            for name, model in models.items()
        }
        scores = {
            name: {axis.name: pool.submit(axis.score, ours.result(), theirs.result(), schedule) for axis in AXES}
            for name, (ours, theirs) in seen.items()
        }
        return {name: {axis: one.result() for axis, one in row.items()} for name, row in scores.items()}


@contextmanager
def sharing_cores() -> Iterator[ThreadPoolExecutor]:
    """The cores take whole models and whole axes: products this small are slower when they are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1), ThreadPoolExecutor(cores()) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def see(model: Model, drawn: scenes.Scenes, batch: int = 64) -> Labelled:
    """A model's tokens beside the truth."""
    images = torch.from_numpy(drawn.images).permute(0, 3, 1, 2)
    with torch.inference_mode():
        pieces = [model(some.contiguous()) for some in images.split(batch)]
    # copied outside of inference mode: the probes train on them
    features = Features(*(torch.cat([getattr(p, kind) for p in pieces]).float().clone() for kind in Features._fields))
    truth = (torch.from_numpy(array) for array in (drawn.shape, drawn.texture, drawn.mask, drawn.depth))
    return Labelled(features, *truth)


def _knn(bank: Labelled, test: Labelled) -> float:
    return knn_accuracy(there(bank.features.summary), bank.shape, there(test.features.summary), test.shape)


def _linear(bank: Labelled, labels: Tensor, test: Labelled, truth: Tensor) -> float:
    return linear_accuracy(there(bank.features.summary), labels, there(test.features.summary), truth, C=1.0)


def _miou(bank: Labelled, test: Labelled, schedule: Schedule) -> float:
    patches = (there(bank.features.patches), bank.mask, there(test.features.patches), test.mask)
    return linear_miou(*patches, classes=1 + len(scenes.SHAPES), schedule=schedule)


def _rmse(bank: Labelled, test: Labelled, schedule: Schedule) -> float:
    truths = (bank.features, bank.depth, test.features, test.depth)
    return linear_rmse(*truths, low=0.0, high=1.0, schedule=schedule)


def gains(scores: dict[str, Scores]) -> Scores:
    """The student's relative gain over the best teacher, in per cent, positive where it is better."""
    found = {}
    for axis in AXES:
        teachers = [theirs[axis.name] for name, theirs in scores.items() if name != "student"]
        best = max(teachers) if axis.higher_is_better else min(teachers)
        found[axis.name] = gain(scores["student"][axis.name], best, axis.higher_is_better)
    return found


# --- pictures and words -----------------------------------------------------------------------------


def look(folder: RunFolder, place: Path, seed: int, sizes: Sizes) -> None:
    """What student and teachers see in scenes that none of them has learned from."""
    bank, test = sizes.train, sizes.train + sizes.bank
    scenes.write(place / "classes", min(256, sizes.test), seed=seed, first=test)
    learned = range(bank, bank + min(384, sizes.bank))
    scenes.write_maps(place / "maps", seed=seed, train=learned, test=range(test, test + 6))
    settings = Settings(dense_size=64, dense_steps=min(100, sizes.probe_steps), dense_lr=1e-2, dtype="fp32")
    asked = Asked(str(folder.root), [place / "classes", place / "maps"], 6, 256, settings, {}, alone=False)
    write_pictures(folder.pictures, see_all(asked, World()))


def told(scores: dict[str, Scores], recipe: Recipe) -> list[str]:
    """The story of the paper in this run's numbers: two who know different things, and one who learns from both."""
    teachers = {name: row for name, row in scores.items() if name != "student"}
    over = gains(scores)
    each = {}
    for axis in AXES:
        row = {name: theirs[axis.name] for name, theirs in teachers.items()}
        better = max if axis.higher_is_better else min
        each[axis.name] = better(row, key=lambda name: row[name])
    best = {name: [axis for axis, who in each.items() if who == name] for name in teachers}
    knows = "; ".join(f"'{name}' is the better one on {', '.join(axes)}" for name, axes in best.items() if axes)
    stages = ", then ".join(
        f"{(stage.steps or 0) * recipe.data.images_per_step:,} images of {stage.size} pixels" for stage in recipe.stages
    )
    behind = {name: _behind(row, scores) for name, row in scores.items()}
    order = sorted(behind, key=lambda name: -behind[name])
    gained = [f"{axis} ({value:+.1f} %)" for axis, value in over.items() if round(value, 1) > 0]
    return [
        f"Two frozen teachers of synthetic scenes know different things: {knows}.",
        f"{sized(recipe)} learned from both at once, in two stages: {stages}. "
        "Its targets were standardised, and for each image a teacher that it already followed well was left out now "
        "and then (teacher dropping).",
        "Against the best teacher of each axis, the mean over all axes is: "
        + ", ".join(f"{name} {behind[name]:+.1f} %" for name in order) + ". "
        + (f"The student goes beyond both on {', '.join(gained)}." if gained else "It goes beyond both on no axis."),
    ]  # fmt: skip


def by_stage(scores: Scores, halfway: Scores, recipe: Recipe) -> dict[str, Any]:
    """What the second stage, of larger images, brings: a table for the page."""
    rows = [[f"after stage {name}", *_cells(row)] for name, row in zip(_stages(recipe), (halfway, scores), strict=True)]
    change = [f"{gain(scores[axis.name], halfway[axis.name], axis.higher_is_better):+.1f} %" for axis in AXES]
    return {
        "title": "What the second stage brings",
        "rows": [["", *(axis.name for axis in AXES)], *rows, ["gain", *change]],
        "says": "This run's student at the end of each stage, on the same scenes.",
    }


def by_part() -> dict[str, Any]:
    """What each part of the method adds, with and without dropping: measured apart, for five runs take half an hour."""
    held = json.loads(PARTS.read_text())
    rows = [
        [part, *(f"{axis.form.format(row[axis.name][0])} ± {axis.form.format(row[axis.name][1])}" for axis in AXES)]
        for part, row in held["rows"].items()
    ]
    return {
        "title": "What each part of the method adds",
        "rows": [["", *(axis.name for axis in AXES)], *rows],
        "says": "Not this run: each row adds a part to the row above, the last one teacher dropping, in "
        f"{held['runs']} (mean ± standard deviation of {held['seeds']} seeds, on {held['machine']}, {held['date']}). "
        "A difference smaller than the deviations says nothing.",
    }


def _cells(row: Scores) -> list[str]:
    return [axis.form.format(row[axis.name]) for axis in AXES]


def _stages(recipe: Recipe) -> list[str]:
    return [f"'{stage.name}', {stage.size} px" for stage in recipe.stages]


def sized(recipe: Recipe) -> str:
    """The student beside its teachers, so that nobody takes a larger one for a better method."""
    width, deep = (recipe.student.options[key] for key in ("embed_dim", "depth"))
    theirs = max(describe(name, section).spec.dim for name, section in recipe.teachers.items())
    return f"A student of {width} channels and {deep} blocks, where each teacher has {theirs} channels,"


def _behind(row: Scores, scores: dict[str, Scores]) -> float:
    """The mean relative distance to the best teacher of each axis, in per cent."""
    found = []
    for axis in AXES:
        theirs = [held[axis.name] for name, held in scores.items() if name != "student"]
        best = max(theirs) if axis.higher_is_better else min(theirs)
        found.append(gain(row[axis.name], best, axis.higher_is_better))
    return sum(found) / len(found)


# --- what the reader sees ---------------------------------------------------------------------------


class Clock:
    """Seconds per part of the story."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[part] = round(time.monotonic() - start, 1)


def show(scores: dict[str, Scores], clock: Clock, student_saw: int) -> None:
    """The table, what to hold against it, and where the minutes went."""
    table = Table(title="Synthetic scenes, frozen features; depth: lower is better")
    table.add_column("", no_wrap=True)
    for axis in AXES:
        table.add_column(axis.name, justify="right")
    for name, found in scores.items():
        label = "student" if name == "student" else f"teacher {name}"
        table.add_row(label, *(axis.form.format(found[axis.name]) for axis in AXES), end_section=name != "student")
    table.add_row("gain over best", *(f"{value:+.1f} %" for value in gains(scores).values()), style="bold")
    console = Console(width=80)
    console.print(table)
    console.print(f"Images seen in training: {TEACHERS_SAW:,} by each teacher, {student_saw:,} by the student.")
    console.print("  ".join(f"{part} {seconds:.0f} s" for part, seconds in clock.seconds.items()))
