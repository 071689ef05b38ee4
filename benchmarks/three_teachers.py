"""A ViT, a ConvNet and SAM's encoder, which has patches only, teach three kinds of student, in three engines.

    python benchmarks/three_teachers.py [--students plain rope maps] [--engines plain fsdp2 zero3] [--seconds 480]

Random weights, tiny sizes, two stages, two ranks. Each run is killed at a random step and started again; it must end in
the sha256 of the same run left alone: final weights, moments, statistics and balance. What was run is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.faults.launching import Launch  # noqa: E402
from tests.faults.table import STEPS, Ground, finish, kill  # noqa: E402
from tests.kit.recipe import SHAPE  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "three_teachers.json"
RANKS = 2
TEACHERS: dict[str, Any] = {
    "vit": {"plugin": "dino", "weights": "random", "size": SHAPE},
    "conv": {"plugin": "timm", "weights": "random", "model": "test_convnext"},
    "sam": {
        "plugin": "sam", "weights": "random", "size": "base",
        "settings": {
            "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64, "global_attn_indexes": [1], "window_size": 2,
        },
    },
}  # fmt: skip
STUDENTS: dict[str, Any] = {
    "plain": {
        "arch": "vit_tiny", "patch": 8, "drop_path": 0.1, "options": {"embed_dim": 64, "depth": 2, "num_heads": 2},
    },
    "rope": {
        "arch": "vit_tiny_patch16_dinov3_qkvb", "patch": 8, "drop_path": 0.1,
        "options": {"embed_dim": 40, "depth": 2, "num_heads": 2},
    },
    "maps": {
        "arch": "convnext_atto", "drop_path": 0.1,
        "options": {"output_stride": 8, "depths": [1, 1, 1, 1], "dims": [8, 12, 16, 24], "ls_init_value": 0.1},
    },
}  # fmt: skip


def main() -> int:
    """Every student under every engine, in turns; 1 where a resumed run ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", default=list(STUDENTS), choices=STUDENTS)
    parser.add_argument("--engines", nargs="+", default=["plain", "fsdp2", "zero3"])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing after so long")
    parser.add_argument("--machine", default="2 cores, no GPU")
    given = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    results |= {"machine": given.machine, "date": date.today().isoformat(), "ranks": RANKS, "teachers": TEACHERS}
    began = time.monotonic()
    left = [(s, e) for s in given.students for e in given.engines if f"{s} {e}" not in results["rows"]]
    with tempfile.TemporaryDirectory() as folder:
        while left and time.monotonic() - began < given.seconds:
            student, engine = left.pop(0)
            results["rows"][f"{student} {engine}"] = row = resumed(Ground(Path(folder)), student, engine)
            print(student, engine, row, flush=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(f"{len(left)} left")
    return 75 if left else int(any(not row["equal"] for row in results["rows"].values()))


def resumed(ground: Ground, student: str, engine: str, seed: int = 0) -> dict[str, Any]:
    """One run left alone, one killed somewhere and started again."""
    changes = {"student": STUDENTS[student], "teachers": TEACHERS, "engine__kind": engine}
    at = Random(f"{student} {engine} {seed}").randrange(2, STEPS)
    try:
        expected = ground.reference(RANKS, **changes)
        recipe = ground.recipe("killed", **changes)
        launch = Launch(recipe, ranks=RANKS)
        launch.until(lambda: launch.steps() >= at)
        kill(launch)
        finish(recipe, RANKS, expected)
    except Exception as problem:  # what went wrong is data too
        return {"equal": False, "killed_at": at, "why": str(problem)[-1500:]}
    lines = [json.loads(line) for line in (recipe.parent / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    terms = sorted({key for line in lines for key in line if key.startswith("loss/") and key.count("/") == 2})
    return {"equal": True, "killed_at": at, "loss": [round(losses[0], 4), round(losses[-1], 4)], "terms": terms}


if __name__ == "__main__":
    sys.exit(main())
