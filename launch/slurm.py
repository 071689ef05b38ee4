"""`python launch/slurm.py RECIPE`: check, snapshot, submit; then walk away."""

from __future__ import annotations

import os
import runpy
import sys

if __name__ == "__main__" and not __package__:  # run as a file: go on as the package that is installed
    if not sys.flags.safe_path:  # else the first entry is not this folder
        sys.path.pop(0)
    runpy.run_module("unicscale_launch.slurm", run_name="__main__", alter_sys=True)
    sys.exit()

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated

import typer

from unicscale.recipe.sections import Launch

from . import snapshot
from .chain import awaited, chained, linked
from .door import open_door
from .submission import Submission, Variant, plan_submission
from .sweep import variants

Text = str | None
Number = int | None


def says(key: str) -> str:
    """What the recipe's `launch:` says of a key."""
    return " ".join((Launch.model_fields[key].description or "").split()).replace("; null: ", "; if left out: ")


def slurm(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="For example recipes/unic_l.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[a.b=v]...", help="Changes to it.")] = None,
    nodes: Annotated[Number, typer.Option(help=says("nodes"))] = None,
    gpus_per_node: Annotated[Number, typer.Option(help=says("gpus_per_node"))] = None,
    tasks_per_node: Annotated[Number, typer.Option(help="Ranks per node; one per GPU if left out.")] = None,
    cpus_per_task: Annotated[Number, typer.Option(help="CPU cores of a rank; 8 for a GPU job if left out.")] = None,
    memory: Annotated[Text, typer.Option(help="Per node: 200G.")] = None,
    time: Annotated[Text, typer.Option(help="24:00:00 or 2-00:00:00; the partition's own if left out.")] = None,
    partition: Annotated[Text, typer.Option("--partition", "-p", help=says("partition"))] = None,
    account: Annotated[Text, typer.Option("--account", "-A", help=says("account"))] = None,
    qos: Annotated[Text, typer.Option(help=says("qos"))] = None,
    gpu_gib: Annotated[float | None, typer.Option(help="Memory of one GPU, for the check.")] = None,
    constraint: Annotated[Text, typer.Option("--constraint", "-C", help=says("constraint"))] = None,
    exclude: Annotated[Text, typer.Option(help="Nodes to avoid.")] = None,
    comment: Annotated[Text, typer.Option(help=says("comment"))] = None,
    array: Annotated[Number, typer.Option(help="Of a sweep: runs at the same time.")] = None,
    extra: Annotated[list[str] | None, typer.Option(help='Further: --extra="--mail-type=END".')] = None,
    site: Annotated[Text, typer.Option(help="A preset from launch/sites or ~/.config/unicscale/sites.")] = None,
    max_requeues: Annotated[Number, typer.Option(help=says("max_requeues"))] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V,V,...", help="One run per value, as an array; repeatable. Of a folder: bare."),
    ] = None,
    chain: Annotated[
        bool, typer.Option("--chain", help="Several recipes: each begins when the one before it is finished.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over; an old run is set aside, not deleted.")] = False,
    skip_checks: Annotated[bool, typer.Option("--skip-checks", help="Paths exist on the nodes only.")] = False,
    print_sbatch: Annotated[bool, typer.Option("--print-sbatch", help="Print the sbatch file and leave.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do all but write and submit; show what would be.")
    ] = False,
) -> None:
    """Submit a recipe to Slurm. The job requeues itself until it is done; the same command continues a run.

    RECIPE may be a folder: each recipe in it becomes one run of an array. With --chain, further recipes may follow it.
    """
    options = {name: value for name, value in locals().items() if name in Launch.model_fields}
    if chain:
        found = chained(recipe, overrides or [], sweep or [])
        links = [
            replace(plan_submission([Variant(one)], options, fresh=fresh), awaited=awaited(one, found[:number]))
            for number, one in enumerate(found)
        ]
    else:
        links = [plan_submission(variants(recipe, overrides or [], sweep or []), options, fresh=fresh)]
    if print_sbatch:
        print("\n".join(link.script() for link in placed(links)))
        return
    for submission in links:  # all are looked at before the first is submitted
        for line in submission.check(paths=not skip_checks):
            print(line)
    if dry_run:
        for submission in placed(links):
            show(submission)
        return
    job = ""
    for submission in links:
        behind = linked(submission, job) if job else submission
        job = behind.submit()
        print(next_steps(behind, job))
    if chain:
        print("each begins when the one before it has ended with 0; after a stop or a failure the same command goes on")


def placed(links: Sequence[Submission]) -> list[Submission]:
    """As they would be submitted, where no job has a number yet."""
    first, *others = links
    return [first, *(linked(link, f"JOB_OF_{before.name}") for before, link in pairwise(links))] if others else [first]


def show(submission: Submission) -> None:
    """All that a submission would do."""
    print(f"\nwould write  {submission.folder}/{{code,submitit,runs.txt}} and the recipes")
    for run in submission.runs:
        print(f"             {submission.recipe_file(run)}  ->  {run.recipe.out}")
        for file in snapshot.adapters(run.recipe):
            print(f"             {submission.folder}/adapters/  a copy of {file}")
    print(f"would run    sbatch {submission.folder}/submitit/submission_file_*.sh:\n")
    print(submission.script())
    print(f"each rank    {submission.call(submission.runs[0])}")


def next_steps(submission: Submission, job: str) -> str:
    """What a person wants to know after pressing enter."""
    runs = [run.recipe.out for run in submission.runs]
    above = os.path.relpath(os.path.commonpath(list(map(os.path.abspath, runs))))
    first = runs[0]
    each = f" (and {len(runs) - 1} more runs)" if len(runs) > 1 else ""
    return (
        f"job {job}: {first}{each}\n"
        f"  logs   {first}/logs/rank-0000.log ...\n"
        f"  batch  {submission.folder}/submitit/{job}*_log.out\n"
        f"next:\n"
        f"  unicscale jobs {' '.join(runs[:3])}{' ...' * (len(runs) > 3)}\n"
        f"  unicscale logs {first} -f\n"
        f"  unicscale stop {first}" + (f"\n  unicscale report {above}" if len(runs) > 1 else "")
    )


if __name__ == "__main__":
    open_door(slurm)
