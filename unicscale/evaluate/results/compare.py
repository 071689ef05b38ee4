"""One table of several models: the best teacher, the gain over it, the paper's numbers beside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from unicscale.errors import RecipeError, nearest
from unicscale.evaluate.results.gains import gain
from unicscale.evaluate.sets.names import TRANSFER
from unicscale.run.columns import columns

Table = dict[str, dict[str, dict[str, Any]]]  # score -> model -> {value, low, high, higher_is_better}
NO_CONTEST = ("statistics/", "speed/")  # facts, in which nobody is better
DETAIL = ("/k=", "/per class", "/abs_rel", "/delta", "statistics/", "prune/", "whiten/")


def published() -> dict[str, Any]:
    """What the paper reports, by row of a table (`table_k/1_none`) and by short names (`unic_b`)."""
    held = json.loads(files("unicscale.evaluate.results").joinpath("published.json").read_text())
    held["models"] |= {short: held["models"][row] for short, row in held["aliases"].items()}
    return held


def tabulate(results: Iterable[Mapping[str, Any]]) -> Table:
    """Scores by name and model, with the mean of the transfer sets where a model has them all."""
    table: Table = {}
    for result in results:
        for score in result["scores"]:
            held = {name: score[name] for name in ("value", "low", "high", "higher_is_better")}
            table.setdefault(score["name"], {})[result["model"]] = held
    complete = [m for m in table.get(TRANSFER[0], {}) if all(m in table.get(name, {}) for name in TRANSFER)]
    for model in complete:
        mean = sum(table[name][model]["value"] for name in TRANSFER) / len(TRANSFER)
        table.setdefault("transfer", {})[model] = {"value": mean, "low": None, "high": None, "higher_is_better": True}
    return table


def gains(table: Table, teachers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Per score: the best teacher, and every other model's relative gain over it in per cent."""
    found: dict[str, dict[str, Any]] = {}
    for name, row in table.items():
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
    held = published()
    if name not in held["models"]:
        raise RecipeError(
            f"--beside {name}: not among the published models.{nearest(name, held['models'])}\n"
            f"  known: {', '.join(held['models'])}"
        )
    one = held["models"][name]
    return one | {"source": f"{held['source']}, {one['source']}"}


def text_table(whole: Mapping[str, Any], *, detail: bool = False) -> str:
    """For the terminal: a row per score, a column per model, then the best teacher and the gain over it."""
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
    return "\n".join(columns(rows, right=True))


def cell(score: Mapping[str, Any] | None) -> str:
    """`83.2 ±0.4`, with as many digits as the size of the number deserves."""
    if score is None:
        return "-"
    value, low, high = score["value"], score["low"], score["high"]
    digits = 1 if abs(value) >= 10 else 3
    width = "" if low is None else f" ±{(high - low) / 2:.{digits}f}"
    return f"{value:.{digits}f}{width}"
