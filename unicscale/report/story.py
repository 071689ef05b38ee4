"""What a run folder tells of its run: steps, validations, results, launches, and what was done twice."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unicscale.evaluate.compare import gains
from unicscale.jobs import Status
from unicscale.recipe import load
from unicscale.recipe.difference import flat
from unicscale.runs import RunFolder, facts_of

Record = dict[str, Any]
MOST = 8000  # records of steps that are held: more than a figure has pixels
LAST = 5  # records whose mean stands for the end of a run: one step's loss is noisy


@dataclass(frozen=True, slots=True)
class Story:
    """One run, read whole."""

    folder: RunFolder
    name: str
    status: Status
    facts: dict[str, Any]
    recipe: dict[str, Any]  # dotted key -> value
    steps: list[Record]  # in order of steps, each step once: as the last launch that reached it did it
    validations: list[Record]
    replayed: int  # records of steps that a later launch did again
    torn: int  # lines that could not be read
    results: dict[str, dict[str, Any]]  # name of the file -> what `unicscale evaluate` or the demo measured

    @property
    def teachers(self) -> list[str]:
        """By the names of the recipe, in its order."""
        names = (key.split(".")[1] for key in self.recipe if key.startswith("teachers."))
        return list(dict.fromkeys(names))

    @property
    def boundaries(self) -> list[int]:
        """Images at which a new stage was first logged."""
        pairs = zip(self.steps, self.steps[1:], strict=False)
        return [after["images"] for before, after in pairs if after["stage"] != before["stage"]]

    @property
    def skipped(self) -> int:
        """Steps that moved nothing, because a gradient was not finite; counted anew by each launch."""
        most: dict[int, int] = {}
        for record in self.steps:
            launch = record.get("launch", 0)
            most[launch] = max(most.get(launch, 0), int(record.get("skipped", 0)))
        return sum(most.values())

    @property
    def hours(self) -> float:
        """Of all launches that said when they ended, and of the others until their last record."""
        last = {record.get("launch"): record["time"] for record in self.steps if "time" in record}
        total = 0.0
        for number, launch in enumerate(self.facts.get("launches", []), start=1):
            end = launch.get("ended", {}).get("time") or last.get(number) or launch["time"]
            total += max(0.0, end - launch["time"])
        return total / 3600

    def at_the_end(self, term: str) -> float | None:
        """The mean of the last few records of the last stage."""
        stage = self.steps[-1]["stage"] if self.steps else None
        held = [record[term] for record in self.steps if record["stage"] == stage and _is_number(record.get(term))]
        return statistics.fmean(held[-LAST:]) if held else None

    def validated(self, term: str) -> float | None:
        """The last measurement during training."""
        held = [record[term] for record in self.validations if _is_number(record.get(term))]
        return held[-1] if held else None

    @property
    def pace(self) -> float | None:
        """Images per second: the median over the last stage, which no pause and no first step moves."""
        stage = self.steps[-1]["stage"] if self.steps else None
        held = [r["images_per_second"] for r in self.steps if r["stage"] == stage and r.get("images_per_second")]
        return statistics.median(held) if held else None


def read(folder: RunFolder, status: Status) -> Story:
    """The folder as it is now; a run that still goes on is read up to here."""
    steps, validations, replayed, torn = _records(folder.metrics)
    return Story(
        folder=folder, name=folder.root.resolve().name, status=status, facts=facts_of(folder),
        recipe=flat(load(folder.recipe)) if folder.recipe.exists() else {},
        steps=steps, validations=validations, replayed=replayed, torn=torn, results=_results(folder.evaluation),
    )  # fmt: skip


def name_apart(stories: Sequence[Story]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart."""
    parts = [story.folder.root.resolve().parts for story in stories]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [str(story.folder.root) for story in stories]


def differing(stories: Sequence[Story]) -> dict[str, list[Any]]:
    """Keys of the recipes that are not the same in all runs, with one value per run; `out` never is."""
    keys = dict.fromkeys(key for story in stories for key in story.recipe)
    rows = {key: [story.recipe.get(key) for story in stories] for key in keys if key != "out"}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def _records(file: Path) -> tuple[list[Record], list[Record], int, int]:
    """Steps, validations, how many steps were done again, how many lines are broken."""
    steps: list[Record] = []
    validations: list[Record] = []
    replayed = torn = passed = 0
    stride = 1  # a run that logged a million steps is read as every so manieth of them
    for line in file.open(errors="replace") if file.exists() else ():
        try:
            record = json.loads(line)
            number, is_step = int(record["step"]), "loss" in record
            assert "images" in record and "stage" in record
        except (ValueError, KeyError, TypeError, AssertionError):  # half a line, or none of ours
            torn += 1
            continue
        held = steps if is_step else validations
        while held and held[-1]["step"] >= number:  # a later launch went back to its checkpoint and came here again
            held.pop()
            replayed += stride * is_step
        passed += is_step
        if not is_step or passed % stride == 0:
            held.append(record)
        if len(steps) > MOST:
            del steps[1::2]
            stride *= 2
    return steps, validations, replayed, torn


def _results(folder: Path) -> dict[str, dict[str, Any]]:
    """Every summary beside which models stand; one layout for suites and for the demo."""
    found = {}
    for file in sorted(folder.glob("*.json")):
        try:
            held = json.loads(file.read_text())
        except ValueError:
            continue
        if isinstance(held, dict) and isinstance(held.get("scores"), dict):
            found[file.stem] = held if "models" in held else _as_suite(held)
    return found


def _as_suite(demo: dict[str, Any]) -> dict[str, Any]:
    """The demo's own table: model -> axis -> value."""
    models = {name: {"teacher": name != "student"} for name in demo["scores"]}
    table: dict[str, dict[str, Any]] = {}
    for model, row in demo["scores"].items():
        for axis, value in row.items():
            score = {"value": value, "low": None, "high": None, "higher_is_better": "RMSE" not in axis}
            table.setdefault(axis, {})[model] = score
    teachers = [name for name, facts in models.items() if facts["teacher"]]
    return {"models": models, "scores": table, "gains": gains(table, teachers), "published": {}, "synthetic": True}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def terms(stories: Iterable[Story], prefix: str) -> list[str]:
    """Every term of that name that any run logged, in the order of their first appearance."""
    records = (record for story in stories for record in (*story.steps, *story.validations))
    return list(dict.fromkeys(name for record in records for name in record if name.startswith(prefix)))
