"""What exports cost and how exact they are.

python benchmarks/exports.py memory     four real ranks under FSDP2 and ZeRO-3, a synthetic folder of 64: peak memory
python benchmarks/exports.py table      target × student × size -> largest difference, each in a fresh process
python benchmarks/exports.py table --seconds 120    stops after so long; the next call goes on
python benchmarks/exports.py page       writes the table into docs/export.md
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from tests.kit import recipe, sharded, students  # noqa: E402
from tests.kit.memory import rising  # noqa: E402
from unicscale import recipe as recipes  # noqa: E402
from unicscale.checkpoint import Saver  # noqa: E402
from unicscale.contracts import Progress  # noqa: E402
from unicscale.engine import build_engine  # noqa: E402
from unicscale.errors import UserError  # noqa: E402
from unicscale.interop import exporting  # noqa: E402
from unicscale.interop.exports import TARGETS, target_of  # noqa: E402
from unicscale.interop.exports.target import Wishes  # noqa: E402
from unicscale.interop.loading import read  # noqa: E402
from unicscale.interop.origin import Origin  # noqa: E402
from unicscale.ranks.world import World  # noqa: E402
from unicscale.student.model import build_student  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "exports.json"
PAGE, MARKS = ROOT / "docs" / "export.md", ("<!-- exact: begin -->", "<!-- exact: end -->")
Row = dict[str, Any]


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "table", "page"))
    parser.add_argument("--arch", default="vit_base", help="of the student whose memory is measured")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="ask nothing more after so long")
    given = parser.parse_args()
    if given.what == "page":
        before, rest = PAGE.read_text().split(MARKS[0])
        PAGE.write_text(f"{before}{MARKS[0]}\n{page(held()['differences'])}{MARKS[1]}{rest.split(MARKS[1])[1]}")
    elif given.what == "memory":
        keep("memory", memory(given.arch))
    else:
        left = table(given.seconds)
        print(f"{left} left")
        raise SystemExit(75 if left else 0)


def held() -> dict[str, Any]:
    """What was measured so far."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"memory": [], "differences": []}


def keep(what: str, rows: list[Row]) -> None:
    """Beside the rest."""
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "date": time.strftime("%Y-%m-%d")}
    RESULTS.write_text(json.dumps(held() | {what: rows, "machine": machine}, indent=1, ensure_ascii=False) + "\n")


# --- memory ---------------------------------------------------------------------------------------


def memory(arch: str) -> list[Row]:
    """Peak memory of one process that exports what many ranks have left, in copies of the student's weights."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="exports-") as place:
        folder = Path(place)
        images = recipe.write_images(folder / "images", 8)
        for kind in ("fsdp2", "zero3"):
            path = recipe.write_recipe(
                folder / f"{kind}.yaml", images, folder / kind, steps=8, engine__kind=kind, data__images_per_step=4,
                student={"arch": arch, "patch": 8}, engine__timeout_seconds=600,
            )  # fmt: skip
            command = [sys.executable, "-m", "unicscale_launch.local", str(path), "--ranks", "4"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
            rows += [
                of_a_process(f"4 ranks, {kind}", folder / kind, target) for target in (None, "safetensors", "timm")
            ]
        last = sorted((folder / "fsdp2" / "checkpoints").glob("step-*"))[-1]
        sharded.as_of(64, last, folder / "many")
        rows += [of_a_process("64 ranks, synthetic", folder / "many", target) for target in (None, "timm")]
    return rows


def of_a_process(what: str, run: Path, target: str | None) -> Row:
    """In a process that has done nothing else."""
    script = "import json, sys; from pathlib import Path; from benchmarks.exports import peak\n"
    script += f"print(json.dumps(peak(Path({str(run)!r}), {target!r})))"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    row = {"run": what, "target": target or "load", **json.loads(ran.stdout.splitlines()[-1])}
    print(json.dumps(row), flush=True)
    return row


def peak(run: Path, target: str | None = None) -> Row:
    """Of this process: how far its memory rose while it read the student and, where asked, exported it."""
    torch.set_num_threads(1)
    if target:  # what its library costs is no copy of anything
        __import__({"timm": "timm", "safetensors": "safetensors", "hf": "transformers"}[target])
    with rising() as found:
        opened = read(run, projectors=False)
        if target:
            exporting.export(opened, Origin("run"), target_of(target), run.parent / f"{run.name}-{target}", Wishes())
    copy, grown = sum(t.numel() * t.element_size() for t in opened.student.state_dict().values()), found[0]
    return {"copy_mib": round(copy / 2**20, 1), "peak_mib": round(grown / 2**20, 1), "copies": round(grown / copy, 2)}


def untrained(folder: Path, arch: str) -> Path:
    """The checkpoint of a run that took no step: a student of that size, its moments, no teachers' numbers."""
    folder.mkdir(parents=True)
    path = recipe.write_recipe(folder / "r.yaml", folder, folder, student={"arch": arch, "patch": 8}, save__keep=1)
    plan, world = recipes.load(path), World()
    student = build_student(plan.student, plan.projector, {"one": 32, "two": 32}, 32)
    names = [name for name, _ in student.named_parameters()]
    engine = build_engine(plan.engine, student, seed=0, world=world, micro_batches=1, size=32)
    (folder / "checkpoints").mkdir()
    saver = Saver(folder / "checkpoints", plan, world, parameters=names)
    saver.save(Progress(0, 1, 8), engine, {}, wait=True)
    return folder / "checkpoints" / "step-00000001"


# --- how exact ------------------------------------------------------------------------------------


def table(seconds: float) -> int:
    """Every target and kind of student that has no row yet; how many are left."""
    rows: list[Row] = held()["differences"]
    known, began = {(row["target"], row["student"]) for row in rows}, time.monotonic()
    first = ("plain", "registers", "dinov3", "convnext v2")  # where time is short, these say most
    kinds = sorted([*students.KINDS, *students.OTHERS], key=lambda kind: kind not in first)
    left = [(target, kind) for kind in kinds for target in TARGETS if (target, kind) not in known]
    while left and time.monotonic() - began < seconds:
        target, kind = left.pop(0)
        rows.append({"target": target, "student": kind} | difference(target, kind))
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
        keep("differences", rows)
    return len(left)


def difference(target: str, kind: str) -> Row:
    """Exported, read by the target's library in a fresh process, held against the student."""
    opened = students.student(kind) if kind in students.KINDS else students.other(kind)
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = exporting.export(opened, Origin(kind), target_of(target), Path(folder, "out"), Wishes())
        except UserError as problem:
            return {"refused": str(problem).splitlines()[0].removeprefix(f"--to {target}: ")}
    return {"sizes": {str(d.size): [d.from_student, d.by_its_own_positions] for d in found}}


def page(rows: list[Row]) -> str:
    """A line for each kind of student, a column for each target: own size, then another."""
    found = {(row["student"], row["target"]): row for row in rows}
    kinds = list(dict.fromkeys(row["student"] for row in rows))
    lines = [f"| student | {' | '.join(f'`{name}`' for name in TARGETS)} |", "|" + "---|" * (len(TARGETS) + 1)]
    for kind in kinds:
        cells = [_cell(found.get((kind, target), {})) for target in TARGETS]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: Row) -> str:
    if "sizes" not in row:
        return "refused" if row else ""
    said = [f"{plain:.0e}" if plain <= 1e-4 else f"({own:.0e})" for plain, own in row["sizes"].values()]
    return ", ".join(said).replace("0e+00", "0")


if __name__ == "__main__":
    main()
