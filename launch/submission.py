"""One submission: one or several runs, one snapshot of the code, one sbatch file."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError

from unicscale.errors import RecipeError
from unicscale.ranks.terminal import plain
from unicscale.recipe import Recipe, dump
from unicscale.recipe.sections import Launch
from unicscale.run.folder import RunFolder, facts_of, open_run, write_whole
from unicscale.run.launches import remember

from . import checks, job, sbatch, snapshot
from .request import request
from .surroundings import outside_any_job


@dataclass(frozen=True, slots=True)
class Variant:
    """A recipe to run, and the name that tells it from its neighbours in a sweep."""

    recipe: Recipe
    label: str = ""


@dataclass(frozen=True, slots=True)
class Submission:
    """What goes to the queue."""

    folder: Path  # absolute: the job reads it from wherever it starts
    name: str
    runs: Sequence[Variant]
    launch: Launch
    fresh: bool
    awaited: str | None = None  # the run of a chain that comes before, where this one takes something from it

    def check(self, *, paths: bool = True) -> list[str]:
        """Everything that can be known to fail before the queue; what was found, in words."""
        found = []
        for run in self.runs:
            said = checks.check(run.recipe, self.launch, paths=paths, awaited=self.awaited)
            found += [f"{run.recipe.out}: {line}" for line in said]
        return found + sbatch.unsaid(self.launch)

    def script(self) -> str:
        """The sbatch file."""
        return sbatch.script(self.launch, self.folder, self.name, len(self.runs))

    def recipe_file(self, run: Variant) -> Path:
        """Where the resolved recipe of a run waits for its job."""
        return self.folder / f"recipe{'-' * bool(run.label)}{run.label}.yaml"

    def call(self, run: Variant) -> str:
        """The function call that submitit pickles, for people."""
        return f"unicscale_launch.job.train('{self.recipe_file(run)}', fresh={self.fresh})"

    def submit(self) -> str:
        """Write everything, hand it to sbatch, and return the job's number."""
        self._write()
        executor = sbatch.executor(self.launch, self.folder, self.name)
        calls = [partial(job.train, str(self.recipe_file(run)), self.fresh) for run in self.runs]
        try:
            with outside_any_job(), executor.batch() if len(calls) > 1 else nullcontext():
                jobs = [executor.submit(call) for call in calls]
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as problem:
            raise RecipeError(
                f"sbatch refused the job: {_said(problem)}\n  --print-sbatch shows what it was given."
            ) from None
        for run, queued in zip(self.runs, jobs, strict=True):
            folder = RunFolder(Path(run.recipe.out))
            facts = facts_of(folder) | {"queued": queued.job_id, "submission": str(self.folder)}
            write_whole(folder.facts, json.dumps(facts, indent=1) + "\n")
            remember(folder)
        return jobs[0].job_id.partition("_")[0]

    def _write(self) -> None:
        for run in self.runs:
            open_run(run.recipe)
        self.folder.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.folder.mkdir(mode=0o700)
        snapshot.copy_code(self.folder / "code")
        for run in self.runs:
            copied = snapshot.copy_adapters(run.recipe, self.folder / "adapters" / run.label)
            private(self.recipe_file(run), dump(copied))
        private(self.folder / "runs.txt", "".join(f"{Path(run.recipe.out).absolute()}\n" for run in self.runs))


def plan_submission(runs: Sequence[Variant], options: dict[str, Any], *, fresh: bool = False) -> Submission:
    """Nothing is written yet."""
    launch = _one_request(runs, options)
    runs = [Variant(run.recipe.model_copy(update={"launch": launch}), run.label) for run in runs]
    first = Path(runs[0].recipe.out)
    home = first if len(runs) == 1 else first.parent
    name = home.name if home.name.endswith("-sweep") or len(runs) == 1 else f"{home.name}-sweep"
    if "%" in str(home.absolute()):
        raise RecipeError(
            f"'out' leads to {home.absolute()}, and Slurm replaces '%' in the names of its logs.\n"
            "  Choose a folder without it: out=FOLDER."
        )
    if not str(home.absolute()).isprintable():
        raise RecipeError(
            f"'out' leads to {plain(str(home.absolute()))!r}, and the batch script names that folder:\n"
            "  what stands behind a line break would be a command there. Choose another folder: out=FOLDER."
        )
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    return Submission((home / "launch" / stamp).absolute(), name, runs, launch, fresh)


def _one_request(runs: Sequence[Variant], options: dict[str, Any]) -> Launch:
    """What all runs ask for: an array has one sbatch file."""
    first, *others = [(run.recipe.out, request(run.recipe, options)) for run in runs]
    for out, launch in others:
        if launch != first[1]:
            one, other = first[1].model_dump(), launch.model_dump()
            lines = [f"\n    launch.{key}: {one[key]!r} and {other[key]!r}" for key in one if one[key] != other[key]]
            raise RecipeError(
                f"{first[0]} and {out} ask for different things, and all runs of an array get the same:{''.join(lines)}"
                "\n  Submit them one by one, or say it for all on the command line."
            )
    return first[1]


def private(path: Path, text: str) -> None:
    """A new file that only its owner reads."""
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _said(problem: Exception) -> str:
    output = getattr(problem, "output", None) or getattr(problem, "stderr", None) or str(problem)
    return (output.decode() if isinstance(output, bytes) else str(output)).strip()
