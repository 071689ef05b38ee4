"""The paper's tables (arXiv:2408.05088): their rows as recipes, how far the runs are, their numbers beside ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unicscale.errors import RecipeError, nearest
from unicscale.evaluate.results.compare import DETAIL, NO_CONTEST, cell, published
from unicscale.recipe import load, shipped
from unicscale.recipe.difference import flat
from unicscale.report.story import results_in, scores_of
from unicscale.report.table import Rows
from unicscale.run.folder import RunFolder
from unicscale.run.states import State
from unicscale.run.status import Status, statuses

FOLDER = shipped.FOLDER / "paper"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a recipe, and which of its run's models is meant."""

    recipe: str  # table_j/p_025_image
    title: str
    model: str = ""  # "" is the run's own; else the label under which a stage of it was evaluated
    unsaid: str = ""  # what the paper leaves open
    varies: Sequence[str] | None = None  # keys in which it differs from what it extends; None: extends nothing

    @property
    def published(self) -> str:
        """Its name among the published models."""
        return self.recipe + (f"@{self.model}" if self.model else "")


@dataclass(frozen=True, slots=True)
class Table:
    """One table, figure or section of the paper."""

    name: str
    title: str
    setting: str = ""
    note: str = ""
    suite: str = ""  # what measures it
    scores: Sequence[str] = ()
    rows: Sequence[Row] = ()
    commands: Sequence[str] = ()  # where rows do not say it all

    @property
    def heading(self) -> str:
        """As the paper calls it."""
        return self.name if self.name.startswith(("Figure", "Section")) else f"Table {self.name}"


@dataclass(frozen=True, slots=True)
class Held:
    """What is there of a row."""

    row: Row
    twins: Sequence[str]  # rows of other tables that are the same run
    folder: Path
    status: Status | None
    scores: Mapping[str, Mapping[str, Any]]
    published: Mapping[str, float]

    @property
    def finished(self) -> bool:
        return self.status is not None and self.status.state in (State.FINISHED, State.ENDING)


def tables() -> dict[str, Table]:
    """All of them, in the order in which they are told."""
    told = json.loads((FOLDER / "tables.json").read_text())
    return {
        name: Table(name=name, **{**one, "rows": [Row(**row) for row in one.get("rows", [])]})
        for name, one in told.items()
    }


def find_table(name: str) -> Table:
    """`J`, `j`, `table_j` or `Figure 3b`."""
    known = {_plain(key): table for key, table in tables().items()}
    if _plain(name) not in known:
        words = [table.name for table in known.values()]
        raise RecipeError(f"the paper has no '{name}' here.{nearest(name, words)}\n  known: {', '.join(words)}")
    return known[_plain(name)]


def _plain(name: str) -> str:
    letters = "".join(c for c in name.lower() if c.isalnum())
    return letters.removeprefix("table").removeprefix("section")


def gather(table: Table, runs: Path) -> list[Held]:
    """Every row, its run wherever it is: in its own place below `runs`, or in that of the same run of another table."""
    same = _twins()
    places = [[RunFolder(runs / name) for name in (row.recipe, *same[row.recipe])] for row in table.rows]
    chosen = [next((one for one in own if one.facts.exists()), own[0]) for own in places]
    there = [folder for folder in chosen if folder.facts.exists()]
    states = dict(zip((folder.root for folder in there), statuses(there), strict=True))
    printed = published()["models"]
    return [
        Held(
            row=row, twins=same[row.recipe], folder=folder.root, status=states.get(folder.root),
            scores=scores_of(results_in(folder.evaluation), row.model or folder.root.name),
            published=next((printed[n]["scores"] for n in _names(row, same[row.recipe]) if n in printed), {}),
        )
        for row, folder in zip(table.rows, chosen, strict=True)
    ]  # fmt: skip


def _names(row: Row, twins: Sequence[str]) -> list[str]:
    return [row.published] if row.model else [row.recipe, *twins]


def _twins() -> dict[str, list[str]]:
    """For every recipe of the paper, the others that are the same in all but where they go."""
    files = {str(f.relative_to(FOLDER).with_suffix("")): f for f in sorted(FOLDER.glob("*/*.yaml"))}
    contents = {name: flat(load(file, unset="keep")) | {"out": None} for name, file in files.items()}
    return {name: [n for n in files if n != name and contents[n] == contents[name]] for name in files}


def filled(table: Table, held: Sequence[Held]) -> Rows:
    """A row of the paper each; for every score what was measured here, and what the paper says."""
    shown = list(table.scores)
    if not any(score in one.scores for one in held for score in shown):  # other data: whatever was measured on it
        more = dict.fromkeys(score for one in held for score in one.scores)
        shown += [
            s for s in more if s not in shown and not s.startswith(NO_CONTEST) and not any(d in s for d in DETAIL)
        ]
    rows: Rows = [[""], *([one.row.title] for one in held)]
    for score in shown:
        ours = [cell(one.scores.get(score)) for one in held]
        theirs = [_number(one.published.get(score)) for one in held]
        for heading, column in ((score, ours), (f"{score}, paper", theirs)):
            if set(column) != {"-"}:
                for row, word in zip(rows, [heading, *column], strict=True):
                    row.append(word)
    return rows


def _number(value: float | None) -> str:
    return cell(None if value is None else {"value": value, "low": None, "high": None})
