"""What each part of the method is worth on drawn scenes: the rows of the paper's Table 1, several seeds each.

    python benchmarks/components.py                       a glance: a few steps of every row, nothing is written
    python benchmarks/components.py --steps 480 --seeds 0 1 2 --out runs/components --write docs/components.md
        --parts unicscale/evaluate/results/parts.json

A row and seed that has its result in --out is not run again, so seeds may also run side by side first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from datetime import date
from pathlib import Path

from unicscale import demo
from unicscale.data import scenes
from unicscale.recipe import load

# as these runs were when the demo's student was as wide as its teachers, and learned from flipped scenes too
PLAIN = ["student.options={embed_dim: 96, depth: 4, num_heads: 3}", "data.augment.flip=0.5", "engine.remember=null"]
# each row adds one line to the one before, as the ablation recipes do
BASIC = ["projector={kind: mlp, shared: true}", "standardize.kind=none", "loss.balance={kind: none}"]
ROWS = {
    "basic": BASIC,
    "+ standardisation": [BASIC[0], BASIC[2]],
    "+ dedicated projectors": ["projector={kind: mlp}", BASIC[2]],
    "+ ladder": [BASIC[2]],
    "+ teacher dropping": [],
}
STUDENT = "student"


def main() -> None:
    """Run what is missing, then print (and write) the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="of the first stage; the second is a sixth of it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, help="where runs and results go; a temporary folder if left out")
    parser.add_argument("--write", type=Path, help="a Markdown file for the table")
    parser.add_argument("--parts", type=Path, help="a JSON for the demo's page: unicscale/evaluate/results/parts.json")
    parser.add_argument("--machine", default="2 cores, no GPU")
    parser.add_argument("--date", default=date.today().isoformat(), help="when the runs were made")
    given = parser.parse_args()
    sizes = demo.Sizes(bank=2048, probe_steps=100) if given.out else demo.Sizes(256, 256, 128, probe_steps=4)
    with tempfile.TemporaryDirectory() as temporary:
        out = given.out or Path(temporary)
        results = [one(out, row, seed, given.steps, sizes) for seed in given.seeds for row in ("teachers", *ROWS)]
    page = table(results, given.steps, sizes)
    print(page)
    if given.write:
        given.write.write_text(page)
    if given.parts:
        width = load(demo.RECIPE).student.options["embed_dim"]
        given.parts.write_text(
            json.dumps(parts(results, given.steps, width, given.machine, given.date), indent=1) + "\n"
        )


def one(out: Path, row: str, seed: int, steps: int, sizes: demo.Sizes) -> dict:
    """Scores of one row and seed (or of the teachers on that seed's scenes), from the file if it is there."""
    name = "".join(letter for letter in row if letter.isalpha())
    file = out / f"seed-{seed}" / f"{name}.json"
    if file.exists():
        return json.loads(file.read_text())
    images = out / f"seed-{seed}" / "scenes"
    scenes.write(images, sizes.train, seed=seed)
    stages = [f"stages.0.steps={steps}", f"stages.1.steps={max(steps // 6, 1)}"]
    place = [*PLAIN, f"out={file.with_suffix('')}", f"seed={seed}", f"data.train.0={images}"]
    changes = [*place, *stages, *ROWS.get(row, [])]
    if row in ROWS:
        models = {STUDENT: demo.student_of(demo.distil(changes))}
    else:
        models = demo.teachers_of(load(demo.RECIPE, changes))
    result = {"row": row, "seed": seed, "steps": steps, "scores": demo.evaluate(models, seed, sizes)}
    file.write_text(json.dumps(result, indent=1) + "\n")
    return result


def parts(results: list[dict], steps: int, width: int, machine: str, made: str) -> dict:
    """What the demo's page shows of it: mean and standard deviation over the seeds, row by row."""
    rows: dict[str, dict[str, list[float]]] = {}
    for row in ROWS:
        found = [result["scores"][STUDENT] for result in results if result["row"] == row]
        each = {axis.name: [one[axis.name] for one in found] for axis in demo.AXES}
        rows[row] = {name: [statistics.mean(v), statistics.stdev(v)] for name, v in each.items() if len(v) > 1}
    lengths = f"{steps} steps at 48 px and {max(steps // 6, 1)} at 64 px"
    runs = f"runs of {lengths}, of 64 images each, by a student of {width} channels"
    seeds = len({result["seed"] for result in results})
    return {"synthetic": True, "machine": machine, "date": made, "runs": runs, "seeds": seeds, "rows": rows}


def table(results: list[dict], steps: int, sizes: demo.Sizes) -> str:
    """Markdown: mean ± standard deviation over the seeds."""
    seeds = len({result["seed"] for result in results})
    scores: dict[str, list[demo.Scores]] = {}
    for result in results:
        for model, found in result["scores"].items():
            scores.setdefault(result["row"] if model == STUDENT else f"teacher {model}", []).append(found)
    lines = [
        "# What each part is worth on drawn scenes",
        "",
        f"Synthetic scenes, {seeds} seeds (other scenes, other initial student), mean ± standard deviation over seeds; "
        f"{steps} steps at 48 px and {max(steps // 6, 1)} at 64 px, 64 images a step, {sizes.train:,} scenes; the same "
        "teachers throughout. Made by `benchmarks/components.py`; every row adds one part to the row before.",
        "",
        "| | " + " | ".join(axis.name for axis in demo.AXES) + " |",
        "|---|" + "---|" * len(demo.AXES),
    ]
    for row, found in scores.items():
        cells = []
        for axis in demo.AXES:
            values = [one[axis.name] for one in found]
            spread = f" ± {axis.form.format(statistics.stdev(values))}" if len(values) > 1 else ""
            cells.append(axis.form.format(statistics.mean(values)) + spread)
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
