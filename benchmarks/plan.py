"""What `unicscale plan` says beside what is counted and measured: FLOPs, memory per rank, and the dry runs' peaks.

    python benchmarks/plan.py [--skip memory] [--machine "2 cores, no GPU"]

FLOPs: forward and backward of the real recipes on meta, under torch's counter. Memory per rank: the bytes that a rank
of 1, 2 and 4 holds of weights, moments and teachers. Peaks come from results/dry_runs.json, which dry_runs.py writes.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.kit import contract, ranks
from unicscale.cost import costs, memory
from unicscale.cost.flops import counted
from unicscale.cost.shapes import Shapes
from unicscale.engine import build_engine, piece_of
from unicscale.ranks.world import World
from unicscale.recipe import Recipe, load
from unicscale.student.model import build_student
from unicscale.teacher.targets import Teachers, input_size

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
GIB = 2**30
SHAPE = {"embed_dim": 768, "depth": 12, "num_heads": 12, "patch_size": 16, "img_size": 224}
MEDIUM = {
    "schema": 1,
    "out": "nowhere",
    "data": {"train": ["nowhere"], "images_per_step": 8},
    "student": {"arch": "vit_small", "patch": 16},
    "teachers": {"a": {"plugin": "dino", "weights": "random", "size": SHAPE, "shard": "full"}},
    "projector": {"kind": "ladder", "hidden": 384, "last_hidden": 1536},
    "stages": [{"name": "one", "size": 224, "steps": 1, "lr": {"peak": 1e-4}}],
}


def main() -> None:
    """Three tables, Markdown, and one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip", nargs="*", default=[], choices=["flops", "memory", "peaks"])
    parser.add_argument("--machine", default="2 cores, no GPU")
    given = parser.parse_args()
    file = RESULTS / "plan.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if "flops" not in given.skip:
        results["flops"] = [row for name in ("unic_s", "unic_b", "unic_l") for row in flops(name)]
        table("recipe and part | planned GFLOP | counted | off %", results["flops"])
    if "memory" not in given.skip:
        results["memory"] = [row for size in (1, 2, 4) for row in ranks.run(size, contract.in_group, held)[0]]
        table(
            "engine and ranks | MiB of weights and moments | planned | MiB of teacher | × ranks / whole",
            results["memory"],
        )
    if "peaks" not in given.skip:
        results["peaks"] = peaks(json.loads((RESULTS / "dry_runs.json").read_text()))
        table("dry run | planned GiB per rank | measured peak less the program | off %", results["peaks"])
    results |= {"machine": given.machine, "date": date.today().isoformat(), "torch": torch.__version__}
    file.write_text(json.dumps(results, indent=1) + "\n")


def flops(name: str) -> list[list[Any]]:
    """One image of every stage: by formula, and by torch's counter on meta."""
    recipe = load(ROOT / "recipes" / f"{name}.yaml", unset="keep")
    rows, shapes = [], Shapes.of(recipe)
    dims = {teacher: one.widths for teacher, one in shapes.teachers.items()}
    for stage in costs(recipe, 8, 80.0).stages:
        student = build_student(recipe.student, recipe.projector, dims, stage.size).eval()  # no path is dropped
        with FlopCounterMode(display=False) as counter:
            answers = student(torch.zeros(1, 3, stage.size, stage.size, device="meta")).answers
            sum(token.sum() for answer in answers.values() for token in answer).backward()
        parts = {"student and projector": counter.get_total_flops()}
        for teacher, one in shapes.teachers.items():
            side = input_size(one.spec, recipe.teachers[teacher].resolution, stage.size, shapes.trunk.patch, teacher)
            parts[f"teacher {teacher}"] = counted(one, torch.empty(1, 3, side, side, device="meta"))
        planned = stage.flops | {"student and projector": stage.flops["student"] + stage.flops["projector"]}
        parts["total"], planned["total"] = sum(parts.values()), stage.total
        rows += [row(f"{name}, {stage.size} px, {part}", planned[part] / 1e9, n / 1e9) for part, n in parts.items()]
    return rows


def row(name: str, planned: float, found: float) -> list[Any]:
    """Both, and how far the plan is off."""
    return [name, round(planned, 2), round(found, 2), round(100 * (planned / found - 1), 2)]


def held(world: World) -> list[list[Any]]:
    """What the fullest rank keeps between steps, and that times the ranks over the whole."""
    found = []
    for kind in ("fsdp2", "zero3"):
        recipe = Recipe.model_validate(MEDIUM | {"engine": {"kind": kind, "dtype": "bf16", "device": "cpu"}})
        student = build_student(recipe.student, recipe.projector, Teachers.widths_of(recipe.teachers), 224)
        engine = build_engine(recipe.engine, student, seed=0, world=world, micro_batches=1, size=224)
        teachers = Teachers.build(
            recipe.teachers, recipe.standardize,
            student_patch=16, engine=engine, engine_section=recipe.engine, world=world,
        )  # fmt: skip
        own = sum(bytes_of(piece.flat) for piece in engine.pieces().values())
        beside = sum(bytes_of(piece_of(p).flat) for one in teachers.frozen.values() for p in one.parameters())
        parts = memory.weights(Shapes.of(recipe), recipe.engine, world.size, None, accumulates=False)
        shapes = Shapes.of(recipe)
        whole = 3 * 4 * sum(p.numel() for m in (shapes.trunk, shapes.projector) for p in m.parameters())
        whole += sum(shapes.teacher_bytes.values())
        most = max(world.gather_objects(own + beside))
        planned = parts["weights, fp32"] + parts["optimiser"]
        name = f"{kind}, {world.size}"
        found.append([name, mib(own), mib(planned), mib(beside), round(most * world.size / whole, 3)])
    return found


def bytes_of(tensor: torch.Tensor) -> int:
    """Of a rank's own range."""
    return tensor.numel() * tensor.element_size()


def mib(number: float) -> float:
    """Bytes in MiB."""
    return round(number / 2**20, 1)


def peaks(runs: dict[str, Any]) -> list[list[Any]]:
    """From each dry run's page: the planned total of its largest stage, and the fullest rank's peak."""
    rows = []
    for name, run in runs.items():
        lines = {line[:40].strip(): line[40:].split() for line in run["page"] if line.startswith("  planned: total")}
        said = next((line for line in run["page"] if line.startswith("GiB at the peak, rank by rank:")), None)
        if said is None:
            continue
        each, _, program = said.partition(":")[2].partition("; the program without models:")
        measured = max(float(number) for number in each.split(",")) - float(program)
        rows.append(row(name, max(map(float, lines["planned: total"])), measured))
    return rows


def table(heads: str, rows: list[list[Any]]) -> None:
    """Markdown."""
    print(f"\n| {heads} |\n|" + "---|" * (heads.count("|") + 1))
    for cells in rows:
        print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
