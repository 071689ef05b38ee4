"""Tasks on subjects: features first, by all ranks together; then every rank its own tasks; one JSON each."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from unicscale.errors import DataError, RecipeError, UserError
from unicscale.evaluate import keeping
from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.score import Score
from unicscale.evaluate.sets import catalogue
from unicscale.evaluate.task import Task
from unicscale.evaluate.terms import Subject
from unicscale.ranks import stop
from unicscale.ranks.voice import say
from unicscale.ranks.world import World
from unicscale.run.folder import versions


@dataclass(slots=True)
class Outcome:
    """What came of a suite."""

    results: dict[str, dict[str, Any]] = field(default_factory=dict)  # "subject/task" -> its JSON
    left_out: dict[str, str] = field(default_factory=dict)  # "subject/task" -> why it does not apply
    failed: dict[str, UserError] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # data set -> the tree expected and where to get it
    stopped: str = ""  # the signal that ended it before everything was measured

    def take(self, other: Outcome) -> None:
        """What came of another model."""
        self.results |= other.results
        self.left_out |= other.left_out
        self.failed |= other.failed
        self.missing |= other.missing
        self.stopped = self.stopped or other.stopped


def run_all(subjects: Sequence[Subject], tasks: Sequence[Task], shelf: Shelf, folders: Sequence[Path]) -> Outcome:
    """Everything that can be measured, is, into the first folder; what any of them has under the same key is kept."""
    outcome = Outcome()
    todo: list[tuple[Subject, Task, Key, Path]] = []
    try:
        _run_all(subjects, tasks, shelf, folders, outcome, todo)
    except stop.Now as asked:
        outcome.stopped = str(asked)
        held = {f"{subject.name}/{task.name}": finished(file, key.sha) for subject, task, key, file in todo}
        outcome.results |= {place: one for place, one in held.items() if one}
    return outcome


def _run_all(
    subjects: Sequence[Subject], tasks: Sequence[Task], shelf: Shelf, folders: Sequence[Path], outcome: Outcome,
    todo: list[tuple[Subject, Task, Key, Path]],
) -> None:  # fmt: skip
    for task in tasks:
        for name in task.needs:
            if not catalogue.there(shelf.data, name):
                outcome.missing[name] = catalogue.expected(shelf.data, name)
    for subject in subjects:
        for task in tasks:
            place = f"{subject.name}/{task.name}"
            if any(name in outcome.missing for name in task.needs):
                continue
            try:
                if (why := task.applies(subject)) is not None:
                    outcome.left_out[place] = why
                    continue
                key = key_of(subject, task, shelf)
                files = [keeping.place(folder, subject.name, task.name) for folder in folders]
                if (done := next((held for file in files if (held := finished(file, key.sha))), None)) is not None:
                    outcome.results[place] = done
                    continue
                prepare(subject, task, shelf)
                todo.append((subject, task, key, files[0]))
            except UserError as problem:
                outcome.failed[place] = problem
    alone = replace(shelf, world=World(device=shelf.device))
    mine: dict[str, dict[str, Any] | UserError] = {}
    for subject, task, key, file in todo[shelf.world.rank :: shelf.world.size]:
        try:
            mine[f"{subject.name}/{task.name}"] = measure(subject, task, alone, key, file)
        except UserError as problem:
            mine[f"{subject.name}/{task.name}"] = problem
    for held in shelf.world.gather_objects(mine):
        outcome.failed |= {place: one for place, one in held.items() if isinstance(one, UserError)}
        outcome.results |= {place: one for place, one in held.items() if isinstance(one, dict)}


def prepare(subject: Subject, task: Task, shelf: Shelf) -> None:
    """All ranks extract what this task will look up, each its share of the images."""
    for want in task.wants(subject):
        if catalogue.there(shelf.data, want.data):
            shelf.features(subject, *want)


def measure(subject: Subject, task: Task, shelf: Shelf, key: Key, file: Path) -> dict[str, Any]:
    """Run one task and write its JSON, whole or not at all."""
    say.info("%s: %s ...", subject.name, task.name)
    start = time.perf_counter()
    scores = [check_score(score) for score in task.run(subject, shelf)]
    chosen = next((dict(score.chosen) for score in scores if score.chosen), None)
    result = {
        "schema": 1,
        "key": key.sha,
        "task": task.name,
        "model": subject.name,
        "teacher": subject.teacher,
        "sha256": subject.sha,
        "seed": shelf.settings.seed,
        "protocol": protocol_of(subject, task, shelf),
        "data": key.data,
        "scores": [score.held() for score in scores],
        "interval": f"95 %, bootstrap over the test set, {shelf.settings.resamples} resamples",
        **({"chosen": chosen} if chosen else {}),
        "versions": versions(),
        "device": str(shelf.device),
        "seconds": round(time.perf_counter() - start, 2),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    keeping.write(file, result)
    return result


def check_score(score: Score) -> Score:
    """A metric that is not a number is an error, not a result."""
    if score.value != score.value or abs(score.value) == float("inf"):
        raise DataError(f"{score.name} is {score.value}: the features or the labels behind it are degenerate")
    return score


def protocol_of(subject: Subject, task: Task, shelf: Shelf) -> dict[str, Any]:
    """What was done, so that the number can be had again."""
    settings = shelf.settings
    common = {
        "size": settings.size or subject.size,
        "dtype": str(shelf.dtype).removeprefix("torch."),
        "limit": settings.limit,
        "seed": settings.seed,
        "resamples": settings.resamples,
    }
    return json.loads(json.dumps(common | task.protocol(settings)))  # tuples as the file will have them


class Key(NamedTuple):
    """What a result is kept under."""

    sha: str  # of everything
    data: dict[str, str]  # of the images behind it, split by split


def key_of(subject: Subject, task: Task, shelf: Shelf) -> Key:
    """Changes with the weights, the protocol and the images; a result with the same key need not be made again."""
    data = {}
    for name, split in looks_at(subject, task):
        if catalogue.there(shelf.data, name):  # what is not there may come, and then the result changes
            data[f"{name}/{split}"] = shelf.sha(shelf.split(name, split))
    settings, besides = shelf.settings.keyed, task.depends(subject, shelf)
    parts = [subject.sha, task.name, protocol_of(subject, task, shelf), settings, data, besides]
    return Key(hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest(), data)


def looks_at(subject: Subject, task: Task) -> list[tuple[str, str]]:
    """The data sets and splits whose images a result depends on."""
    wanted = [(want.data, want.split) for want in task.wants(subject)]
    splits = {name: ("test",) if catalogue.find(name).test_only else ("train", "test") for name in task.needs}
    return wanted or [(name, split) for name, each in splits.items() for split in each]


def finished(file: Path, key: str) -> dict[str, Any] | None:
    """The result of an earlier call with the same key."""
    try:
        held = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return held if held.get("key") == key else None


def finish(outcome: Outcome, outs: Sequence[Path], beside: str | None = None) -> dict[str, Any]:
    """The summary, beside what was measured before, in every run it belongs to; empty where nothing was measured."""
    said = {"failed": {place: str(problem) for place, problem in outcome.failed.items()}}
    results = list(outcome.results.values())
    written = [keeping.finish(out, results, beside, outcome.missing, said) for out in outs] if results else [{}]
    return written[0]


def complain(outcome: Outcome, tasks: Sequence[Task], named: set[str], data: Path) -> None:
    """Raise what went wrong, after everything else was measured and written."""
    if outcome.failed:
        place, problem = next(iter(outcome.failed.items()))
        raise type(problem)(f"{place}: {problem}")
    for task in tasks:
        lacks = [name for name in task.needs if name in outcome.missing]
        if task.name in named and lacks:
            raise DataError(f"{task.name} needs a data set that is not in {data}:\n{outcome.missing[lacks[0]]}")
    if named and not outcome.results and outcome.left_out:
        place, why = next(iter(outcome.left_out.items()))
        raise RecipeError(f"{place}: {why}")
    if not outcome.results:
        raise DataError(f"{data}: none of the data sets of this suite is here; they are listed above")
