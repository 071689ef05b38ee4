"""What the demo's recipe was chosen by: one change each, or several that were good, at the same seed.

    python benchmarks/demo_sweep.py                     what is not in the results yet
    python benchmarks/demo_sweep.py --only wide p0      these; `--seed 1` on other scenes and from another start
    python benchmarks/demo_sweep.py --minutes 20        begins nothing after so long

One process of one thread. CPU seconds stand beside each row, so what is bought by more of them can be seen.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"TIMM_FUSED_ATTN": "0", "OMP_NUM_THREADS": "1"}  # as the demo starts its ranks
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from unicscale import demo  # noqa: E402
from unicscale.data import scenes  # noqa: E402
from unicscale.recipe import load  # noqa: E402
from unicscale.train import train  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "demo_sweep.json"
OUT = ROOT / "runs" / "demo_sweep"
REMEMBER = ["engine.remember=2"]
STILL = [*REMEMBER, "data.augment.flip=0"]


def peaks(low: float) -> list[str]:
    """Both stages' learning rates, the second half of the first."""
    return [f"stages.0.lr.peak={low}", f"stages.1.lr.peak={low / 2}"]


def steps(low: int, high: int) -> list[str]:
    """Of both stages."""
    return [f"stages.0.steps={low}", f"stages.1.steps={high}"]


WIDE = "student.options={embed_dim: 144, depth: 4, num_heads: 3}"
VARIANTS: dict[str, list[str]] = {
    "as it was": REMEMBER,
    "still, width 144": [*STILL, WIDE],
    "still, width 144, twice as long": [*STILL, WIDE, *steps(2240, 480)],
    "chosen": [*STILL, WIDE, *steps(2000, 420)],
    "still, width 144, no dropping": [*STILL, WIDE, "loss.balance={kind: none}"],
    "still, width 144, lr 4e-3": [*STILL, WIDE, *peaks(4e-3)],
    "still, width 144, batch 32": [*STILL, WIDE, "data.images_per_step=32", *steps(2240, 480)],
    "still": STILL,
    "still, twice as long": [*STILL, *steps(2240, 480)],
    "still, no dropping": [*STILL, "loss.balance={kind: none}"],
    "still, depth 6": [*STILL, "student.options={embed_dim: 96, depth: 6, num_heads: 3}"],
    "still, more at 64": [*STILL, *steps(640, 560)],
    "still, lr 4e-3": [*STILL, *peaks(4e-3)],
    "still, lr 1e-3": [*STILL, *peaks(1e-3)],
}


def main() -> None:
    """Each once, in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    held: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    began = time.monotonic()
    for name in given.only:
        key = f"{name} / seed {given.seed}"
        if key in held or time.monotonic() - began > 60 * given.minutes:
            continue
        row = measured(VARIANTS[name], given.seed)
        print(key, json.dumps(row), flush=True)
        held = (json.loads(RESULTS.read_text()) if RESULTS.exists() else {}) | {key: row}
        RESULTS.write_text(json.dumps(held, indent=1) + "\n")


def measured(changes: list[str], seed: int) -> dict[str, Any]:
    """One student: trained on scenes drawn once, measured as the demo measures."""
    sizes, images = demo.Sizes(), OUT / f"scenes-{seed}"
    if not images.exists():
        scenes.write(images.with_suffix(".part"), sizes.train, seed=seed)
        images.with_suffix(".part").rename(images)
    shutil.rmtree(OUT / "run", ignore_errors=True)
    recipe = load(demo.RECIPE, [f"out={OUT / 'run'}", f"seed={seed}", f"data.train.0={images}", *changes])
    began = time.process_time()
    folder = train(recipe)
    spent = time.process_time() - began
    students = {"student": demo.student_of(folder)}
    teachers = teachers_at(recipe, seed, sizes)
    scores = teachers | demo.evaluate(students, seed, sizes)
    own = {axis: round(value, 4) for axis, value in scores["student"].items()}
    return {
        "changes": changes, "cpu_seconds": round(spent), "scores": own,
        "gain": {axis: round(value, 2) for axis, value in demo.gains(scores).items()},
    }  # fmt: skip


def teachers_at(recipe: Any, seed: int, sizes: demo.Sizes) -> dict[str, demo.Scores]:
    """Measured once per seed."""
    kept = OUT / f"teachers-{seed}.json"
    if not kept.exists():
        kept.write_text(json.dumps(demo.evaluate(demo.teachers_of(recipe), seed, sizes)))
    return json.loads(kept.read_text())


if __name__ == "__main__":
    main()
