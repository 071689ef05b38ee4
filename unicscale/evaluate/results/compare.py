"""One table of several models: the best teacher, the gain over it, the paper's numbers beside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from unicscale.errors import RecipeError, nearest
from unicscale.evaluate.results.gains import gain
from unicscale.evaluate.sets.names import GROUPS
from unicscale.run.columns import columns

Table = dict[str, dict[str, dict[str, Any]]]  # score -> model -> {value, low, high, higher_is_better}
NO_CONTEST = ("statistics/", "speed/", "prune", "whiten")  # facts, in which nobody is better
DETAIL = (
    "/change",
    "/k=",
    "/per class",
    "/per keypoint",
    "/per category",
    "/abs_rel",
    "/delta",
    "statistics/",
    "prune/",
    "whiten/",
    "prune_ade20k/",
    "whiten_ade20k/",
)


def zoo() -> dict[str, Any]:
    """What other papers report of their models, each by its own protocol, which is said with it."""
    return json.loads(files("unicscale.evaluate.results").joinpath("zoo.json").read_text())["models"]


def published() -> dict[str, Any]:
    """What the paper reports, by row of a table (`table_k/1_none`) and by short names (`unic_b`)."""
    held = json.loads(files("unicscale.evaluate.results").joinpath("published.json").read_text())
    held["models"] |= {short: held["models"][row] for short, row in held["aliases"].items()}
    return held


def tabulate(results: Iterable[Mapping[str, Any]]) -> Table:
    """Scores by name and model, with the mean of each group of sets where a model has them all.

    A result of another protocol or of other images than the first of its task is `apart`: shown, but not compared.
    """
    table: Table = {}
    first: dict[str, Mapping[str, Any]] = {}
    for result in results:
        task = str(result.get("task"))
        apart = not alike(result, first.setdefault(task, result))
        for score in result["scores"]:
            held = {name: score.get(name) for name in ("value", "low", "high")}
            held["higher_is_better"] = score.get("higher_is_better", True)
            table.setdefault(score["name"], {})[result["model"]] = held | ({"apart": True} if apart else {})
    for group, members in GROUPS.items():
        models = [m for m in table.get(members[0], {}) if all(m in table.get(name, {}) for name in members)]
        for model in models:
            rows = [table[name][model] for name in members]
            held = {"value": sum(row["value"] for row in rows) / len(rows), "low": None, "high": None}
            held |= {"apart": True} if any("apart" in row for row in rows) else {}
            table.setdefault(group, {})[model] = held | {"higher_is_better": True}
    return table


def alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two results of a task may stand beside each other; every model has its own size."""

    def said(result: Mapping[str, Any]) -> tuple[Any, ...]:
        protocol = {name: value for name, value in result.get("protocol", {}).items() if name != "size"}
        return protocol, result.get("data")

    return said(one) == said(other)


def gains(table: Table, teachers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Per score: the best teacher, and every other model's relative gain over it in per cent."""
    found: dict[str, dict[str, Any]] = {}
    for name, every in table.items():
        row = {model: score for model, score in every.items() if not score.get("apart")}
        held = [model for model in teachers if model in row]
        if not held or name.startswith(NO_CONTEST):
            continue
        higher = next(iter(row.values()))["higher_is_better"]
        best = (max if higher else min)(held, key=lambda model: row[model]["value"])
        if row[best]["value"] == 0:
            continue
        others = {m: gain(row[m]["value"], row[best]["value"], higher) for m in row if m not in teachers}
        found[name] = {"best_teacher": best, "gain": others}
    return found


def summary(
    results: Iterable[Mapping[str, Any]], beside: str | None = None, missing: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What the file of a whole suite holds."""
    results = list(results)
    table = tabulate(results)
    models = {r["model"]: {"sha256": r["sha256"], "teacher": r["teacher"]} for r in results}
    teachers = [name for name, facts in models.items() if facts["teacher"]]
    return {
        "schema": 1,
        "models": models,
        "scores": table,
        "gains": gains(table, teachers),
        "published": {beside: paper(beside)} if beside else {},
        "missing": dict(missing or {}),
        "results": results,
    }


def paper(name: str) -> dict[str, Any]:
    """One published model, with its source."""
    held, others = published(), zoo()
    if name in others:
        return others[name]
    if name not in held["models"]:
        known = [*held["models"], *others]
        raise RecipeError(
            f"--beside {name}: not among the published models.{nearest(name, known)}\n  known: {', '.join(known)}"
        )
    one = held["models"][name]
    return one | {"source": f"{held['source']}, {one['source']}"}


def rows_of(whole: Mapping[str, Any], *, detail: bool = False) -> list[list[str]]:
    """A row per score, a column per model, then the best teacher and the gain over it; heads first."""
    models = list(whole["models"])
    students = [m for m in models if not whole["models"][m]["teacher"]]
    beside = list(whole["published"].values())
    heads = ["", *models]
    if whole["gains"]:
        heads += ["best teacher", *(f"gain of {m}" if len(students) > 1 else "gain" for m in students)]
    heads += [one["title"] for one in beside]
    rows = [heads]
    for name, row in sorted(whole["scores"].items(), key=lambda item: item[0].split("/")[0] == "speed"):
        if not detail and any(part in name for part in DETAIL):
            continue
        cells = [name, *(cell(row.get(model)) for model in models)]
        if whole["gains"]:
            found = whole["gains"].get(name, {"best_teacher": "", "gain": {}})
            over = found["gain"]
            cells += [found["best_teacher"].removeprefix("teacher:")]
            cells += [f"{over[m]:+.1f} %" if m in over else "" for m in students]
        cells += [f"{one['scores'][name]:g}" if name in one["scores"] else "" for one in beside]
        rows.append(cells)
    return rows


def text_table(whole: Mapping[str, Any], *, detail: bool = False) -> str:
    """For the terminal."""
    lines = columns(rows_of(whole, detail=detail), right=True)
    beside = whole["published"].values()
    lines += [
        f"{one['title']}, by another protocol: {one['protocol']} ({one['source']})"
        for one in beside
        if "protocol" in one
    ]
    if any(line.rstrip().endswith("*") or "* " in line for line in lines[1:]):
        lines.append("* measured with other settings or on other images than the first column: not compared")
    return "\n".join(lines)


def cell(score: Mapping[str, Any] | None) -> str:
    """`83.2 ±0.4`, with as many digits as the size of the number deserves."""
    if score is None:
        return "-"
    value, low, high = score["value"], score["low"], score["high"]
    digits = 1 if abs(value) >= 10 else 3
    width = "" if low is None else f" ±{(high - low) / 2:.{digits}f}"
    return f"{value:.{digits}f}{width}{'*' if score.get('apart') else ''}"
