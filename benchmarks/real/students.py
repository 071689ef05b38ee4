"""The students: recipes/real.yaml as it is or shorter, and with one thing changed each; a run folder for every seed."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from unicscale.data.stream.workers import cores
from unicscale.errors import UserError
from unicscale.ranks.device import computes_bf16
from unicscale.recipe import shipped
from unicscale.run.folder import RunFolder, owner_of
from unicscale.run.states import State
from unicscale.run.status import status

ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # a rank per core
RECIPE = shipped.FOLDER / "real.yaml"
# what each changes, as keys of the recipe; a teacher that is None is left out
VARIANTS: dict[str, dict[str, Any]] = {
    "unic": {},
    "lite0 alone": {"teachers.dinov2": None, "student.init": None, "loss.balance": {"kind": "none"}},
    "dinov2 alone": {"teachers.lite0": None, "loss.balance": {"kind": "none"}},
    "no dropping": {"loss.balance": {"kind": "none"}},
    "no ladder": {"projector": {"kind": "mlp", "hidden": 768}},
    "no rest": {"stages.0.freeze_trunk": None},
    "from scratch": {"student.init": None, "stages.0.freeze_trunk": None},
}


class StudentError(UserError):
    """A student that was not trained; its own run said why."""

    exit_code = 6


class Cohort(NamedTuple):
    """Students that are trained for as long: where their recipes, run folders, table and page lie."""

    place: Path
    steps: int | None = None  # of the first stage alone; None: both stages, as the recipe says

    @property
    def home(self) -> Path:
        """Beside the data, and short ones below it."""
        return self.place / f"{self.steps}_steps" if self.steps else self.place

    def folder(self, variant: str, seed: int) -> Path:
        """Its run folder."""
        return self.home / "students" / f"{variant.replace(' ', '_')}-{seed}"

    def seeds(self, variant: str) -> list[int]:
        """Those of which there is a run folder."""
        found = (path.name.rpartition("-") for path in (self.home / "students").glob("*-*") if path.is_dir())
        return sorted(int(seed) for name, _, seed in found if name == variant.replace(" ", "_") and seed.isdigit())


def recipe(cohort: Cohort, variant: str, seed: int) -> Path:
    """Its recipe, written out beside the students, so that anybody can read what was changed."""
    said = yaml.safe_load(RECIPE.read_text())
    if cohort.steps:
        said["stages"] = [said["stages"][0] | {"steps": cohort.steps}]
    changes = VARIANTS[variant] | {"out": str(cohort.folder(variant, seed)), "seed": seed}
    if variant == "lite0 alone":  # it starts from the other teacher all the same: from a file, not from the recipe's
        changes["student.init"] = said["teachers"]["dinov2"]["weights"]
    for key, value in changes.items():
        _change(said, key.split("."), copy.deepcopy(value))
    file = cohort.home / "recipes" / f"{cohort.folder(variant, seed).name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    length = f", {cohort.steps} steps of its first stage alone" if cohort.steps else ""
    told = f"# {variant}, seed {seed}: {RECIPE.name}{length}, with one thing changed\n"
    file.write_text(told + yaml.safe_dump(said, sort_keys=False))
    return file


class Student(NamedTuple):
    """A row of the table and one of its seeds."""

    variant: str
    seed: int

    def __str__(self) -> str:
        return f"student '{self.variant}', seed {self.seed}"


def train(cohort: Cohort, wanted: Sequence[Student], more: Sequence[str], tell: Callable[[str], None]) -> None:
    """All of them to the end; what is there already is not done again.

    Two go side by side with a rank each, and one that is left over has two ranks: those that wait for nobody train
    between a fifth and three quarters more images a second than two ranks of one student do (docs/real.md)."""
    waiting = [one for one in wanted if not _finished(cohort.folder(*one))]
    at_once = min(2, cores())
    for first in range(0, len(waiting), at_once):
        together = waiting[first : first + at_once]
        ranks = at_once // len(together)
        running = [(one, *_started(cohort, one, ranks, more, len(together) > 1, tell)) for one in together]
        codes = [process.wait() for _, process, _ in running]
        for (one, _, said), code in zip(running, codes, strict=True):
            if code:
                raise StudentError(f"{one} ended with exit code {code}; it said why{f' in {said}' if said else ''}")


def _started(
    cohort: Cohort, one: Student, ranks: int, more: Sequence[str], aside: bool, tell: Callable[[str], None]
) -> tuple[subprocess.Popen[bytes], Path | None]:
    """Its process, and the file that it talks into where two would talk at once."""
    file, begun = recipe(cohort, *one), owner_of(RunFolder(cohort.folder(*one)))
    dtype = begun.engine.dtype if begun else precision()
    command = [sys.executable, "-m", "unicscale_launch.local", str(file), f"engine.dtype={dtype}", *more]
    command += ["--ranks", str(ranks)]
    if not aside:
        tell(f"{one}")
        return subprocess.Popen(command, env=os.environ | ONE_THREAD), None
    said = file.with_suffix(".txt")
    tell(f"{one}; what it says goes into {said}")
    with said.open("ab") as out:
        return subprocess.Popen(command, env=os.environ | ONE_THREAD, stdout=out, stderr=subprocess.STDOUT), said


def _finished(root: Path) -> bool:
    run = RunFolder(root)
    return run.facts.exists() and status(run, None).state is State.FINISHED


def precision() -> str:
    """bf16, where the processor computes in it: where it does not, that takes many times as long as fp32."""
    return "bf16" if computes_bf16("cpu") else "fp32"


def _change(said: Any, keys: list[str], value: Any) -> None:
    key = int(keys[0]) if isinstance(said, list) else keys[0]
    if len(keys) > 1:
        _change(said[key], keys[1:], value)
    elif value is None:
        said.pop(key, None)
    else:
        said[key] = value
