"""One GPU, nine minutes: the tests that want one, then how fast each recipe's step is beside this device's own ceiling.

    python benchmarks/gpu.py [--minutes 9] [--device cuda] [--machine "one H200"]

Random weights, pixels that already lie on the device, the loop of train.py. Between log steps any wait of the host for
the device is an error. The ceiling is the best of a few large bf16 products in the same process. `--device cpu` tries
the script itself: the same rows at a size that a host can take, whose numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from unicscale.assembly import assemble
from unicscale.contracts import Batch, Progress
from unicscale.cost import costs
from unicscale.cost.limit import ceiling
from unicscale.dry_run.rehearsal import Heard, Synthetic, Unsaved, shortened
from unicscale.ranks.watchdog import Watchdog
from unicscale.ranks.world import joined
from unicscale.recipe import Recipe, load
from unicscale.recipe.sections import Track
from unicscale.run.launches import owned_run
from unicscale.run.metrics import Log
from unicscale.run.phases import Phases
from unicscale.train import loop

ROOT = Path(__file__).resolve().parent.parent
ROWS = [("unic_b", 0, 128), ("unic_l", 0, 128), ("unic_l", 1, 64)]  # recipe, stage, images on the one GPU
STEPS, EVERY = 24, 6  # of which the first log step, with what is compiled in it, is left out
SHAPE = {"embed_dim": 64, "depth": 2, "num_heads": 2}
ON_HOST = ["student.options={depth: 2, embed_dim: 64, num_heads: 2}", "engine.compile=false", "stages.0.size=112"]
INSIDE = ("teachers", "student", "backward", "optimizer")  # phases in which the host must not wait


class Still(Synthetic):
    """One batch per size that lies on the device: nothing is decoded, drawn or sent."""

    def start(self, after: Progress, size: Callable[[int], int], steps: int) -> Iterator[Batch]:
        """The same batch in every step."""
        held = next(super().start(after, size, 1))
        for _ in range(steps):
            yield held


class Strict(Phases):
    """Makes a wait of the host an error inside the parts of a step, once everything is compiled."""

    def __call__(self, name: str, step: int | None = None) -> None:
        super().__call__(name, step)
        if self.gpu:
            strict = name in INSIDE and self.step >= EVERY
            torch.cuda.set_sync_debug_mode("error" if strict else "default")


def recipe_of(name: str, stage: int, images: int, device: str) -> Recipe:
    """One stage of a recipe, that many images on one GPU."""
    os.environ.setdefault("IMAGENET", "/nowhere")
    changes = [f"engine.device={device}", f"dry_run.steps={STEPS}", f"dry_run.images_per_step={images}"]
    changes += ON_HOST if device == "cpu" else []
    recipe = load(ROOT / "recipes" / f"{name}.yaml", changes)
    if device == "cpu":
        tiny = {n: {**SHAPE, "patch_size": 16, "img_size": 112} for n in recipe.teachers}
        text = {"context_length": 16, "vocab_size": 99, "width": 32, "heads": 2, "layers": 2}
        more = {"dinov2": {"patch_size": 14, "ffn": "swiglu"}}
        more |= {"metaclip": {"patch_size": 14, "clip_embed_dim": 48, "text": text}}
        teachers = {n: t.model_copy(update={"size": tiny[n] | more.get(n, {})}) for n, t in recipe.teachers.items()}
        recipe = recipe.model_copy(update={"teachers": teachers})
    return recipe.model_copy(update={"stages": [recipe.stages[stage]]})


def measured(recipe: Recipe, top: float) -> dict[str, Any]:
    """Images per second, share of the ceiling, peak memory, and where a step's time goes."""
    with joined(recipe.engine) as world, TemporaryDirectory() as folder:
        begun = time.perf_counter()
        short = shortened(recipe, world, Path(folder) / "run")
        short = short.model_copy(update={"track": Track(every_steps=EVERY)})
        if world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with owned_run(short, world) as (run, short):
            heard = Heard()
            log = Log(run.metrics, [heard])
            parts = assemble(short, world, run, loader=Still(short, world), saver=Unsaved(), log=log)  # type: ignore
            watchdog = Watchdog(run.logs, rank=0, size=1, timeout=600)
            loop(parts, Strict(world.device, watchdog))
        records = [r for r in heard.records if "loss" in r]
        if world.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        memory = None if world.device.type == "cpu" else torch.cuda.get_device_properties(0).total_memory / 2**30
        per_image = costs(recipe, 1, memory).stages[0].total
        steady = [sum(v for k, v in r.items() if k.startswith("time/")) for r in records[1:]]
        step, images = statistics.median(steady), short.data.images_per_step
        return {
            "images_per_step": images,
            "images_per_second": images / step,
            "share_of_ceiling": images / step * per_image / top,
            "tflops": images / step * per_image / 1e12,
            "peak_gib": records[-1]["memory_gib"],
            "until_first_log": time.perf_counter() - begun - step * (STEPS - EVERY),
            "parts": {k: v for k, v in records[-1].items() if k.startswith("time/")},
            "loss": records[-1]["loss"],
        }


def main() -> int:
    """The tests, the ceiling, the rows: each is written as it comes, so that a cut-off script leaves something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--machine", default="")
    parser.add_argument("--no-tests", action="store_true", help="the rows alone")
    given = parser.parse_args()
    until = time.monotonic() + 60 * given.minutes
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here; `--device cpu` tries the script on the host.", file=sys.stderr)
        return 2
    device = torch.device(given.device)
    result: dict[str, Any] = {"date": date.today().isoformat(), "torch": torch.__version__, "rows": {}}
    result["machine"] = given.machine or (torch.cuda.get_device_name() if given.device == "cuda" else "the host")
    file = ROOT / "benchmarks" / "results" / f"gpu-{given.device}.json"

    def keep() -> None:
        if given.device == "cuda":  # the host's numbers mean nothing
            file.write_text(json.dumps(result, indent=1) + "\n")

    if not given.no_tests:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/gpu"]
        environment = os.environ | {"UNICSCALE_GPU_TESTS": given.device}
        left = max(60.0, (until - time.monotonic()) / 2)
        try:
            result["tests"] = subprocess.run(command, cwd=ROOT, env=environment, timeout=left).returncode
        except subprocess.TimeoutExpired:
            result["tests"] = f"not through after {left:.0f} s"
        keep()
        print(f"tests/gpu: {result['tests']}", flush=True)
    result["ceiling_tflops"] = ceiling(device, "bf16") / 1e12
    print(f"ceiling {result['ceiling_tflops']:.1f} TFLOP/s", flush=True)
    for name, stage, images in ROWS if given.device == "cuda" else [("unic_b", 0, 4), ("unic_l", 0, 4)]:
        if time.monotonic() > until - 45:
            result["rows"][f"{name}, stage {stage}"] = "no time left"
            continue
        try:
            row = measured(recipe_of(name, stage, images, given.device), result["ceiling_tflops"] * 1e12)
        except Exception as problem:  # one row that fails leaves the others
            row = {"failed": f"{type(problem).__name__}: {problem}"[:2000]}
        result["rows"][f"{name}, stage {stage}"] = row
        keep()
        print(f"{name}, stage {stage}: {json.dumps(row)}", flush=True)
    return int(result.get("tests", 0) != 0 or any("failed" in row for row in result["rows"].values()))


if __name__ == "__main__":
    sys.exit(main())
