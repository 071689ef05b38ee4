"""The study's tables as a page: intervals over seeds, paired differences, and whether the paper's order comes back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from unicscale.evaluate import results
from unicscale.report.paper import find_table

MARKS = ("<!-- study: begin -->", "<!-- study: end -->")
AXES = {
    "k-NN class": "{:.1f}",
    "linear class": "{:.1f}",
    "linear texture": "{:.1f}",
    "mIoU": "{:.1f}",
    "depth RMSE": "{:.4f}",
}
# what stands for the paper's: its probe on classes the teachers know, one that nobody was taught, and both dense ones
STANDS_FOR = {
    "imagenet": "linear class",
    "transfer": "linear texture",
    "ade20k/mIoU": "mIoU",
    "nyud/rmse": "depth RMSE",
}
AS_LONG = ", as long"  # ends the name of a row that is run for as many steps as those with dropping
# what each row is held against, seed by seed; its table's first row where nothing else is said
AGAINST = {
    "table_1/5_standardised": "table_1/4_basic", "table_1/6_dedicated": "table_1/5_standardised",
    "table_1/7_ladder": "table_1/6_dedicated", f"table_1/7_ladder{AS_LONG}": "table_1/7_ladder",
    "table_1/8_dropping": f"table_1/7_ladder{AS_LONG}",
    f"table_j/p_000{AS_LONG}": "table_j/p_000",
    "table_j/p_025_image": f"table_j/p_000{AS_LONG}", "table_j/p_050_image": f"table_j/p_000{AS_LONG}",
    "table_j/p_100_image": f"table_j/p_000{AS_LONG}", "table_j/p_025_patch": f"table_j/p_000{AS_LONG}",
    "table_j/p_050_patch": f"table_j/p_000{AS_LONG}", "table_j/p_100_patch": f"table_j/p_000{AS_LONG}",
    "table_j/ladder_p_000": "table_j/p_000", f"table_j/ladder_p_000{AS_LONG}": f"table_j/p_000{AS_LONG}",
    "table_j/ladder_p_025_image": f"table_j/ladder_p_000{AS_LONG}",
    "table_j/ladder_p_050_image": f"table_j/ladder_p_000{AS_LONG}",
    "table_k/7_dropping": f"table_k/1_none{AS_LONG}",
}  # fmt: skip
Cells = Mapping[str, dict[str, Any]]


def write(page: Path, held: dict[str, Any], tables: Mapping[str, Sequence[str]]) -> None:
    """Between the two marks; the words around them are written by people."""
    before, begins, rest = page.read_text().partition(MARKS[0])
    _, ends, after = rest.partition(MARKS[1])
    if not (begins and ends):
        raise SystemExit(f"{page} has no lines {MARKS[0]} and {MARKS[1]} for the tables to stand between.")
    page.write_text(f"{before}{MARKS[0]}\n\n{body(held, tables)}\n{MARKS[1]}{after}")


def body(held: dict[str, Any], tables: Mapping[str, Sequence[str]]) -> str:
    """Teachers, then each table as far as it was run."""
    cells: Cells = held["cells"]
    parts = ["\n".join([*head(["teacher"]), *teachers(cells)])]
    for name, rows in tables.items():
        there = [row for row in rows if seeds_of(cells, row)]
        if there:
            parts += [f"### {find_table(name).heading}: {find_table(name).title}", table(cells, name, there)]
            parts += [differences(cells, there), order(cells, there)]
    return "\n\n".join(part for part in [*parts, power(cells)] if part) + "\n"


def head(first: Sequence[str]) -> list[str]:
    """A table's first two lines."""
    return ["| " + " | ".join([*first, *AXES]) + " |", "|" + "---|" * (len(first) + len(AXES))]


def teachers(cells: Cells) -> list[str]:
    """Both, over all seeds there are."""
    seeds = [row["scores"] for key, row in cells.items() if key.startswith("teachers / ")]
    lines = []
    for name in seeds[0]:
        numbers = [spread([one[name][axis] for one in seeds], form) for axis, form in AXES.items()]
        lines.append(f"| {name} | " + " | ".join(numbers) + " |")
    return lines


def table(cells: Cells, name: str, rows: Sequence[str]) -> str:
    """Means with the half of a 95 % interval of the mean over seeds."""
    titles = {row.recipe: row.title for row in find_table(name).rows}
    titles |= {recipe + AS_LONG: f"{title}, for as many steps as dropping (ours)" for recipe, title in titles.items()}
    lines = head(["row", "seeds"])
    for row in rows:
        seeds = seeds_of(cells, row)
        numbers = [spread([cells[f"{row} / {s}"]["scores"][axis] for s in seeds], form) for axis, form in AXES.items()]
        lines.append(f"| {titles[row]} | {len(seeds)} | " + " | ".join(numbers) + " |")
    return "\n".join(lines)


def differences(cells: Cells, rows: Sequence[str]) -> str:
    """Each row against the one it changes, on the same seeds; in bold where the interval leaves out nought."""
    lines = head(["difference", "seeds"])
    for row in rows:
        other = AGAINST.get(row, rows[0])
        seeds = [seed for seed in seeds_of(cells, row) if seed in seeds_of(cells, other)]
        if other == row or len(seeds) < 2:
            continue
        numbers = []
        for axis, form in AXES.items():
            mean, half = interval(paired(cells, row, other, axis, seeds))
            said = pair(mean, half, form)
            numbers.append(f"**{said}**" if abs(mean) > half else said)
        lines.append(f"| {short(row)} − {short(other)} | {len(seeds)} | " + " | ".join(numbers) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


def order(cells: Cells, rows: Sequence[str]) -> str:
    """Pairs of rows with printed numbers: the same order here, the other one, or not to be told."""
    printed = published()
    agree, against, untold = 0, [], 0
    for i, one in enumerate(rows):
        for two in rows[i + 1 :]:
            seeds = [seed for seed in seeds_of(cells, one) if seed in seeds_of(cells, two)]
            for metric, axis in STANDS_FOR.items():
                first, second = (printed.get(row, {}).get(metric) for row in (one, two))
                if first is None or second is None or first == second or len(seeds) < 2:
                    continue
                mean, half = interval(paired(cells, two, one, axis, seeds))
                if abs(mean) <= half:
                    untold += 1
                elif (mean > 0) == (second > first):
                    agree += 1
                else:
                    against.append(f"{axis} of {short(one)} and {short(two)}")
    if not agree + untold + len(against):
        return "The paper's numbers of these rows are pictures, or were not at hand: no order to hold these against."
    said = (
        f"The paper's order, pair by pair and axis by axis: {agree} agree, {len(against)} disagree, {untold} cannot be "
        "told apart here."
    )
    return said + (f" They disagree on {'; '.join(against)}." if against else "")


def power(cells: Cells) -> str:
    """How many seeds would tell the ladder, and dropping, from noise, if they are worth what they seem to be."""
    lines = []
    for what, one in (("the ladder", "table_1/7_ladder"), ("dropping", "table_1/8_dropping")):
        two = AGAINST[one]
        seeds = [seed for seed in seeds_of(cells, one) if seed in seeds_of(cells, two)]
        if len(seeds) < 3:
            continue
        numbers = []
        for axis in AXES:
            found = paired(cells, one, two, axis, seeds)
            numbers.append(f"{axis} {needed(float(np.mean(found)), float(np.std(found, ddof=1)))}")
        lines.append(f"- {what}: {', '.join(numbers)}.")
    if not lines:
        return ""
    said = (
        "At the mean difference and the spread found here, so many seeds of the same length give an interval of 95 %\n"
        "that leaves out nought four times out of five:"
    )
    return "\n\n".join(["### How many seeds it would take", said, "\n".join(lines)])


def needed(mean: float, deviation: float) -> str:
    """Seeds for a paired t-test of power 0.8."""
    for count in range(2, 1000):
        quantile = float(student_t.ppf(0.975, count - 1)) + float(student_t.ppf(0.8, count - 1))
        if abs(mean) * math.sqrt(count) >= quantile * deviation:
            return str(count)
    return "more than 1,000"


def paired(cells: Cells, row: str, other: str, axis: str, seeds: Sequence[int]) -> list[float]:
    """Differences on the same seeds."""
    return [cells[f"{row} / {s}"]["scores"][axis] - cells[f"{other} / {s}"]["scores"][axis] for s in seeds]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the half of its 95 % interval, by Student's distribution."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    half = float(student_t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)), half


def spread(values: Sequence[float], form: str) -> str:
    """`64.0 ± 1.2`; one seed has no interval."""
    mean, half = interval(values)
    return form.format(mean) if math.isnan(half) else pair(mean, half, form)


def pair(mean: float, half: float, form: str) -> str:
    """On one line, however narrow the column."""
    return f"{form.format(mean)}\u00a0±\u00a0{form.format(half)}"


def seeds_of(cells: Cells, row: str) -> list[int]:
    """On which seeds it was run."""
    return [int(key.rpartition(" / ")[2]) for key in cells if key.rpartition(" / ")[0] == row]


def short(row: str) -> str:
    """`7_ladder` of `table_1/7_ladder`."""
    return f"`{row.rpartition('/')[2]}`"


def published() -> dict[str, dict[str, float]]:
    """Row -> what the paper prints."""
    file = Path(results.__file__).with_name("published.json")
    return {row: model["scores"] for row, model in json.loads(file.read_text())["models"].items()}
