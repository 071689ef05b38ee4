"""A Launch section as an sbatch script, by submitit."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

from unicscale.errors import RecipeError
from unicscale.ranks.slurm import parse_duration
from unicscale.recipe.sections import Launch

EMPTY = "# --- launch.setup is empty: modules, networks, containers, data on local disks; docs/launch.md has the lines"
CORES = 8  # of a rank with a GPU, where nobody says how many: they decode images, and Slurm's own default is one


def executor(launch: Launch, submission: Path, name: str) -> SlurmExecutor:
    """submitit's executor for this request; its files go to `submission`/submitit."""
    try:
        made = SlurmExecutor(submission / "submitit", python=shlex.quote(sys.executable))
    except RuntimeError:
        raise RecipeError(
            "srun is not on this machine's PATH: submit from a login node, or run here with launch/local.py."
        ) from None
    made.update_parameters(**parameters(launch, submission, name))
    return made


def script(launch: Launch, submission: Path, name: str, runs: int = 1) -> str:
    """Exactly the file that sbatch would get; written on any machine, with Slurm or without."""
    folder = submission / "submitit"
    return _make_sbatch_string(
        command=f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}",
        folder=folder,
        map_count=runs if runs > 1 else None,
        **parameters(launch, submission, name),
    )


def parameters(launch: Launch, submission: Path, name: str) -> dict[str, Any]:
    """In submitit's words."""
    return {
        "job_name": name,
        "time": None,  # submitit would ask for five minutes; where we have no word for it, the partition has
        "nodes": launch.nodes,
        "ntasks_per_node": launch.tasks,
        "signal_delay_s": _warning(launch),
        "wckey": None,
        "stderr_to_stdout": True,
        "array_parallelism": launch.array or 256,
        "setup": before(launch, submission),
        "teardown": after(launch, submission),
        "srun_args": srun_options(launch),
        "additional_parameters": options(launch),
    }


def options(launch: Launch) -> dict[str, Any]:
    """Everything that becomes an #SBATCH line as it is written."""
    said: dict[str, Any] = {"requeue": True}
    if launch.gpus_per_node:
        gres = launch.gpus_as == "gres"
        said["gres" if gres else "gpus-per-node"] = f"gpu:{launch.gpus_per_node}" if gres else launch.gpus_per_node
    plain = ("time", "partition", "account", "qos", "constraint", "exclude", "comment")
    said |= {key: getattr(launch, key) for key in plain if getattr(launch, key) is not None}
    if launch.memory is not None:
        said["mem"] = launch.memory
    if launch.cpus_per_task is not None:
        said["cpus-per-task"] = launch.cpus_per_task
    for line in launch.extra:
        key, equals, value = line.removeprefix("#SBATCH").strip().lstrip("-").partition("=")
        if not equals:
            key, _, value = key.partition(" ")
        said[key.strip()] = value.strip() or True
    if launch.gpus_per_node and not said.keys() & {"cpus-per-task", "c", "cpus-per-gpu"}:
        said["cpus-per-task"] = CORES
    return said


def srun_options(launch: Launch) -> list[str]:
    """One rank's death ends the step; output is appended to over requeues."""
    # where sbatch was told --export=NONE, srun would hand on nothing of what the lines before it export
    said = ["--kill-on-bad-exit=1", "--open-mode=append", "--export=ALL"]
    # since 22.05 srun does not inherit this from sbatch, and ranks would share one core
    cores = options(launch).get("cpus-per-task")
    return [*said, f"--cpus-per-task={cores}"] if cores else said


def before(launch: Launch, submission: Path) -> list[str]:
    """Shell lines ahead of srun."""
    return [
        f"# unicscale: this job saves and goes back to the queue by itself, at most {launch.max_requeues} times; code,",
        f"# recipe and logs are in {submission}; scancel ends it for good",
        *[f"# {line}" for line in unsaid(launch)],
        "# --- launch.setup, as the recipe, the site and the command line say it" if launch.setup else EMPTY,
        *launch.setup,
        "# --- what every job of unicscale does",
        "set +e  # whatever those lines set: a run that stops to go on later ends with 75",
        "export UNICSCALE_SUBMISSION=slurm-$SLURM_JOB_ID  # one name for this script and every srun of it",
        f"export PYTHONPATH={shlex.quote(str(submission / 'code'))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1  # the folder the job starts in may hold newer code than the snapshot",
        "trap : TERM  # pre-emption: wait for the ranks, which are saving",
        "# srun never notices the death of a node's slurmstepd: this ends it when the run has been over for a while",
        f"{shlex.join([sys.executable, '-m', 'unicscale_launch.guard', str(submission / 'runs.txt')])} $$ &",
    ]


def after(launch: Launch, submission: Path) -> list[str]:
    """Shell lines behind srun: whether the job goes to the queue again."""
    command = [sys.executable, "-m", "unicscale_launch.after", str(submission / "runs.txt")]
    return [
        "code=$?  # 75: saved, not done",
        f"{shlex.join(command)} $code --max-requeues {launch.max_requeues}",
        "exit $code",
    ]


def unsaid(launch: Launch) -> list[str]:
    """What nobody has said of this job, and what happens instead: for the batch script and for those who submit it."""
    asked, found = options(launch), []
    if not asked.keys() & {"time", "t"}:
        found.append("no launch.time: the job gets the time limit that its partition has by default")
    if asked.get("cpus-per-task") == CORES and launch.cpus_per_task is None:
        found.append(f"no launch.cpus_per_task: {CORES} cores are asked for each rank, which decode its images")
    return found


def _warning(launch: Launch) -> int:
    if launch.time is None:
        return launch.warn_seconds
    return min(launch.warn_seconds, max(10, int(parse_duration(launch.time) // 4)))
