"""Teachers and students on every axis: `unicscale evaluate` for each of them, and one table of what it wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from benchmarks.real import students, teachers
from unicscale.errors import UserError
from unicscale.evaluate.results.compare import summary
from unicscale.evaluate.results.gains import gain
from unicscale.run.folder import RunFolder, write_whole

HEAD = ["--dense-steps", "120", "--dense-lr", "1e-2"]
DEPTH_HEAD = ["--dense-steps", "400", "--dense-lr", "3e-3"]  # with the other's steps it does no better than a constant
TEACHERS = ("lite0", "dinov2")
VIT, LITE0 = 112, 128  # pixels; the second has a stride of 32, which 112 is no multiple of


class Axis(NamedTuple):
    """A score of `evaluate`, and how people read it."""

    score: str
    title: str
    form: str = "{:.1f}"
    higher_is_better: bool = True


AXES = (
    Axis("knn:objects", "objects k-NN"),
    Axis("linear:objects", "objects linear"),
    Axis("knn:fashion", "fashion k-NN"),
    Axis("linear:fashion", "fashion linear"),
    Axis("knn:drawings", "drawings k-NN"),
    Axis("linear:drawings", "drawings linear"),
    Axis("segment:scenes/mIoU", "scenes mIoU"),
    Axis("depth:depth/rmse", "depth RMSE", "{:.3f}", higher_is_better=False),
)


class MeasureError(UserError):
    """A model that was not measured; the command said why."""

    exit_code = 3


def measure(place: Path, label: str, model: str, out: Path, more: list[str], size: int = VIT) -> None:
    """`unicscale evaluate`, of depth apart: its summaries are `out` and `*_depth.json` beside it.

    What is measured already is not measured again."""
    shown = ["--size", str(size), "--dense-size", str(size), "--dtype", students.precision()]
    shown += ["--cache", str(place / "features")]
    command = [sys.executable, "-m", "unicscale", "evaluate", f"{label}={model}", "--data", str(place / "sets")]
    tasks = [task for task in (axis.score.partition("/")[0] for axis in AXES)
             if (place / "sets" / task.partition(":")[2]).is_dir()]  # fmt: skip
    for before in out.with_suffix("").rglob("depth*.json"):  # of when depth had the others' heads
        before.unlink()
    deep = [task for task in tasks if task.startswith("depth:")]
    for asked, head, file in (([t for t in tasks if t not in deep], HEAD, out), (deep, DEPTH_HEAD, depth_of(out))):
        if not asked:
            continue
        done = subprocess.run([*command, "--suite", ",".join(asked), "--out", str(file), *head, *shown, *more])
        if done.returncode:
            raise MeasureError(f"{label} was not measured (exit code {done.returncode}); the command said why")


def depth_of(file: Path) -> Path:
    """The file of depth beside a summary."""
    return file.with_name(f"{file.stem}_depth.json")


def measure_student(cohort: students.Cohort, variant: str, seed: int) -> None:
    """As the teachers are, and with them into its run folder, where `unicscale report` looks."""
    folder, out = cohort.folder(variant, seed), measured(cohort, variant, seed)
    measure(cohort.place, folder.name, str(folder), out, [])
    shown = RunFolder(folder).evaluation / "real.json"
    shown.parent.mkdir(exist_ok=True)
    beside = joined([out, *(taught(cohort.place, name) for name in TEACHERS)])
    write_whole(shown, json.dumps(beside, indent=1) + "\n")


def measured(cohort: students.Cohort, variant: str, seed: int) -> Path:
    """The summary of one student."""
    return cohort.home / "evaluation" / f"{cohort.folder(variant, seed).name}.json"


def taught(place: Path, name: str) -> Path:
    """The summary of one teacher."""
    return place / "evaluation" / f"{name}.json"


def joined(files: Sequence[Path]) -> dict[str, Any]:
    """One summary of what several say, and of the depth beside each: who is best, and what is gained over teachers."""
    return summary(result for file in files for one in both(file) for result in one["results"])


def both(file: Path) -> list[dict[str, Any]]:
    """A summary and that of depth beside it, as far as they are there."""
    return [json.loads(one.read_text()) for one in (file, depth_of(file)) if one.is_file()]


def measure_teachers(place: Path) -> None:
    """Both, with the files that were converted."""
    files = place / "teachers"
    lite0 = ["--weights", f"timm={files / teachers.LITE0}", "--option", "timm.model=tf_efficientnet_lite0"]
    measure(place, "lite0", "teacher:timm", taught(place, "lite0"), lite0, LITE0)
    dinov2 = ["--weights", f"dinov2={files / teachers.DINOV2}", "--option", "dinov2.size=small"]
    measure(place, "dinov2", "teacher:dinov2", taught(place, "dinov2"), dinov2)


def scores(file: Path) -> dict[str, dict[str, float]]:
    """Of one model: value, low and high by the name of the score."""
    held: dict[str, dict[str, Any]] = {}
    for one in both(file):
        held |= one["scores"]
    return {name: next(iter(row.values())) for name, row in held.items()}


def gathered(cohort: students.Cohort) -> dict[str, Any]:
    """Everything that was measured: teachers, and each student's seeds."""
    found: dict[str, Any] = {"teachers": {}, "students": {}}
    for name in TEACHERS:
        if (file := taught(cohort.place, name)).is_file():
            found["teachers"][name] = scores(file)
    for variant in students.VARIANTS:
        for seed in cohort.seeds(variant):
            if (file := measured(cohort, variant, seed)).is_file():
                found["students"].setdefault(variant, {})[str(seed)] = scores(file)
    return found


def markdown(found: dict[str, Any]) -> str:
    """Rows are models, columns axes; students as mean ± deviation over seeds, and their gain over the best teacher."""
    axes = [axis for axis in AXES if all(axis.score in one for one in found["teachers"].values())]
    rows = [["", *(axis.title for axis in axes)], ["---"] * (len(axes) + 1)]
    for name, held in found["teachers"].items():
        rows.append([f"teacher {name}", *(_interval(axis, held[axis.score]) for axis in axes)])
    for variant, seeds in found["students"].items():
        rows.append([f"{variant} ({len(seeds)})", *(_seeds(axis, seeds) for axis in axes)])
    if "unic" in found["students"]:
        rows.append(["gain of unic over the best", *(_gain(axis, found) for axis in axes)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def differences(found: dict[str, Any], whole: str = "unic") -> str:
    """What leaving one thing out changes: each row less the whole, seed by seed of those that both have."""
    axes = [axis for axis in AXES if all(axis.score in one for one in found["teachers"].values())]
    rows = [[f"less {whole}", *(axis.title for axis in axes)], ["---"] * (len(axes) + 1)]
    for name, seeds in found["students"].items():
        both = sorted(seeds.keys() & found["students"].get(whole, {}).keys())
        if name != whole and both:
            pairs = [(seeds[seed], found["students"][whole][seed]) for seed in both]
            rows.append([f"{name} ({len(both)})", *(_difference(axis, pairs) for axis in axes)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) if len(rows) > 2 else ""


def _interval(axis: Axis, held: dict[str, float]) -> str:
    return f"{axis.form.format(held['value'])} ± {axis.form.format((held['high'] - held['low']) / 2)}"


def _seeds(axis: Axis, seeds: dict[str, Any]) -> str:
    return _spread(axis, [one[axis.score]["value"] for one in seeds.values() if axis.score in one])


def _difference(axis: Axis, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    both = [(one[axis.score]["value"], other[axis.score]["value"]) for one, other in pairs
            if axis.score in one and axis.score in other]  # fmt: skip
    return _spread(axis, [mine - theirs for mine, theirs in both], sign="+")


def _spread(axis: Axis, values: list[float], sign: str = "") -> str:
    """Their mean, and their standard deviation where there is more than one."""
    if not values:
        return "-"
    spread = f" ± {axis.form.format(stdev(values))}" if len(values) > 1 else ""
    return axis.form.replace(":", f":{sign}").format(mean(values)) + spread


def _gain(axis: Axis, found: dict[str, Any]) -> str:
    held = [one[axis.score]["value"] for one in found["students"]["unic"].values() if axis.score in one]
    if not held:
        return "-"
    ours = mean(held)
    theirs = [one[axis.score]["value"] for one in found["teachers"].values()]
    best = max(theirs) if axis.higher_is_better else min(theirs)
    return f"{gain(ours, best, axis.higher_is_better):+.1f} %"
