"""Ours, the step that UNIC's authors released, and lightly-train's distillation: the same images, the same shapes.

    git clone https://github.com/naver/unic CHECKOUT           non-commercial licence: it is timed, nothing is taken
    python -m venv ENV && ENV/bin/pip install lightly-train timm
    python -m benchmarks.peers --unic CHECKOUT --python ENV/bin/python --images FOLDER [--threads 2]

FOLDER holds train/CLASS/*.jpg and val/CLASS/*.jpg. A ViT-S/14 learns from one or two ViT-S/14 with values by chance;
lightly-train takes one. Each run is a process of its own, in turns (A B C C B A), images per second are medians.
Each does what its authors do: projectors, losses, augmentation, optimiser are their own, and so is the work in a step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.peers.clock import MARK, Asked

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "peers.json"
CELLS = [(teachers, size) for teachers in (1, 2) for size in (112, 224)]


def main() -> None:
    """Every cell, and one JSON file that grows cell by cell."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--unic", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--python", type=Path, required=True, help="of the environment with lightly-train and timm")
    parser.add_argument("--images", type=Path, required=True, help="a folder with train/ and val/")
    parser.add_argument("--threads", type=int, default=2, help="of each process, for its products")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8, help="two of them are not counted")
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--machine", default="2 cores, no GPU")
    given = parser.parse_args()
    rows: dict[str, Any] = {}
    for teachers, size in CELLS:
        systems = ["ours", "unic", *(["lightly"] if teachers == 1 else [])]
        cell: dict[str, list[dict[str, float]]] = {name: [] for name in systems}
        for name in [*systems, *reversed(systems)]:
            cell[name].append(measured(name, given, teachers, size))
            print(f"{name}, {teachers} teachers, {size} px: {cell[name][-1]}", flush=True)
        rows[f"{teachers} x ViT-S, {size} px"] = {name: medians(runs) for name, runs in cell.items()}
        said = {"machine": given.machine, "date": date.today().isoformat(), "threads": given.threads,
                "batch": given.batch, "steps": given.steps, "dtype": given.dtype, "rows": rows}  # fmt: skip
        RESULTS.write_text(json.dumps(said, indent=1) + "\n")


def measured(name: str, given: argparse.Namespace, teachers: int, size: int) -> dict[str, float]:
    """One run of one system."""
    images = given.images.resolve() / ("" if name == "unic" else "train")
    with tempfile.TemporaryDirectory() as place:
        out = str(Path(place) / name)
        asked = Asked(str(images), teachers, size, given.batch, given.steps, given.dtype, out)
        python = sys.executable if name == "ours" else str(given.python.absolute())
        more = [str(given.unic.resolve())] if name == "unic" else []
        known = {"PEERS_BEGAN": str(time.time()), "OMP_NUM_THREADS": str(given.threads), "PYTHONPATH": str(ROOT)}
        command = [python, "-m", f"benchmarks.peers.{name}", asked.dumped(), *more]
        env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | known
        done = subprocess.run(command, env=env, cwd=place, capture_output=True, text=True)  # imports compiled once
    line = next((line for line in done.stdout.splitlines() if MARK in line), None)
    if line is None:
        raise SystemExit(f"{name} measured nothing (exit {done.returncode}):\n{done.stderr[-2000:]}")
    return json.loads(line.partition(MARK)[2])


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of each number."""
    return {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}


if __name__ == "__main__":
    main()
