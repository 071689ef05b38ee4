"""Table J of the paper end to end at toy size: its ten recipes on drawn scenes, as one sweep, and the table filled.

    python benchmarks/paper_toy.py                        a glance: a few steps of every row, in a temporary folder
    python benchmarks/paper_toy.py --steps 480 --out runs/paper_toy --write benchmarks/results/paper_toy.json

Started again with the same --out it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from unicscale import demo
from unicscale.data import scenes
from unicscale.data.stream.workers import cores
from unicscale.recipe import dump, load
from unicscale.report.paper import FOLDER, find_table
from unicscale.run.folder import RunFolder, write_whole

TABLE, FULL = find_table("J"), 200  # epochs of the paper that --steps stand for: rows without dropping take half
KNOWS = {"ibot": "dense", "dbot": "classes"}
WIDTH = 96


def main() -> None:
    """Scenes, recipes, one sweep, evaluation; then what `unicscale paper J` and `unicscale report` make of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="of the rows that take 200 epochs in the paper")
    parser.add_argument("--rows", nargs="+", help="some of them: p_000 p_050_image; all if left out")
    parser.add_argument("--out", type=Path, help="where recipes, runs and figures go; a temporary folder if left out")
    parser.add_argument("--write", type=Path, help="a JSON file for the scores")
    given = parser.parse_args()
    sizes = demo.Sizes(bank=2048, probe_steps=100) if given.out else demo.Sizes(256, 256, 128, probe_steps=4)
    names = [row.recipe for row in TABLE.rows if not given.rows or row.recipe.split("/")[1] in given.rows]
    with tempfile.TemporaryDirectory() as temporary:
        out = (given.out or Path(temporary)).absolute()
        began = time.monotonic()
        scenes.write(out / "scenes", sizes.train, seed=0)
        recipes = [shrunk(name, out, given.steps) for name in names]
        run(sys.executable, "launch/local.py", str(recipes[0].parent), "--sweep", "--ranks", str(min(2, cores())))
        trained = time.monotonic() - began
        scores = measure(names, out, sizes)
        run(sys.executable, "-m", "unicscale", "paper", TABLE.name, "--runs", str(out))
        run(sys.executable, "-m", "unicscale", "report", str(out / "table_j"), "--out", str(out / "report"))
        facts = {"synthetic": True, "steps": given.steps, "sizes": sizes._asdict(), "cores": cores()}
        facts |= {"seconds": {"training": round(trained), "all": round(time.monotonic() - began)}}
    if given.write:
        given.write.write_text(json.dumps(facts | {"rows": scores}, indent=1) + "\n")


def shrunk(name: str, out: Path, steps: int) -> Path:
    """The row as it is, on scenes and with a student as wide as its teachers: what the table varies stays."""
    file = FOLDER / f"{name}.yaml"
    said = load(file, unset="keep")
    stage = {"name": "low", "size": 48, "warmup": "6%", "lr": {"peak": 2e-3, "end": 1e-6}}
    stage["steps"] = max(2, round(steps * (said.stages[0].epochs or FULL) / FULL))
    widths = {"ladder": [f"hidden={WIDTH}", f"last_hidden={4 * WIDTH}"], "mlp": [f"hidden={4 * WIDTH}"]}
    narrow = load(demo.RECIPE, [f"student.options={{embed_dim: {WIDTH}, depth: 4, num_heads: 3}}"])
    changes = [
        f"out={out / name}", f"data={json.dumps(narrow.data.model_dump(mode='json'))}",
        f"data.train=[{out / 'scenes'}]", f"student={narrow.student.model_dump_json()}",
        f"stages=[{json.dumps(stage)}]", "engine={kind: plain, dtype: bf16, clip: 1.0, device: cpu}",
        "track={every_steps: 20}", "save={every_minutes: null, keep: 1}", "evaluate={}",
        *(f"teachers.{teacher}={{plugin: scenes, knows: {KNOWS[teacher]}}}" for teacher in said.teachers),
        *(f"projector.{width}" for width in widths[said.projector.kind]),
    ]  # fmt: skip
    written = out / "recipes" / f"{name}.yaml"
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(dump(load(file, changes)))
    return written


def measure(names: list[str], out: Path, sizes: demo.Sizes) -> dict[str, demo.Scores]:
    """The demo's axes, for the teachers once and for every student, into each run's evaluation."""
    recipe = load(out / "recipes" / f"{names[0]}.yaml")
    models = demo.teachers_of(recipe) | {name: demo.student_of(RunFolder(out / name)) for name in names}
    scores = demo.evaluate(models, 0, sizes)
    teachers = {name: scores[name] for name in recipe.teachers}
    for name in names:
        folder = RunFolder(out / name).evaluation
        held = {"synthetic": True, "scores": teachers | {"student": scores[name]}}
        write_whole(folder / "scenes.json", json.dumps(held, indent=1) + "\n")
    return scores


def run(*command: str) -> None:
    """One command, as a person would give it; its failure is ours."""
    print("$", " ".join(command), flush=True)
    subprocess.run(command, check=True, env=os.environ | demo.SMALL_STEPS)


if __name__ == "__main__":
    main()
