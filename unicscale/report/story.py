"""What a run folder tells of its run: steps, validations, results, launches, and what was done twice."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, FiniteFloat, ValidationError, field_validator

from unicscale.errors import UserError
from unicscale.evaluate.pictures import sheet
from unicscale.evaluate.pictures.sheet import Sheet
from unicscale.evaluate.results.compare import gains
from unicscale.recipe import load
from unicscale.recipe.difference import flat
from unicscale.report.course import Course, Record, course_of
from unicscale.run.folder import RunFolder, facts_of
from unicscale.run.status import Status

SHEETS = ("patches", "neighbours", "segmentation", "depth", "worst")  # in the order of the page


@dataclass(frozen=True, slots=True)
class Story:
    """One run, read whole."""

    folder: RunFolder
    status: Status
    facts: dict[str, Any]
    recipe: dict[str, Any]  # dotted key -> value
    course: Course
    results: dict[str, dict[str, Any]]  # name of the file -> what `unicscale evaluate` or the demo measured
    left_out: list[str] = field(default_factory=list)  # what of the folder cannot be read, and why
    sheets: dict[str, Sheet] = field(default_factory=dict)  # what `unicscale look` saw

    @property
    def steps(self) -> list[Record]:
        """What the curves are drawn from."""
        return self.course.steps

    @property
    def validations(self) -> list[Record]:
        """What was measured while training."""
        return self.course.validations

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
        """Steps that moved nothing, because a gradient was not finite."""
        return sum(self.course.skips.values())

    @property
    def unmeasured(self) -> int:
        """Evaluations that a damaged image cost."""
        return sum("val/failed" in record for record in self.validations)

    @property
    def hours(self) -> float:
        """Of all launches that said when they ended, and of the others until their last record."""
        last = {record.get("launch"): record["time"] for record in self.steps if "time" in record}
        total = 0.0
        for number, launch in enumerate(self.facts.get("launches", []), start=1):
            began = launch.get("time", 0.0)
            end = (launch.get("ended") or {}).get("time") or last.get(number) or began
            total += max(0.0, end - began)
        return total / 3600

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        """Whatever was measured of its own student: score -> value, interval, and where teachers were, `gain`."""
        return scores_of(self.results, self.folder.root.resolve().name)

    def at_the_end(self, term: str) -> float | None:
        """The mean of the last few records, as far as they are of the last stage."""
        held = [record[term] for record in self._of_last_stage(self.course.last) if _is_number(record.get(term))]
        return statistics.fmean(held) if held else None

    def validated(self, term: str) -> float | None:
        """The last measurement during training."""
        held = [record[term] for record in self.validations if _is_number(record.get(term))]
        return held[-1] if held else None

    @property
    def pace(self) -> float | None:
        """Images per second: the median over the last stage, which no pause and no first step moves."""
        records = [*self._of_last_stage(self.steps), *self._of_last_stage(self.course.last)]
        held = [record["images_per_second"] for record in records if record.get("images_per_second")]
        return statistics.median(held) if held else None

    def _of_last_stage(self, records: Iterable[Record]) -> list[Record]:
        return [record for record in records if record["stage"] == self.course.last[-1]["stage"]]


def read(folder: RunFolder, status: Status) -> Story:
    """The folder as it is now; a run that still goes on is read up to here."""
    left_out: list[str] = []

    def unless_damaged(reading: Callable[[], Any], otherwise: Any) -> Any:
        """One damaged file costs what it says, and neither the page nor the other runs on it."""
        try:
            return reading()
        except (UserError, OSError) as problem:
            left_out.append(str(problem).splitlines()[0])
            return otherwise

    return Story(
        folder=folder, status=status, facts=unless_damaged(lambda: facts_of(folder), {}),
        recipe=unless_damaged(lambda: flat(load(folder.recipe)) if folder.recipe.exists() else {}, {}),
        course=unless_damaged(lambda: course_of(folder.metrics), Course()),
        results=results_in(folder.evaluation, left_out), left_out=left_out,
        sheets=sheet.read(folder.pictures, left_out, SHEETS),
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
    """Keys of the recipes that are not the same in all runs, with one value per run; `out` never is.

    A run that is still queued has no recipe yet: it has no part in the comparison, and None as its value.
    """
    known = [story.recipe for story in stories if story.recipe]
    keys = dict.fromkeys(key for recipe in known for key in recipe if key != "out")
    changed = [key for key in keys if any(recipe.get(key) != known[0].get(key) for recipe in known)]
    return {key: [story.recipe.get(key) for story in stories] for key in changed}


def results_in(folder: Path, left_out: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Every summary beside which models stand, one layout for suites and for the demo; `left_out` hears of the rest."""
    found, left_out = {}, [] if left_out is None else left_out
    for file in sorted(folder.glob("*.json")):
        try:
            held = json.loads(file.read_text())
            if isinstance(held, dict) and "scores" in held:
                held = held if "models" in held else _as_suite(held)
                Summary.model_validate(held, strict=True)
                found[file.stem] = {"gains": {}, **held}
        except ValidationError as problem:
            first = problem.errors()[0]
            left_out.append(f"{file.name} is no result: {'.'.join(map(str, first['loc']))}: {first['msg']}")
        except (OSError, ValueError, RecursionError, AttributeError, TypeError) as problem:
            left_out.append(f"{file.name} is no result: {str(problem).splitlines()[0]}")
    return found


class Mark(BaseModel):
    """One value of one model, as tables need it; whatever else is said of it is passed on."""

    value: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None


class Told(BaseModel):
    """Of one model."""

    teacher: bool


class Gained(BaseModel):
    """Over the best teacher, by model."""

    gain: dict[str, FiniteFloat | None]


class Beside(BaseModel):
    """A table of words that belongs to a result."""

    title: str
    rows: list[list[str]] = Field(min_length=1)
    says: str = ""

    @field_validator("rows")
    @classmethod
    def _even(cls, rows: list[list[str]]) -> list[list[str]]:
        if len({len(row) for row in rows}) > 1 or not rows[0]:
            raise ValueError("its rows are not equally long")
        return rows


class Summary(BaseModel):
    """What a file of results must hold to be shown."""

    models: dict[str, Told]
    scores: dict[str, dict[str, Mark]]
    gains: dict[str, Gained] = {}
    story: list[str] = []
    beside: list[Beside] = []


def scores_of(results: dict[str, dict[str, Any]], *labels: str) -> dict[str, dict[str, Any]]:
    """Of the model of the first of these labels that stands in a file, or the demo's student; the last word counts."""
    found: dict[str, dict[str, Any]] = {}
    for held in results.values():
        students = [name for name, facts in held["models"].items() if not facts["teacher"]]
        own = next((name for name in (*labels, "student") if name in students), None)
        for score, row in held["scores"].items():
            if own in row:
                over = held.get("gains", {}).get(score, {}).get("gain", {}).get(own)
                found[score] = row[own] | ({} if over is None else {"gain": over})
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
    return {
        "models": models,
        "scores": table,
        "gains": gains(table, teachers),
        "published": {},
        "synthetic": True,
        "story": demo.get("story", []),
        "beside": demo.get("beside", []),
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def measured(stories: Iterable[Story]) -> list[str]:
    """What any run measured while training, as terms of its validations; the details of a teacher are left out."""
    names = dict.fromkeys(name for story in stories for record in story.validations for name in record)
    return [n for n in names if n.startswith("val/") and n.count("/") == 1 and n not in ("val/seconds", "val/failed")]
