"""`launch:`, what the cluster is asked for."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from unicscale.recipe.sections.base import Count, Positive, Section, one_line


class Launch(Section):
    """What the cluster is asked for; the command line and site presets may say otherwise."""

    nodes: Count = 1
    """Machines of the job."""
    gpus_per_node: Annotated[int, Field(ge=0)] = 1
    """GPUs on each machine; 0 asks for a CPU job."""
    tasks_per_node: Count | None = None
    """Ranks on each machine; null: one per GPU, or one."""
    cpus_per_task: Count | None = None
    """CPU cores of each rank; null: 8 per rank of a GPU job, the cluster's default of a CPU job."""
    memory: str | None = None
    """Host memory of each machine, as Slurm writes it: 200G, or 0 for all; null: the partition's default."""
    time: str | None = None
    """Time limit of one job: minutes, HH:MM:SS or D-HH:MM:SS, in quotes; null: the partition's default. The run goes
    on in the next job.
    """
    partition: str | None = None
    """Slurm's partition; null: the cluster's default."""
    account: str | None = None
    """The account that is charged; null: your default."""
    qos: str | None = None
    """Slurm's quality of service; null: your default."""
    constraint: str | None = None
    """Features that nodes must have, as Slurm writes them."""
    exclude: str | None = None
    """Nodes to avoid, as Slurm writes them: n[13-15]."""
    comment: str | None = None
    """A remark that Slurm keeps with the job."""
    array: Count | None = None
    """Of a sweep: how many of its runs may run at the same time; null: as many as fit."""
    site: str | None = None
    """A preset for your cluster: launch/sites/NAME.yaml or ~/.config/unicscale/sites/NAME.yaml."""
    gpu_gib: Positive = 80.0
    """Memory of one GPU in GiB: a plan that does not fit is refused before it queues."""
    gpus_as: Literal["gpus-per-node", "gres"] = "gpus-per-node"
    """What this cluster calls GPUs in sbatch: `gpus-per-node`, or `gres`."""
    warn_seconds: Count = 120
    """Seconds before the time limit at which Slurm tells the run to save."""
    max_requeues: Annotated[int, Field(ge=0)] = 50
    """How often a job may go back to the queue by itself."""
    setup: list[str] = []
    """Shell lines that run before the ranks start, such as `module load cuda`."""
    extra: list[str] = []
    """Further sbatch options, as written: `--mail-type=END`."""

    @field_validator("time", "memory", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    @field_validator("time")
    @classmethod
    def _a_duration(cls, value: str | None) -> str | None:
        shape = r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2}"
        if value is not None and not re.fullmatch(shape, value):
            raise ValueError(f"'{value}' is no time limit: minutes, HH:MM:SS or D-HH:MM:SS (in quotes)")
        return value

    @field_validator("memory")
    @classmethod
    def _a_size(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\d+[KMGT]?B?", value):
            raise ValueError(f"'{value}' is no amount of memory: 200G, 800000M, or 0 for all of the node")
        return value

    @field_validator("partition", "account", "qos", "constraint", "exclude", "comment", "site")
    @classmethod
    def _one_line(cls, value: str | None) -> str | None:
        return None if value is None else one_line(value.strip())

    @field_validator("extra")
    @classmethod
    def _options(cls, value: list[str]) -> list[str]:
        value = [one_line(line.strip()) for line in value]
        for line in value:
            if not line.removeprefix("#SBATCH").strip().startswith("-"):
                raise ValueError(f"'{line}' is no sbatch option: write it as '--mail-type=END'")
        return value

    @property
    def tasks(self) -> int:
        """Ranks on each node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        """Ranks altogether."""
        return self.nodes * self.tasks
