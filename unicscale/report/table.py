"""Runs side by side: what makes them differ, how far they are, what came of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from unicscale.evaluate.results.compare import NO_CONTEST, cell
from unicscale.report.curves import short
from unicscale.report.story import Story, differing, measured, name_apart
from unicscale.run.columns import columns, fitting
from unicscale.teacher.cards import card
from unicscale.teacher.finding import listing

Rows = list[list[str]]  # the first one holds the headings
SHOWN = 2  # so many keys that differ get a column here; of more, the names of the runs and the page's own table tell


def comparison(stories: Sequence[Story]) -> Rows:
    """One row for each run; columns that no run has anything for are left out."""
    terms = measured(stories)
    changed = differing(stories)
    changed = changed if len(changed) <= SHOWN else {}
    keys = [key.rpartition(".")[2] for key in changed]
    rows = [["run", *keys, "state", "step", "loss", *map(headed, terms), "images/s", "hours"]]
    for place, (name, story) in enumerate(zip(name_apart(stories), stories, strict=True)):
        now = story.status
        rows.append([
            name,
            *(said(values[place]) for values in changed.values()),
            now.state,
            f"{now.step}/{now.steps}" if now.steps else str(now.step),
            number(story.at_the_end("loss")),
            *(number(story.validated(term)) for term in terms),
            "" if story.pace is None else short(story.pace),
            f"{story.hours:.2f}",
        ])  # fmt: skip
    full = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
    return [[row[i] for i in full] for row in rows]


def headed(term: str) -> str:
    """What was measured, as it stands over a column: beside the loss of training there is one of held-out images."""
    name = term.removeprefix("val/")
    return f"val {name}" if name.startswith("loss") else name


def best_of(rows: Rows, stories: Sequence[Story]) -> set[tuple[int, int]]:
    """Where in a comparison the best measurement of each kind stands; a training loss is none."""
    terms = set(map(headed, measured(stories)))
    best = set()
    for place, head in enumerate(rows[0]):
        values = {n: float(row[place]) for n, row in enumerate(rows[1:], start=1) if head in terms and row[place]}
        if len(set(values.values())) > 1:
            top = min(values.values()) if head.startswith("val loss") else max(values.values())
            best |= {(n, place) for n, value in values.items() if value == top}
    return best


class Column(NamedTuple):
    """One model in one file of results."""

    run: str
    model: str
    held: dict[str, Any]

    @property
    def teacher(self) -> bool:
        return self.held["models"][self.model]["teacher"]

    def row(self) -> dict[str, Any]:
        """Its scores by name."""
        return {name: row[self.model] for name, row in self.held["scores"].items() if self.model in row}


class Measured(NamedTuple):
    """A table of results, and which of its cells are the best of their row."""

    rows: Rows
    best: set[tuple[int, int]]  # (row, column)


def results(stories: Sequence[Story]) -> dict[str, Measured]:
    """What was measured afterwards, by the name of the file: a row for each score, a column for each model.

    Students and their gains come first: on a phone the rest is a swipe away.
    """
    found: dict[str, Measured] = {}
    names = name_apart(stories)
    for title in dict.fromkeys(title for story in stories for title in story.results):
        having = [(n, s.results[title]) for n, s in zip(names, stories, strict=True) if title in s.results]
        columns = list(_once([Column(name, model, held) for name, held in having for model in held["models"]]))
        columns.sort(key=lambda column: column.teacher)
        gaining = [column for column in columns if not column.teacher and column.held["gains"]]
        several = len(having) > 1
        heads = ["", *(_joined(c) if several else c.model for c in columns if not c.teacher)]
        heads += [f"gain of {_joined(c)}" if several else "gain over the best teacher" for c in gaining]
        heads += [c.model.removeprefix("teacher:") for c in columns if c.teacher]
        beside = {one["title"]: one["scores"] for _, held in having for one in held.get("published", {}).values()}
        rows, best = [[*heads, *beside]], set()
        for score in dict.fromkeys(score for column in columns for score in column.row()):
            own = [cell(c.row().get(score)) for c in columns if not c.teacher]
            gains = (c.held["gains"].get(score, {}).get("gain", {}).get(c.model) for c in gaining)
            over = ["" if gain is None else f"{gain:+.1f} %" for gain in gains]
            theirs = [cell(c.row().get(score)) for c in columns if c.teacher]
            published = [f"{scores[score]:g}" if score in scores else "" for scores in beside.values()]
            places = [*range(1, 1 + len(own)), *range(1 + len(own) + len(over), 1 + len(own) + len(over) + len(theirs))]
            best |= {(len(rows), places[n]) for n in _best(columns, score)}
            rows.append([score, *own, *over, *theirs, *published])
        found[title] = Measured(rows, best)
    return found


def _best(columns: Sequence[Column], score: str) -> list[int]:
    """Who has the best value; nobody where only one has any, or where there is no better and worse."""
    held = [column.row().get(score) for column in columns]
    values = {n: one["value"] for n, one in enumerate(held) if one is not None and not one.get("apart")}
    if len(values) < 2 or score.startswith(NO_CONTEST):
        return []
    higher = next(one for one in held if one is not None).get("higher_is_better", True)
    top = max(values.values()) if higher else min(values.values())
    return [n for n, value in values.items() if value == top]


def _once(columns: list[Column]) -> Iterator[Column]:
    """A teacher that several runs share, measured alike, gets one column."""
    seen: list[tuple[str, dict[str, Any]]] = []
    for column in columns:
        fingerprint = (column.model, column.row())
        if not (column.teacher and fingerprint in seen):
            yield column
        seen.append(fingerprint)


def licences(story: Story) -> Rows:
    """Whose teachers they are, as far as their plug-ins are installed here; none is imported."""
    plugins = {name: str(story.recipe.get(f"teachers.{name}.plugin") or name) for name in story.teachers}
    known = {listed.name: listed for listed in listing()}
    said = {n: card(known[p]).licence if p in known else "not installed here" for n, p in plugins.items()}
    return [[name, plugins[name], licence or "-"] for name, licence in said.items()]


def _joined(column: Column) -> str:
    """The run's name says enough where the model is the run's own student."""
    return (
        column.run
        if column.model == "student" or column.model.endswith(column.run)
        else f"{column.run}: {column.model}"
    )


def text_table(rows: Rows, width: int) -> str:
    """For the terminal; columns that do not fit are named below and left to the page."""
    count = fitting(rows, width)
    lines = columns([row[:count] for row in rows])
    if count < len(rows[0]):
        lines.append(f"on the page besides: {', '.join(rows[0][count:])}")
    return "\n".join(lines)


def number(value: float | None) -> str:
    """With as many digits as its size deserves."""
    return "" if value is None else f"{value:.1f}" if abs(value) >= 10 else f"{value:.4f}"


def said(value: Any) -> str:
    """As a recipe would write it."""
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
